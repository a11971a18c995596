// Auth: in front of lite's routes those that it lacks, behind them the answers that it gives otherwise than Supabase Auth.

import { adminRoutes } from "./auth_admin.mjs";
import { answerOf, bodyOf, invalid, learnErrorClass, refusal } from "./auth_errors.mjs";
import { followLink } from "./auth_links.mjs";
import { completeService } from "./auth_service.mjs";
import { validEmail } from "./auth_users.mjs";

const ROOT = "/auth/v1";
const ADMIN_ROLES = ["service_role", "supabase_admin"];

/** The routes that lite serves, and their methods in Supabase Auth. */
const LITE_ROUTES = {
  "/signup": ["POST"],
  "/token": ["POST"],
  "/otp": ["POST"],
  "/magiclink": ["POST"],
  "/verify": ["GET", "POST"],
  "/recover": ["POST"],
  "/resend": ["POST"],
  "/health": ["GET"],
  "/settings": ["GET"],
  "/authorize": ["GET"],
  "/callback": ["GET", "POST"],
  "/logout": ["POST"],
  "/user": ["GET", "PUT"],
  "/reauthenticate": ["GET"],
  "/.well-known/jwks.json": ["GET"],
  "/.well-known/openid-configuration": ["GET"],
};
const USER_ROUTES = /^\/(logout|user|reauthenticate)$/;
const ROUTES_WITH_EMAIL = /^\/(signup|otp|magiclink|recover|resend|user)$/;

