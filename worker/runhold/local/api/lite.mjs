// What must be changed in requests before @supabase/lite reads them.

import { mark, markJson, markNumbers } from "./marks.mjs";

const isJsonType = (type) => type === "json" || type === "jsonb";
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/**
 * The request's JSON body with every value that lite would change in marks: numbers that JavaScript cannot hold, strings of
 * digits for numeric columns, and whole values of json columns and arguments. A body that is no JSON stays for lite to refuse.
 */
export async function exactBody(path, text, catalog) {
  let body;
  try {
    body = JSON.parse(markNumbers(text));
  } catch {
    return text;
  }
  const [, functionName, table] = /^\/rest\/v1\/(?:rpc\/([^/]+)|([^/]+))\/?$/.exec(path) ?? [];
  const types = functionName
    ? argumentTypes(await catalog.functions(decodeURIComponent(functionName)))
    : await catalog.columnTypes(decodeURIComponent(table ?? ""));
  const exactRow = (row) => {
    if (!isObject(row)) return row;
    return Object.fromEntries(
      Object.entries(row).map(([name, value]) => [name, exactValue(value, types[name])]),
    );
  };
  return JSON.stringify(Array.isArray(body) ? body.map(exactRow) : exactRow(body));
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
