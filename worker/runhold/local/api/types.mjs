// How PostgreSQL's types travel through @supabase/lite's connection for REST. Every parser gives what PostgREST gives,
// which is what PostgreSQL itself prints as JSON.

import { parseArray, serializeArray } from "./arrays.mjs";
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

const text = (value) => value;
const boolean = (value) => value === "t";
const jsonType = json(114);

// Arrays by their own oid, and how their elements are read and written.
const ARRAYS = [
  { oids: [1003, 1009, 1014, 1015, 1041, 1001, 1182, 1183, 1270, 2951], parse: text, serialize },
  { oids: [1000], parse: boolean, serialize },
  { oids: [1005, 1007, 1016], parse: number, serialize },
  { oids: [1021, 1022, 1231], parse: realNumber, serialize },
  { oids: [1115, 1185], parse: isoTime, serialize },
  { oids: [199, 3807], parse: jsonType.parse, serialize: jsonType.serialize },
];

const arrays = ARRAYS.flatMap(({ oids, parse, serialize: write }) =>
  oids.map((oid) => [
    `array${oid}`,
    {
      to: oid,
      from: [oid],
      parse: (value) => parseArray(value, parse),
      serialize: (value) => serializeArray(value, write),
    },
  ]),
);

export const exactTypes = {
  integer: { to: 23, from: [20, 21, 23], serialize, parse: number },
  bigint: { to: 20, from: [], serialize },
  numeric: { to: 1700, from: [700, 701, 1700], serialize, parse: realNumber },
  float4: { to: 700, from: [], serialize },
  float8: { to: 701, from: [], serialize },
  bytea: { to: 17, from: [17], serialize, parse: text },
  json: jsonType,
  jsonb: json(3802),
  timestamp: time(1114),
  timestamptz: time(1184),
  ...Object.fromEntries(arrays),
};

// Auth encodes what it stores itself, so its JSON arrives as text: encoded once more, a user's metadata would be a string.
const authJson = (oid) => ({
  to: oid,
  from: [oid],
  serialize: (value) => (typeof value === "string" ? value : JSON.stringify(value)),
  parse: (value) => JSON.parse(value),
});

export const authTypes = {
  json: authJson(114),
  jsonb: authJson(3802),
  timestamp: time(1114),
  timestamptz: time(1184),
};