/** What Supabase Auth answers where a feature is switched off; those that the local stack does not have. */
const SWITCHED_OFF = [
  [/^POST \/factors$/, 422, "mfa_totp_enroll_not_enabled", "MFA enroll is disabled for TOTP"],
  [/^\w+ \/factors\//, 404, "mfa_factor_not_found", "Factor not found"],
  [/^\w+ \/admin\/users\/[^/]+\/factors\//, 404, "mfa_factor_not_found", "Factor not found"],
  [/^\w+ \/user\/identities\//, 404, "manual_linking_disabled", "Manual linking is disabled"],
  [/^\w+ (\/admin)?\/sso\b/, 404, "saml_provider_disabled", "SAML 2.0 is disabled"],
];

/** Codes that signing in by phone gets by route; there is nobody to send a message. */
const PHONE_OFF = {
  "/signup": [400, "Phone signups are disabled"],
  "/token": [422, "Phone logins are disabled"],
  "/user": [400, "Unsupported phone provider"],
  "/otp": [400, "Unsupported phone provider"],
  "/resend": [400, "Unsupported phone provider"],
  "/verify": [400, "Unsupported phone provider"],
};

const GRANTS_OFF = {
  id_token: [400, "provider_disabled", "Provider is not enabled"],
  web3: [422, "web3_provider_disabled", "Web3 provider is disabled"],
};

/** Types of codes that lite's own check of types refuses though it can verify them. */
const TYPE_ALIASES = { email: "magiclink", invite: "signup" };

/** Fields of bodies whose type matters, of all endpoints. */
const STRINGS = new Set(
  "aud ban_duration email id new_email password password_hash phone redirect_to refresh_token role token token_hash type".split(" "),
);
const OBJECTS = new Set(["app_metadata", "data", "user_metadata"]);

const FAILED = {
  "POST /signup": "Database error saving new user",
  "POST /admin/users": "Database error creating new user",
};

/** Middleware of lite's app that makes its Auth whole. */
export function authMiddleware({ keys, jwtSecret, settings }) {
  return async (context, next) => {
    const url = new URL(context.req.url);
    const path = url.pathname.slice(ROOT.length);
    const route = `${context.req.method} ${path.replace(/\/$/, "")}`;
    const reply = ({ status = 200, body, headers = {} }) => {
      const code = body.error_code ? { "x-sb-error-code": body.error_code } : {};
      return context.json(body, status, { ...headers, ...code });
    };
    const fail = (error) => reply(answerOf(error, FAILED[route]));
    if (context.req.method === "OPTIONS" || !url.pathname.startsWith(`${ROOT}/`)) return next();
    const caller = callerOf(keys, context.req);
    const isPublic = /^\/(verify|callback|authorize|\.well-known\/.*)$/.test(path);
    if (!caller.key && !isPublic) return next(); // lite tells what is wrong with the key
    const service = context.var.authService;
    await learnErrorClass(service);
    try {
      const body = await readBody(context.req, path);
      // Links in mails, which only the API's log gets, lead to this stack and not to the application.
      service.mailer.config = { ...service.mailer.config, site_url: url.origin };
      completeService(service, {
        settings,
        jwtSecret,
        issuer: `${url.origin}${ROOT}`,
        isPhone: Boolean(body.phone),
        sessionId: () => context.get("sessionId"),
      });
      const answer = await answerHere({ service, body, url, path, route, caller, method: context.req.method });
      if (answer) return reply(answer);
    } catch (error) {
      return fail(error);
    }
    await next();
    if (context.error && context.res.status >= 500) context.res = fail(context.error);
    else if (context.res.status >= 400 && !/json/.test(context.res.headers.get("content-type") ?? "")) {
      context.res = reply(bodyOf(context.res.status, "not_found", `The local stack's Auth does not serve ${route}.`));
    }
  };
}

/** The answer of this file, or undefined for lite to answer. */
async function answerHere(request) {
  const { service, body, url, path, route, caller, method } = request;
  const off = SWITCHED_OFF.find(([pattern]) => pattern.test(route));
  if (path.startsWith("/admin/") || path === "/invite") {
    requireAdmin(caller);
    for (const [verb, pattern, handler] of adminRoutes) {
      const match = verb === method && pattern.exec(path);
      if (match) return handler(request, ...match.slice(1));
    }
  }
  if (off) throw refusal(...off.slice(1));
  if (!LITE_ROUTES[path]?.includes(method)) {
    const isKnown = path in LITE_ROUTES || adminRoutes.some(([, pattern]) => pattern.test(path));
    throw refusal(isKnown ? 405 : 404, "not_found", `The local stack's Auth does not serve ${route}.`);
  }
  if (path === "/verify" && method === "POST" && !body.token && !body.token_hash) {
    throw invalid("Verify requires a token or a token hash");
  }
  const type = path === "/verify" && TYPE_ALIASES[body.type ?? url.searchParams.get("type")];
  if (type && method === "GET") return followLink(request, type);
  if (type) return { body: await service.verifyOtp({ ...body, type }) };
  if (USER_ROUTES.test(path) && !caller.token) throw refusal(403, "bad_jwt", "invalid claim: missing sub claim");
  if (method === "GET") return undefined;
  if (body.phone && PHONE_OFF[path]) {
    const [status, message] = PHONE_OFF[path];
    throw refusal(status, "phone_provider_disabled", message);
  }
  if (body.email && ROUTES_WITH_EMAIL.test(path)) validEmail(body.email);
  const grant = path === "/token" && GRANTS_OFF[url.searchParams.get("grant_type")];
  if (grant) throw refusal(...grant);
  return undefined;
}

/** The request's key, null if there is no good one; its token, if it is not the key itself; and whom they stand for. */
function callerOf(keys, request) {
  const headers = {
    apikey: request.header("apikey") ?? request.query("apikey"),
    authorization: request.header("authorization"),
    "user-agent": request.header("user-agent"),
  };
  return { key: keys.keyOf(headers), token: keys.tokenOf(headers), ...keys.caller(headers) };
}

function requireAdmin({ role }) {
  if (!role) {
    throw refusal(403, "bad_jwt", "invalid JWT: unable to parse or verify signature, token signature is invalid");
  }
  if (!ADMIN_ROLES.includes(role)) throw refusal(403, "not_admin", "User not allowed");
}

/** The body as an object. One that is no JSON stays for lite to refuse where lite serves the path. */
async function readBody(request, path) {
  const text = request.method === "GET" ? "" : await request.text();
  let body;
  try {
    body = text === "" ? {} : JSON.parse(text);
  } catch {
    if (path in LITE_ROUTES) return {};
  }
  if (!isObject(body)) throw badJson("not a JSON object");
  for (const [name, value] of Object.entries(body)) {
    if (value === null) continue;
    if (STRINGS.has(name) && typeof value !== "string") throw badJson(`${name} is not a string`);
    if (OBJECTS.has(name) && !isObject(value)) throw badJson(`${name} is not an object`);
  }
  return body;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const badJson = (what) => refusal(400, "bad_json", `Could not parse request body as JSON: ${what}`);
