// The REST API's way to the database: @supabase/lite's connection with its differences from PostgREST mended.

import { AsyncLocalStorage } from "node:async_hooks";
import { createPostgresConnection, PostgresConnection } from "@supabase/lite/postgres";
import { CompiledQuery, Kysely } from "kysely";
import { PostgresJSDialect } from "kysely-postgres-js";
import { beginStatement, contextSettings } from "./context.mjs";
import { selfDescribing } from "./errors.mjs";
import { judge, MendStatements, mendParsed } from "./lite.mjs";
import { unmarkParameter } from "./marks.mjs";
import { explain } from "./plan.mjs";
import { Pool } from "./pool.mjs";
import { exactTypes } from "./types.mjs";

const POOL_SIZE = 20;
const AUTH_POOL_SIZE = 4;

/** The HTTP request being served: `{ method, path, headers, schema, rollback, plan }`, also for `current_setting('request.…')`. */
export const currentRequest = new AsyncLocalStorage();

const silent = () => {};

/** Options of every connection here. */
export const driverOptions = (types, name = "runhold-api") => ({
  types,
  onnotice: silent,
  backoff: () => 0.25,
  connection: { application_name: name, TimeZone: "UTC" },
});

/** Connected as authenticator, who owns nothing and becomes anon, authenticated or service_role for each request. */
export class RestConnection extends PostgresConnection {
  constructor({ url, catalog }) {
    super({ url, postgresOptions: driverOptions(exactTypes) });
    this.catalog = catalog;
    this.pool = givePool(this, POOL_SIZE, unmarkParameter);
  }

  // Lite introspects as the role that serves requests, and information_schema hides from it what it has no right to.
  async introspect() {
    return this.catalog.introspection(currentRequest.getStore()?.schema);
  }

  async onPostgrestAST(parsed) {
    const request = currentRequest.getStore();
    const mended = mendParsed(await super.onPostgrestAST(parsed), await this.introspect(), request);
    if (request) request.parsed = mended;
    return mended;
  }

  // Lite's own way runs `grant all` on every table to anon before the first request, and sends six statements one after
  // the other. Here the context is one statement, sent together with `begin` and the request's own.
  async withContext(vars, work, options) {
    if (options?.transaction) return work(options.transaction);
    if (!vars) return work(this.kysely);
    const request = currentRequest.getStore();
    const settings = await contextSettings(this.catalog, {
      role: vars.auth?.role || "anon",
      claims: vars.auth?.jwt ?? {},
      request,
    });
    const begin = await beginStatement(this.catalog, settings, options?.rpc);
    return this.kysely.connection().execute(async (connection) => {
      const send = (text) => connection.executeQuery(CompiledQuery.raw(text));
      const opened = send(begin);
      try {
        const [result] = await Promise.all([work(connection.withPlugin(new MendStatements(request))), opened]);
        const judged = await judge(await explain(result, request?.plan, connection), request);
        await send(judged.undone ? "rollback" : "commit");
        return judged.answer;
      } catch (error) {
        await opened.catch(silent); // the error that matters is the one being thrown
        await send("rollback").catch(silent);
        throw error;
      }
    });
  }

  normalizeDbError(error) {
    return selfDescribing(error);
  }
}

/** Connected as the owner of schema auth. Auth reads its JSON itself, so its values stay JavaScript's. */
export function createAuthConnection(url, types) {
  const connection = createPostgresConnection({ url, postgresOptions: driverOptions(types) });
  givePool(connection, AUTH_POOL_SIZE);
  return connection;
}

/** Let a connection of lite's send its queries through a pool of ours, which is answered. */
export function givePool(connection, max, exact = (parameter) => parameter) {
  const pool = new Pool(connection.driver.options, max);
  const reserve = async () => {
    const reserved = await pool.reserve();
    return {
      unsafe: (text, parameters) => reserved.unsafe(text, parameters.map(exact)),
      release: () => reserved.release(),
    };
  };
  // The dialect knows postgres.js by being a function.
  const driver = Object.assign(silent.bind(), { reserve, end: () => connection.driver.end() });
  connection.kysely = new Kysely({ dialect: new PostgresJSDialect({ postgres: driver }) });
  return pool;
}
