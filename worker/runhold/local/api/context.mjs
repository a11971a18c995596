// What PostgREST sets at the start of every transaction: role, that role's settings, claims and the request.

import { quoteLiteral, quoteName } from "./quote.mjs";

/** The settings as an object. `settings` are the called function's own. */
export async function contextSettings(catalog, { role, claims, request, settings = {} }) {
  const { extra_search_path: extra } = await catalog.settings();
  return {
    ...(await catalog.roleSettings(role)),
    ...settings,
    search_path: [request?.schema, ...extra].filter(Boolean).map(quoteName).join(", "),
    "request.jwt.claims": JSON.stringify(claims),
    "request.method": request?.method ?? "",
    "request.path": request?.path ?? "",
    "request.headers": JSON.stringify(request?.headers ?? {}),
    role, // last: from here on it is the role that must have the right
  };
}

/** The statement that begins a request's transaction and makes the settings, until its end. */
export async function beginStatement(catalog, settings, { readOnly = false } = {}) {
  const { db_pre_request: called } = await catalog.settings();
  const begin = `begin${readOnly ? " read only" : ""}; ${contextStatement(settings)}`;
  return called ? `${begin}; select ${called.split(".").map(quoteName).join(".")}()` : begin;
}

function contextStatement(settings) {
  const calls = Object.entries(settings).map(
    ([name, value]) => `set_config(${quoteLiteral(name)}, ${quoteLiteral(String(value))}, true)`,
  );
  return `select ${calls.join(", ")}`;
}
