// Access tokens of Supabase Auth carry the user's metadata; policies and hooks read app_metadata from them. Lite's do not.

import { createHmac } from "node:crypto";

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** The body of an answer of Auth; if it is a session, with the user's metadata added to its token, signed anew. */
export function completeSession(text, secret) {
  if (!text.includes('"access_token"')) return text;
  const session = JSON.parse(text);
  if (typeof session.access_token !== "string" || !session.user) return text;
  const [, payload] = session.access_token.split(".");
  const claims = {
    ...JSON.parse(Buffer.from(payload, "base64url").toString()),
    app_metadata: session.user.app_metadata ?? {},
    user_metadata: session.user.user_metadata ?? {},
  };
  const content = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  const signature = createHmac("sha256", secret).update(content).digest("base64url");
  return JSON.stringify({ ...session, access_token: `${content}.${signature}` });
}
