// What the API knows of the schema, read once and again when the database says that it changed.

import { createPostgresConnection } from "@supabase/lite/postgres";
import { driverOptions, givePool } from "./database.mjs";
import { ConnectionError } from "./errors.mjs";

const FUNCTIONS = `
select
    n.nspname as schema,
    p.proname as name,
    format('%I.%I', n.nspname, p.proname) as qualified_name,
    coalesce(p.proargnames[1:p.pronargs], '{}') as argument_names,
    (select coalesce(array_agg(format_type(type, null) order by place), '{}')
        from unnest(p.proargtypes) with ordinality as argument (type, place)) as argument_types,
    array(select format_type(oid, null) from pg_type where oid = any (p.proargtypes) and typtype = 'c') as row_types,
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

// Lite's picture of a foreign key leaves out which schema it refers to.
const LEADING_AWAY = `
select o.nspname as schema, c.relname as table, k.conname as name
from pg_constraint as k
join pg_class as c on c.oid = k.conrelid
join pg_namespace as o on o.oid = c.relnamespace
join pg_class as r on r.oid = k.confrelid
where k.contype = 'f' and r.relnamespace <> c.relnamespace`;

const ROLE_SETTINGS = `
select rolname as role, coalesce(rolconfig, '{}') as settings
from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'authenticator')`;

const API_SETTING = /^pgrst\.(db_)?/;
const IN_SCHEMAS = ["tables", "views", "columns", "indexes", "primary_keys", "triggers", "functions"];

/** `name=value` texts of the catalog as an object. */
const parseSettings = (texts) =>
  Object.fromEntries(texts.map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]));

/** Connected as the owner of the project's tables, to whom nothing of them is hidden. */
export class Catalog {
  #connection;
  #pool;
  #configured;
  #known = {};

  /** `configured`: the section `[api]` of config.toml: `{ schemas, extra_search_path, max_rows }`. */
  constructor(url, configured) {
    this.#connection = createPostgresConnection({ url, postgresOptions: driverOptions({}, "runhold-api catalog") });
    this.#pool = givePool(this.#connection, 1); // listening takes another connection, of its own
    this.#configured = configured;
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

  /**
   * What the API is configured to do: as config.toml says, and over it what `alter role authenticator set pgrst.…` says.
   * Names are those of config.toml or, where it has none, of PostgREST.
   */
  settings() {
    return this.#once("settings", async () => {
      const own = Object.fromEntries(
        Object.entries(await this.roleSettings("authenticator"))
          .filter(([name]) => API_SETTING.test(name))
          .map(([name, value]) => [name.replace("pgrst.", ""), value]),
      );
      const names = (text) => text.split(",").map((name) => name.trim());
      return {
        ...this.#configured,
        ...(own.db_schemas ? { schemas: names(own.db_schemas) } : {}),
        ...(own.db_extra_search_path ? { extra_search_path: names(own.db_extra_search_path) } : {}),
        ...(own.db_max_rows ? { max_rows: Number(own.db_max_rows) } : {}),
        aggregates_enabled: own.db_aggregates_enabled === "true",
        plan_enabled: own.db_plan_enabled === "true",
        db_pre_request: own.db_pre_request || null,
        db_tx_end: own.db_tx_end ?? "commit",
      };
    });
  }

  /**
   * Lite's picture of one exposed schema, by default the first: tables, columns, keys and functions. Lite finds tables by
   * their bare names, and PostgREST embeds within the schema of a request only; so nothing of other schemas is in it.
   */
  async introspection(schema) {
    const { schemas } = await this.settings();
    const shown = schemas.includes(schema) ? schema : schemas[0];
    return this.#once(`schema ${shown}`, async () => {
      const [whole, leadingAway] = await Promise.all([this.#whole(), this.#pool.unsafe(LEADING_AWAY)]);
      const away = new Set(leadingAway.map((key) => JSON.stringify([key.schema, key.table, key.name])));
      const staysWithin = (key) => !away.has(JSON.stringify([key.schema, key.table, key.foreign_key_name]));
      const within = (object) => object.schema === shown;
      return {
        ...whole,
        ...Object.fromEntries(IN_SCHEMAS.map((kind) => [kind, whole[kind].filter(within)])),
        foreign_keys: whole.foreign_keys.filter((key) => within(key) && staysWithin(key)),
        default_schema: shown,
      };
    });
  }

  #whole() {
    return this.#once("introspection", async () => {
      const found = await this.#connection.introspect({ useCache: false });
      // Without a database lite finds an empty schema, and would answer 404 to all until the schema changes.
      if (!found.timezones) throw new ConnectionError("PGRST002", new Error("The schema could not be read."));
      return found;
    });
  }

  /** The functions of this name in an exposed schema; an array of overloads. */
  async functions(name, schema) {
    const functions = await this.#once("functions", async () => {
      const rows = await this.#pool.unsafe(FUNCTIONS, [(await this.settings()).schemas]);
      const byName = new Map();
      for (const row of rows) {
        const known = { ...row, settings: parseSettings(row.settings) };
        const key = `${row.schema}.${row.name}`;
        byName.set(key, [...(byName.get(key) ?? []), known]);
      }
      return byName;
    });
    return functions.get(`${schema}.${name}`) ?? [];
  }

  /** Types of the columns of an exposed table by name; empty for what is not known. */
  async columnTypes(table, schema) {
    const { columns } = await this.introspection(schema);
    return Object.fromEntries(
      columns.filter((column) => column.table === table).map((column) => [column.name, column.type]),
    );
  }

  /** A JSON object as the text of a row of a composite type, whose name is one that `functions` gave. */
  async recordText(type, json) {
    const [row] = await this.#pool.unsafe(`select json_populate_record(null::${type}, $1::text::json)::text as text`, [json]);
    return row.text;
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
