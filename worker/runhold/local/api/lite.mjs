// What @supabase/lite must be given otherwise than it came, and what is done about its answers, so that they are PostgREST's.

import { GroupByItemNode, SelectQueryNode, sql, ValueNode } from "kysely";
import { mark, markJson, markNumbers, unmarkJson } from "./marks.mjs";

const isJsonType = (type) => type === "json" || type === "jsonb";
const DEFAULT = sql`default`;
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/**
 * The request's JSON body with every value that lite would change in marks: numbers that JavaScript cannot hold, strings of
 * digits for numeric columns, and whole values of json columns and arguments. A body that is no JSON stays for lite to refuse.
 */
export async function exactBody({ path, schema }, text, catalog) {
  let body;
  try {
    body = JSON.parse(markNumbers(text));
  } catch {
    return text;
  }
  const [, functionName, table] = /^\/(?:rpc\/([^/]+)|([^/]+))\/?$/.exec(path) ?? [];
  const functions = functionName && (await catalog.functions(decodeURIComponent(functionName), schema));
  const types = functions
    ? argumentTypes(functions)
    : await catalog.columnTypes(decodeURIComponent(table ?? ""), schema);
  const exactRow = (row) => {
    if (!isObject(row)) return row;
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [name, exactValue(value, types[name])]),
    );
  };
  const exact = Array.isArray(body) ? body.map(exactRow) : exactRow(body);
  if (functions && isObject(exact)) await writeObjects(exact, types, functions, catalog);
  return JSON.stringify(exact);
}

/** Arguments that are objects, for which lite has no form: the text of a row where one is taken, else the JSON's text. */
async function writeObjects(values, types, functions, catalog) {
  const rowTypes = new Set(functions.flatMap(({ row_types }) => row_types));
  for (const [name, value] of Object.entries(values)) {
    if (!isObject(value) || !types[name]) continue;
    const json = unmarkJson(JSON.stringify(value));
    values[name] = mark(rowTypes.has(types[name]) ? await catalog.recordText(types[name], json) : json);
  }
}

function exactValue(value, type) {
  if (value === null) return null;
  if (isJsonType(type)) return markJson(value);
  // "9007199254740993" for a bigint column: lite makes it a number of JavaScript.
  if (typeof value === "string" && /^-?[0-9.]+$/.test(value) && String(Number(value)) !== value) return mark(value);
  return value;
}

/** Types of arguments by name, over all overloads; a name with several types has none. */
function argumentTypes(overloads) {
  const types = {};
  for (const { argument_names, argument_types } of overloads) {
    argument_names.forEach((name, index) => {
      const type = argument_types[index];
      types[name] = types[name] === undefined || types[name] === type ? type : null;
    });
  }
  return types;
}

const PATTERNS = new Set(["$likeAny", "$likeAll", "$ilikeAny", "$ilikeAll"]);

/**
 * What lite parsed of a request, with what it would do otherwise than PostgREST put right: `*` in lists of patterns, values
 * in CSV, rows with missing columns (null, or their defaults with `Prefer: missing=default`), and rows without any column.
 */
export function mendParsed(parsed, { columns: known }, request) {
  mendPatterns(parsed.where);
  if (/^text\/csv/.test(request?.headers.accept ?? "") && parsed.type === "query") printAsText(parsed, known);
  const isInsert = ["insert", "upsert"].includes(parsed.type);
  if (!parsed.values || !(isInsert || ["update", "put"].includes(parsed.type))) return parsed;
  const { columns, missing } = parsed.$meta ?? {};
  const anyColumn = known.find(({ table }) => table === parsed.from)?.name;
  const isCsv = /^text\/csv/.test(request?.headers["content-type"] ?? "");
  const complete = (given) => {
    if (!isObject(given)) return given;
    const row = isCsv ? withNulls(given) : given;
    const filler = isInsert && missing === "default" ? DEFAULT : null;
    if (columns) return Object.fromEntries(columns.map((name) => [name, name in row ? row[name] : filler]));
    return isInsert && anyColumn && Object.keys(row).length === 0 ? { [anyColumn]: DEFAULT } : row;
  };
  parsed.values = Array.isArray(parsed.values) ? parsed.values.map(complete) : complete(parsed.values);
  return parsed;
}

