// Refusals of Auth in the format of Supabase Auth: { code: <status>, error_code, msg }.

import { ConnectionError } from "./errors.mjs";

let LiteError;

/** Learn lite's class of errors, which it answers in that format and does not export, from one that needs no database. */
export async function learnErrorClass(service) {
  LiteError ??= await service.signOut(undefined, "none").catch((error) => error.constructor);
}

/** An error to throw; also from inside lite's own methods. */
export function refusal(status, code, message) {
  return new LiteError(status, code, message);
}

export const invalid = (message) => refusal(400, "validation_failed", message);

/** The answer to an error, as { status, body }; one that is no refusal is logged. */
export function answerOf(error, failed = "Unexpected failure, please check server logs for more information") {
  if (error instanceof LiteError) return { status: error.status, body: error.toJSON() };
  if (error instanceof ConnectionError) {
    // Clients take 500 as final and forget their session; 503 they try again.
    return bodyOf(503, "unexpected_failure", "The database cannot be reached.");
  }
  if (error.constraint_name === "users_email_partial_key") {
    return bodyOf(422, "email_exists", "A user with this email address has already been registered");
  }
  if (error.constraint_name === "users_phone_key") {
    return bodyOf(422, "phone_exists", "Phone number already registered by another user");
  }
  console.error("Auth error:", error);
  return bodyOf(500, "unexpected_failure", failed);
}

/** An answer in the format. */
export function bodyOf(status, code, msg) {
  return { status, body: { code: status, error_code: code, msg } };
}
