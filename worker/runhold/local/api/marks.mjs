// Values that must pass through JavaScript untouched.
//
// @supabase/lite parses requests and results with JSON.parse, where 9007199254740993 becomes …992 and 1.50 becomes 1.5,
// and it guesses at strings meant for jsonb columns ("42" becomes 42). So whatever JavaScript would change travels as a
// string in marks: private-use characters around a random word, which no client can guess and so cannot forge.

import { randomBytes } from "node:crypto";

const MARK = `\uE000${randomBytes(9).toString("base64url")}\uE000`;
const QUOTED_MARK = new RegExp(`"${MARK}([^"]*)${MARK}"`, "g");
const STRING_OR_NUMBER = /"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/g;

/** A value as PostgreSQL is to read it: its text goes to the server as it is. */
export class Exact {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}

/** The text in marks: a string to JavaScript. */
export function mark(text) {
  return MARK + text + MARK;
}

/** Whether JavaScript would print this number in other words: too long, trailing zeros, an exponent. */
export function isLossy(number) {
  return String(Number(number)) !== number;
}

/** JSON text in which every number that JavaScript would change is a marked string. */
export function markNumbers(json) {
  return json.replace(STRING_OR_NUMBER, (token) =>
    token[0] !== '"' && isLossy(token) ? `"${mark(token)}"` : token,
  );
}

/** JSON text with every marked string put back as the bare text that it was. */
export function unmarkJson(json) {
  return json.includes(MARK) ? json.replace(QUOTED_MARK, (_, text) => JSON.parse(`"${text}"`)) : json;
}

/** A query parameter: a marked string becomes Exact, anything else stays. */
export function unmarkParameter(value) {
  if (typeof value === "string" && value.startsWith(MARK) && value.endsWith(MARK)) {
    return new Exact(value.slice(MARK.length, -MARK.length));
  }
  return Array.isArray(value) ? value.map(unmarkParameter) : value;
}

/** The exact JSON text of a value that was parsed from marked JSON, in marks itself. */
export function markJson(value) {
  return mark(unmarkJson(JSON.stringify(value)));
}
