// Function calls, `POST /rest/v1/rpc/name`, done by PostgreSQL itself.
//
// @supabase/lite encodes JSON arguments twice, sends numbers through JavaScript and needs several round trips. Here, as in
// PostgREST, the server reads the arguments from the request's own JSON text and prints the answer, and all statements
// travel together. Only plain calls are taken; the rest (filters on results, GET, overloads, errors in the request) is
// lite's, whose answers to those are right.

import { contextSettings } from "./database.mjs";
import { bodyOf, isDatabaseError, statusOf } from "./errors.mjs";

const MAX_ROWS = 1000;
const PLAIN_HEADERS = /^(\*\/\*|application\/json)?$/;
const quoteName = (name) => `"${name.replaceAll('"', '""')}"`;

/** Calls functions of the exposed schemas. */
export class Rpc {
  #catalog;
  #driver;
  #statements = new WeakMap();

  constructor(catalog, driver) {
    this.#catalog = catalog;
    this.#driver = driver;
  }

  /**
   * Call the function. Answers `{ status, body, headers }`, or null if the request is for lite.
   * `request`: `{ method, path, search, headers }`; `text`: the request's body; `caller`: of Keys.
   */
  async call(name, request, text, caller) {
    const { headers } = request;
    const isPlain =
      request.method === "POST" &&
      !request.search &&
      PLAIN_HEADERS.test(headers.accept ?? "") &&
      !headers.prefer &&
      (headers["content-profile"] ?? "public") === "public" &&
      /^application\/json\b/.test(headers["content-type"] ?? "");
    if (!isPlain) return null;
    const given = argumentNames(text);
    const called = given && choose(await this.#catalog.functions(name), given);
    if (!called) return null;
    const settings = await contextSettings(this.#catalog, {
      ...caller,
      request,
      // PostgREST does the same: the server reads statement_timeout when a statement starts, too early for a function's.
      settings: called.settings.statement_timeout ? { statement_timeout: called.settings.statement_timeout } : {},
    });
    try {
      const row = await this.#run(called, settings, this.#statement(called, given), text || "{}");
      return answer(called, row);
    } catch (error) {
      if (!isDatabaseError(error) || error.code === "PGRST") throw error;
      const status = statusOf(error.code, caller.role);
      return { status, body: JSON.stringify(bodyOf(error)), headers: {} };
    }
  }

  /** The statement for a function and the arguments given, remembered as long as the function is known. */
  #statement(called, given) {
    const key = given.join("\0");
    const known = this.#statements.get(called) ?? new Map();
    this.#statements.set(called, known);
    if (!known.has(key)) known.set(key, compose(called, given));
    return known.get(key);
  }

  async #run(called, settings, statement, text) {
    const connection = await this.#driver.reserve();
    try {
      // Not awaited one by one: they travel together. After a failure the server ignores the rest up to `commit`, which
      // then rolls back. All are waited for, so that the next request finds the connection at rest.
      const outcomes = await Promise.allSettled([
        connection.unsafe(called.volatile ? "begin" : "begin read only"),
        connection.unsafe(settings.text, settings.values, { prepare: true }),
        connection.unsafe(statement, [text], { prepare: true }),
        connection.unsafe("commit"),
      ]);
      const failed = outcomes.find((outcome) => outcome.status === "rejected");
      if (failed) throw failed.reason;
      return outcomes[2].value[0];
    } finally {
      connection.release();
    }
  }
}

/** Names of the arguments in the body; null if that is no JSON object. */
function argumentNames(text) {
  if (!text) return [];
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? Object.keys(value) : null;
  } catch {
    return null;
  }
}

/** The only overload that takes exactly these arguments; undefined if it is not a plain case. */
function choose(overloads, given) {
  const fitting = overloads.filter(
    (candidate) =>
      given.every((name) => candidate.argument_names.includes(name)) &&
      candidate.argument_names.slice(0, candidate.required).every((name) => given.includes(name)),
  );
  if (fitting.length === 0) return takesBody(overloads);
  const [called] = fitting;
  const isPlain =
    fitting.length === 1 &&
    !called.variadic &&
    !called.unusual &&
    called.argument_names.length === called.argument_types.length &&
    called.argument_names.every((name) => name !== "");
  return isPlain ? called : undefined;
}

/** The overload with one argument without a name, of type json: it is given the whole body. */
function takesBody(overloads) {
  const taking = overloads.filter(
    ({ argument_names, argument_types, variadic }) =>
      !variadic &&
      argument_types.length === 1 &&
      argument_names.every((name) => name === "") &&
      ["json", "jsonb"].includes(argument_types[0]),
  );
  return taking.length === 1 ? { ...taking[0], takes_body: true } : undefined;
}

/** One statement: read the arguments from JSON, call, print the result as JSON. */
function compose(called, given) {
  const typeOf = (name) => called.argument_types[called.argument_names.indexOf(name)];
  const columns = given.map((name) => `${quoteName(name)} ${typeOf(name)}`).join(", ");
  const passed = given.map((name) => `${quoteName(name)} => given.${quoteName(name)}`).join(", ");
  const source = given.length && !called.takes_body ? `json_to_record($1::text::json) as given (${columns}), ` : "(select $1::text) as given, ";
  const body = `$1::text::${called.argument_types[0]}`;
  const call = `${called.qualified_name}(${called.takes_body ? body : passed})`;
  const response =
    "current_setting('response.status', true) as status, current_setting('response.headers', true) as headers";
  if (called.returns_void) return `select null as body, ${response} from ${source} lateral ${call}`;
  if (called.returns_row) {
    const rows = `(select result.* from ${source} lateral ${call} as result limit ${MAX_ROWS}) as result_row`;
    return called.returns_set
      ? `select coalesce(json_agg(result_row), '[]')::text as body, ${response} from ${rows}`
      : `select (json_agg(result_row) -> 0)::text as body, ${response} from ${rows}`;
  }
  const from = `${source} lateral ${call} as result (value)`;
  return called.returns_set
    ? `select coalesce(json_agg(result.value), '[]')::text as body, ${response}` +
        ` from (select result.value from ${from} limit ${MAX_ROWS}) as result`
    : `select to_json(result.value)::text as body, ${response} from ${from}`;
}

function answer(called, row) {
  const headers = Object.assign({}, ...JSON.parse(row.headers || "[]"));
  const status = row.status ? Number(row.status) : called.returns_void ? 204 : 200;
  return { status, headers, body: called.returns_void ? null : (row.body ?? "null") };
}
