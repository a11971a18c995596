// Function calls, `POST /rest/v1/rpc/name`, done by PostgreSQL itself.
//
// @supabase/lite encodes JSON arguments twice, sends numbers through JavaScript and needs several round trips. Here, as in
// PostgREST, the server reads the arguments from the request's own JSON text and prints the answer, and all statements
// travel together. Only plain calls are taken; the rest (filters on results, GET, overloads, errors in the request) is
// lite's, whose answers to those are right.

import { beginStatement, contextSettings } from "./context.mjs";
import { bodyOf, isDatabaseError, statusOf } from "./errors.mjs";
import { quoteName } from "./quote.mjs";

// Which rows are returned is the function's to say. What becomes of the transaction is decided before.
const PLAIN_PREFERENCES = /^((return=\w+|tx=\w+)(,\s*|$))*$/;
const PLAIN_HEADERS = /^(\*\/\*|application\/json)?$/;

/** Calls functions of the exposed schemas. */
export class Rpc {
  #catalog;
  #pool;
  #statements = new WeakMap();

  constructor(catalog, pool) {
    this.#catalog = catalog;
    this.#pool = pool;
  }

  /**
   * Call the function. Answers `{ status, body, headers }`, or null if the request is for lite.
   * `request`: `{ method, path, search, headers, schema, rollback }`; `text`: the request's body; `caller`: of Keys.
   */
  async call(name, request, text, caller) {
    const { headers } = request;
    const isPlain =
      request.method === "POST" &&
      !request.search &&
      PLAIN_HEADERS.test(headers.accept ?? "") &&
      PLAIN_PREFERENCES.test(headers.prefer ?? "") &&
      /^application\/json\b/.test(headers["content-type"] ?? "");
    if (!isPlain) return null;
    const given = argumentNames(text);
    const called = given && choose(await this.#catalog.functions(name, request.schema), given);
    if (!called) return null;
    const { max_rows: maxRows } = await this.#catalog.settings();
    const settings = await contextSettings(this.#catalog, {
      ...caller,
      request,
      // PostgREST does the same: the server reads statement_timeout when a statement starts, too early for a function's.
      settings: called.settings.statement_timeout ? { statement_timeout: called.settings.statement_timeout } : {},
    });
    try {
      const row = await this.#run(called, settings, this.#statement(called, given, maxRows), text || "{}", request);
      return answer(called, row, headers.prefer);
    } catch (error) {
      if (!isDatabaseError(error) || error.code === "PGRST") throw error;
      const status = statusOf(error, caller.role);
      return { status, body: JSON.stringify(bodyOf(error)), headers: {} };
    }
  }

  /** The statement for a function and the arguments given, remembered as long as the function is known. */
  #statement(called, given, maxRows) {
    const key = given.join("\0");
    const known = this.#statements.get(called) ?? new Map();
    this.#statements.set(called, known);
    if (!known.has(key)) known.set(key, compose(called, given, maxRows));
    return known.get(key);
  }

  /**
   * Sent together, without waiting for one another. The call is a prepared statement, so that the server plans it once,
   * and the body a parameter. All are waited for, so that the next request finds the connection at rest.
   */
  async #run(called, settings, statement, text, request) {
    const begin = await beginStatement(this.#catalog, settings, { readOnly: !called.volatile });
    const connection = await this.#pool.reserve();
    try {
      const outcomes = await Promise.allSettled([
        connection.unsafe(begin),
        connection.unsafe(statement, [text], { prepare: true }),
        connection.unsafe(request.rollback ? "rollback" : "commit"), // after a failure the server answers it by a rollback
      ]);
      const failed = outcomes.find((outcome) => outcome.status === "rejected");
      if (failed) throw failed.reason;
      return outcomes[1].value[0];
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

/** One statement: read the arguments from the JSON in $1, call, print the result as JSON. */
function compose(called, given, maxRows) {
  const typeOf = (name) => called.argument_types[called.argument_names.indexOf(name)];
  const columns = given.map((name) => `${quoteName(name)} ${typeOf(name)}`).join(", ");
  const passed = given.map((name) => `${quoteName(name)} => given.${quoteName(name)}`).join(", ");
  const hasRecord = given.length > 0 && !called.takes_body;
  // Without arguments the parameter has no use, but it must have a type.
  const source = hasRecord ? `json_to_record($1::text::json) as given (${columns})` : "(select $1::text) as given";
  const call = called.takes_body
    ? `${called.qualified_name}($1::text::${called.argument_types[0]})`
    : `${called.qualified_name}(${passed})`;
  const [value, from] = resultOf(called, maxRows);
  return (
    `select ${value} as body, current_setting('response.status', true) as status,` +
    ` current_setting('response.headers', true) as headers from ${from(`${source}, lateral ${call}`)}`
  );
}

/** How to print what a function returns, as PostgREST does: the expression, and the source around the call. */
function resultOf({ returns_void, returns_row, returns_set }, maxRows) {
  if (returns_void) return ["null", (call) => call];
  if (returns_row) {
    const rows = (call) => `(select result.* from ${call} as result limit ${maxRows}) as result_row`;
    return [returns_set ? "coalesce(json_agg(result_row), '[]')::text" : "(json_agg(result_row) -> 0)::text", rows];
  }
  if (!returns_set) return ["to_json(result.value)::text", (call) => `${call} as result (value)`];
  const values = (call) => `(select result.value from ${call} as result (value) limit ${maxRows}) as result`;
  return ["coalesce(json_agg(result.value), '[]')::text", values];
}

function answer(called, row, prefer = "") {
  const [applied] = /tx=\w+/.exec(prefer) ?? [];
  const own = applied ? [{ "preference-applied": applied }] : [];
  const headers = Object.assign({}, ...own, ...JSON.parse(row.headers || "[]"));
  const status = row.status ? Number(row.status) : called.returns_void ? 204 : 200;
  return { status, headers, body: called.returns_void ? null : (row.body ?? "null") };
}
