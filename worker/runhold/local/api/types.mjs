// How PostgreSQL's types travel through @supabase/lite's connection for REST. Every parser gives what PostgREST gives,
// which is what PostgreSQL itself prints as JSON.

import { Exact, isLossy, mark, markNumbers, unmarkJson } from "./marks.mjs";

const serialize = (value) => String(value);
const number = (text) => (isLossy(text) ? mark(text) : Number(text));
// Infinity and NaN have no form in JSON: PostgreSQL prints them as strings.
const realNumber = (text) => (Number.isFinite(Number(text)) ? number(text) : text);

// PostgreSQL prints `2026-11-22 16:00:00+00`, JSON has `2026-11-22T16:00:00+00:00`; without the T supabase-py's sign_up
// fails to read a user's times.
export const isoTime = (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");

const time = (oid) => ({ to: oid, from: [oid], serialize, parse: isoTime });

// An argument or column of type json arrives as Exact, JSON text already; lite would encode it once more.
const json = (oid) => ({
  to: oid,
  from: [oid],
  serialize: (value) => (value instanceof Exact ? value.text : unmarkJson(JSON.stringify(value))),
  parse: (text) => JSON.parse(markNumbers(text)),
});

export const exactTypes = {
  integer: { to: 23, from: [20, 21, 23], serialize, parse: number },
  bigint: { to: 20, from: [], serialize },
  numeric: { to: 1700, from: [700, 701, 1700], serialize, parse: realNumber },
  float4: { to: 700, from: [], serialize },
  float8: { to: 701, from: [], serialize },
  bytea: { to: 17, from: [17], serialize, parse: (text) => text },
  json: json(114),
  jsonb: json(3802),
  timestamp: time(1114),
  timestamptz: time(1184),
};

// Auth reads JSON and times itself and returns them; only the times' form is wrong.
export const authTypes = {
  timestamp: time(1114),
  timestamptz: time(1184),
};