/** In CSV, values have the form that PostgreSQL gives them as text; lite would print its own of JSON and arrays. */
function printAsText(parsed, known) {
  const ofTable = known.filter(({ table }) => table === parsed.from);
  const isPrinted = new Set(ofTable.filter(({ type }) => type !== "boolean").map(({ name }) => name));
  const chosen = parsed.select?.length ? parsed.select : ["*"];
  parsed.select = chosen
    .flatMap((item) => (item === "*" ? ofTable.map(({ name }) => name) : [item]))
    .map((item) => (isPrinted.has(item) ? { [item]: { column: item, cast: "text" } } : item));
}

/** A row of CSV, in which NULL stands for null. */
function withNulls(row) {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, value === "NULL" ? null : value]));
}

function mendPatterns(where) {
  if (where === null || typeof where !== "object") return;
  for (const [name, value] of Object.entries(where)) {
    if (PATTERNS.has(name) && Array.isArray(value)) {
      where[name] = value.map((pattern) => (typeof pattern === "string" ? pattern.replaceAll("*", "%") : pattern));
    } else mendPatterns(value);
  }
}

/**
 * Plugin of Kysely, for what can be mended in lite's statements alone.
 *
 * To answer an update with embedded rows, lite reads the updated rows once more, by their keys and also by the request's
 * filter, which they may not match any more: so the filter is emptied once it has been used. And it does not group the
 * result of a function by the columns that are selected beside aggregates.
 */
export class MendStatements {
  #request;
  #updates = new WeakSet();

  constructor(request) {
    this.#request = request;
  }

  transformQuery({ node, queryId }) {
    if (node.kind === "UpdateQueryNode") this.#updates.add(queryId);
    const { type, select } = this.#request?.parsed ?? {};
    return type === "rpc" && node.kind === "SelectQueryNode" ? grouped(node, select) : node;
  }

  async transformResult({ result, queryId }) {
    const where = this.#request?.parsed?.where;
    if (where && this.#updates.has(queryId)) for (const name of Object.keys(where)) delete where[name];
    return result;
  }
}

/** The statement, grouped by the selected columns, by their places, if aggregates are selected with them. */
function grouped(node, select) {
  const columns = (select ?? []).map((item) => (isObject(item) ? Object.values(item)[0] : {}));
  const isPlain = node.selections?.length === columns.length && !node.groupBy && !select.includes("*");
  if (!isPlain || !columns.some(({ aggregate }) => aggregate)) return node;
  const places = columns.flatMap(({ aggregate }, index) => (aggregate ? [] : [index + 1]));
  if (places.length === 0) return node;
  return SelectQueryNode.cloneWithGroupByItems(
    node,
    places.map((place) => GroupByItemNode.create(ValueNode.createImmediate(place))),
  );
}

/** Lite's answer, or the refusal in its place, and whether the request's transaction is to be rolled back. */
export async function judge(answer, request) {
  const tooMany = request?.parsed?.type === "rpc" && (await exceeded(answer, request.headers));
  if (tooMany) return { answer: tooMany, undone: true };
  return { answer, undone: Boolean(request?.rollback) || (await isRefusal(answer)) };
}

/** Whether lite refuses what the database has done. A function that chooses an error's status does not. */
async function isRefusal(answer) {
  if (!(answer instanceof Response) || answer.status < 400) return false;
  return /"code":"PGRST/.test(await answer.clone().text());
}

/** The refusal of a function that returns no set, or more rows than `Prefer: max-affected` allows; otherwise null. */
async function exceeded(answer, { prefer = "", accept }) {
  const most = /max-affected=(\d+)/.exec(prefer)?.[1];
  if (most === undefined || !/handling=strict/.test(prefer) || answer.status >= 400) return null;
  const rows = JSON.parse((await answer.clone().text()) || "null");
  const isSet = Array.isArray(rows) || /vnd\.pgrst\.object/.test(accept ?? "");
  if (isSet && !(rows.length > Number(most))) return null;
  const body = isSet
    ? {
        code: "PGRST124",
        details: `The query affects ${rows.length} rows`,
        hint: null,
        message: "Query result exceeds max-affected preference constraint",
      }
    : {
        code: "PGRST128",
        details: null,
        hint: null,
        message: "Function must return SETOF or TABLE when max-affected preference is used with handling=strict",
      };
  return Response.json(body, { status: 400 });
}
