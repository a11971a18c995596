// PostgreSQL's errors in PostgREST's form. @supabase/lite knows some SQLSTATEs and answers 500 `SUP` to the rest, so that
// a refusal of a function (P0001, RH001) or a violated check (23514) would look like a broken server.

const STATUS_OF_CODE = {
  23503: 409,
  23505: 409,
  25006: 405,
  42883: 404,
  "42P01": 404,
  "42P17": 500,
  53400: 500,
  "57P01": 503,
  P0001: 400,
};

const STATUS_OF_CLASS = {
  "08": 503,
  "09": 500,
  "0L": 403,
  "0P": 403,
  25: 500,
  28: 403,
  "2D": 500,
  38: 500,
  39: 500,
  "3B": 500,
  40: 500,
  53: 503,
  54: 500,
  55: 500,
  57: 500,
  58: 500,
  F0: 500,
  HV: 500,
  P0: 500,
  XX: 500,
};

const SQLSTATE = /^[0-9A-Z]{5}$/;

const CONNECTION_MESSAGES = {
  PGRST000: "Database connection error. Retrying the connection.",
  PGRST001: "Database client error. Retrying the connection.", // it was lost, and nobody knows what was done
  PGRST002: "Could not query the database for the schema cache. Retrying.",
};

/** There is no database just now. */
export class ConnectionError extends Error {
  constructor(code, cause) {
    super(CONNECTION_MESSAGES[code]);
    this.code = code;
    this.detail = cause.message;
  }
}

/** Whether the error is one that PostgreSQL sent, or the lack of a connection to it. */
export function isDatabaseError(error) {
  if (error instanceof ConnectionError) return true;
  return typeof error?.code === "string" && SQLSTATE.test(error.code) && error.name === "PostgresError";
}

/** PostgREST's HTTP status for an error of the database. What it does not list is the client's fault: 400. */
export function statusOf({ code, message }, role) {
  if (code in CONNECTION_MESSAGES) return 503;
  if (code === "42501") return role === "anon" ? 401 : 403;
  if (code === "21000") return message.endsWith("requires a WHERE clause") ? 400 : 500;
  if (code === "22023") return /^role .* does not exist$/.test(message) ? 401 : 400;
  if (code.startsWith("PT")) return Number(/^PT([2-5]\d\d)$/.exec(code)?.[1] ?? 500);
  return STATUS_OF_CODE[code] ?? STATUS_OF_CLASS[code.slice(0, 2)] ?? 400;
}

/** The body that PostgREST answers. */
export function bodyOf(error) {
  return {
    code: error.code,
    details: error.detail ?? null,
    hint: error.hint ?? null,
    message: error.message,
  };
}

// Codes for which lite's own answer is right: it knows the role behind 42501 and completes column names for 42703.
const LEFT_TO_LITE = new Set(["42501", "42703", "PGRST"]);

/**
 * The error as lite understands it: one that says its own status and body, `raise sqlstate 'PGRST'` of PostgREST.
 * Errors that are not PostgreSQL's pass unchanged.
 */
export function selfDescribing(error) {
  if (!isDatabaseError(error) || LEFT_TO_LITE.has(error.code)) return error;
  const described = new Error(JSON.stringify(bodyOf(error)));
  described.code = "PGRST";
  described.detail = JSON.stringify({ status: statusOf(error), headers: {} });
  described.stack = `${error.code}: ${error.message}`; // lite logs it: one line, and no statement with its data
  return described;
}
