// Access tokens: JWTs signed with the stack's secret.

import { createHmac } from "node:crypto";

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** The claims of a token that is known to be good. */
export function tokenClaims(token) {
  return JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
}

/** A token with these claims (HS256). */
export function signToken(claims, secret) {
  const content = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${content}.${createHmac("sha256", secret).update(content).digest("base64url")}`;
}
