// Who is calling: the role and claims of a request's key and token. Only plain cases are decided here; every other one
// is answered by @supabase/lite, which knows all of PostgREST's refusals.

import { createHmac, timingSafeEqual } from "node:crypto";

const REMEMBERED_TOKENS = 1000;

/**
 * PostgREST's answer to a bearer that is neither a key nor has the three parts of a token, or null. Lite takes such a
 * request as anonymous, and so does not tell a client whose token is broken.
 */
export function refuseMalformed(headers) {
  const token = /^Bearer\s+(.+)$/.exec(headers.authorization ?? "")?.[1];
  if (token === undefined || token === headers.apikey || token.startsWith("sb_")) return null;
  const parts = token.split(".").filter((part) => part !== "").length;
  if (parts === 3 && token.split(".").length === 3) return null;
  const message = `Expected 3 parts in JWT; got ${parts}`;
  return JSON.stringify({ code: "PGRST301", details: null, hint: null, message });
}

/** Roles of the keys that projects had before publishable and secret keys: tokens without a user. */
const LEGACY_ROLES = ["anon", "service_role"];

/** Decides who a request runs as. */
export class Keys {
  #keys;
  #secret;
  #tokens = new Map();

  constructor({ publishableKey, secretKey, jwtSecret }) {
    this.#keys = new Map([
      [publishableKey, { type: "publishable", claims: { role: "anon" } }],
      [secretKey, { type: "secret", claims: { role: "service_role" } }],
    ]);
    this.#secret = jwtSecret;
  }

  /**
   * The kind of an `apikey` and the claims of requests without a token: `{ type, claims }`, or null for a wrong key. Lite
   * asks this, too. A legacy key has a type of its own, because Supabase accepts legacy service keys in browsers.
   */
  resolve(key) {
    const known = this.#keys.get(key);
    if (known) return known;
    const claims = key ? this.#claims(key) : null;
    const isLegacy = claims && LEGACY_ROLES.includes(claims.role) && claims.sub === undefined;
    return isLegacy ? { type: "legacy", claims } : null;
  }

  /** The request's key, resolved; null if there is none, it is wrong, or it is a secret key in a browser. */
  keyOf(headers) {
    const key = this.resolve(headers.apikey);
    return key?.type === "secret" && /^\s*Mozilla\//i.test(headers["user-agent"] ?? "") ? null : key;
  }

  /** The request's token, unless it is a key: Supabase's clients send theirs as the bearer while nobody is signed in. */
  tokenOf(headers) {
    const token = /^Bearer\s+(.+)$/i.exec(headers.authorization ?? "")?.[1];
    return token === headers.apikey || token?.startsWith("sb_") ? undefined : token;
  }

  /**
   * `{ role, claims }`, or null if the request is for lite to judge: no good key, a token that is not one of ours or not
   * valid now.
   */
  caller(headers) {
    const key = this.keyOf(headers);
    if (!key) return null;
    const token = this.tokenOf(headers);
    const claims = token === undefined ? key.claims : this.#claims(token);
    return claims && { role: claims.role ?? "anon", claims };
  }

  /** The claims of a token signed by us and valid now, otherwise null. */
  #claims(token) {
    let claims = this.#tokens.get(token);
    if (!claims) {
      claims = verify(token, this.#secret);
      if (!claims) return null;
      if (this.#tokens.size >= REMEMBERED_TOKENS) this.#tokens.delete(this.#tokens.keys().next().value);
      this.#tokens.set(token, claims);
    }
    const now = Date.now() / 1000;
    const isNow = (claims.exp ?? Infinity) > now && (claims.nbf ?? 0) <= now && (claims.iat ?? 0) <= now;
    return isNow ? claims : null;
  }
}

/** The payload of an HS256 token if the signature is ours. */
function verify(token, secret) {
  const [header, payload, signature, ...rest] = token.split(".");
  if (!signature || rest.length) return null;
  const expected = createHmac("sha256", secret).update(`${header}.${payload}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
  try {
    const decode = (part) => JSON.parse(Buffer.from(part, "base64url").toString());
    const claims = decode(payload);
    const isPlain = decode(header).alg === "HS256" && typeof (claims.role ?? "anon") === "string";
    return isPlain && ["exp", "nbf", "iat"].every((name) => typeof (claims[name] ?? 0) === "number") ? claims : null;
  } catch {
    return null;
  }
}
