// What the API knows of the schema, read once and again when the database says that it changed.

import { createPostgresConnection } from "@supabase/lite/postgres";
import { driverOptions, givePool } from "./database.mjs";
import { ConnectionError } from "./errors.mjs";

const FUNCTIONS = `
select
    p.proname as name,
    format('%I.%I', n.nspname, p.proname) as qualified_name,
    coalesce(p.proargnames[1:p.pronargs], '{}') as argument_names,
    (select coalesce(array_agg(format_type(type, null) order by place), '{}')
        from unnest(p.proargtypes) with ordinality as argument (type, place)) as argument_types,
    p.pronargs - p.pronargdefaults as required,
    p.provariadic <> 0 as variadic,
    p.proretset as returns_set,
    p.prorettype = 'void'::regtype as returns_void,
    r.typtype in ('c', 'p') and p.prorettype <> 'void'::regtype
        or coalesce('{o,b,t}' && p.proargmodes::text[], false) as returns_row,
    p.provolatile = 'v' as volatile,
    coalesce(p.proconfig, '{}') as settings,
    -- With OUT arguments the names of IN arguments are not the first ones: such a function is left to lite.
    p.proallargtypes is not null and p.proargmodes[1:p.pronargs] <> array_fill('i'::"char", array[p.pronargs::int])
        as unusual
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_type as r on r.oid = p.prorettype
where n.nspname = any ($1) and p.prokind = 'f'`;

const ROLE_SETTINGS = `
select rolname as role, coalesce(rolconfig, '{}') as settings
from pg_roles where rolname in ('anon', 'authenticated', 'service_role')`;

/** `name=value` texts of the catalog as an object. */
const parseSettings = (texts) =>
  Object.fromEntries(texts.map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]));

/** Connected as the owner of the project's tables, to whom nothing of them is hidden. */
export class Catalog {
  #connection;
  #pool;
  #schemas;
  #known = {};

  constructor(url, schemas) {
    this.#connection = createPostgresConnection({ url, postgresOptions: driverOptions({}, "runhold-api catalog") });
    this.#pool = givePool(this.#connection, 1); // listening takes another connection, of its own
    this.#schemas = schemas;
  }

  /** Start to hear `notify pgrst, 'reload schema'`, which event triggers send after every DDL statement. */
  async listen() {
    const forget = () => this.forget();
    // Also after a reconnect: a notification may have been missed.
    await this.#connection.driver.listen("pgrst", forget, forget);
  }

  /** Read everything anew when it is next asked for. */
  forget() {
    this.#known = {};
  }

  /** Lite's picture of tables, columns, keys and functions. */
  introspection() {
    return this.#once("introspection", async () => {
      const found = await this.#connection.introspect({ useCache: false });
      // Without a database lite finds an empty schema, and would answer 404 to all until the schema changes.
      if (!found.timezones) throw new ConnectionError("PGRST002", new Error("The schema could not be read."));
      return found;
    });
  }

  /** The functions of the exposed schemas of this name; an array of overloads. */
  async functions(name) {
    const functions = await this.#once("functions", async () => {
      const rows = await this.#pool.unsafe(FUNCTIONS, [this.#schemas]);
      const byName = new Map();
      for (const row of rows) {
        const known = { ...row, settings: parseSettings(row.settings) };
        byName.set(row.name, [...(byName.get(row.name) ?? []), known]);
      }
      return byName;
    });
    return functions.get(name) ?? [];
  }

  /** Types of the columns of an exposed table by name; empty for what is not known. */
  async columnTypes(table) {
    const { columns } = await this.introspection();
    return Object.fromEntries(
      columns
        .filter((column) => column.table === table && this.#schemas.includes(column.schema))
        .map((column) => [column.name, column.type]),
    );
  }

  /** Settings that `alter role … set` gave the role, such as its statement_timeout. */
  async roleSettings(role) {
    const settings = await this.#once("roles", async () => {
      const rows = await this.#pool.unsafe(ROLE_SETTINGS);
      return new Map(rows.map((row) => [row.role, parseSettings(row.settings)]));
    });
    return settings.get(role) ?? {};
  }

  async close() {
    await this.#connection.close();
  }

  /** The value, read once however many ask at the same time; a failed reading is not remembered. */
  #once(key, read) {
    const known = this.#known;
    known[key] ??= read().catch((error) => {
      delete known[key];
      throw error;
    });
    return known[key];
  }
}
