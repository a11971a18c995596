// What lite's Auth 0.10.0 lacks in flows that it has: bans, anonymous users, and all that an access token says.

import { randomUUID } from "node:crypto";
import { refusal } from "./auth_errors.mjs";
import { endSessions, inTransaction, isBanned, setIdentity } from "./auth_users.mjs";
import { signToken, tokenClaims } from "./tokens.mjs";

const banned = (status, message = "User is banned") => refusal(status, "user_banned", message);

/** Complete the service of one request. `sessionId()` tells the caller's session. */
export function completeService(service, { settings, jwtSecret, issuer, isPhone, sessionId }) {
  const lite = boundMethods(service);
  const findUser = async (id) => service.repo.findUserById(id);

  service.mapUserToResponse = (user, identities, kind) => ({
    ...lite.mapUserToResponse(user, identities, kind),
    ...present({
      phone_confirmed_at: user.phone_confirmed_at,
      invited_at: user.invited_at,
      new_phone: user.phone_change,
      banned_until: user.banned_until,
      deleted_at: user.deleted_at,
    }),
    is_anonymous: user.is_anonymous,
  });

  // Every session begins here, whatever it was granted for.
  service.createSessionForUser = async (user, identities, kind, options = {}) => {
    if (isBanned(user)) throw banned(403);
    const session = await lite.createSessionForUser(user, identities, kind, options);
    const isForeign = options.provider && options.provider !== "email";
    const method = options.authenticationMethod ?? (isForeign ? "oauth" : "password");
    const now = new Date().toISOString();
    await service.repo
      .insertInto("mfa_amr_claims")
      .values({
        id: randomUUID(),
        session_id: session.session_id,
        authentication_method: method,
        created_at: now,
        updated_at: now,
      })
      .execute();
    return completeSession(session);
  };

  service.createRefreshResponse = async (...given) => completeSession(await lite.createRefreshResponse(...given));

  /** The session with a token that says all that Supabase's does. */
  async function completeSession(session) {
    const methods = await service.repo
      .table("mfa_amr_claims")
      .select(["authentication_method", "updated_at"])
      .where("session_id", "=", session.session_id)
      .orderBy("updated_at", "desc")
      .execute();
    const amr = methods.map(({ authentication_method: method, updated_at: time }) => ({
      method,
      timestamp: Math.floor(Date.parse(time) / 1000),
    }));
    const { user } = session;
    const claims = {
      iss: issuer,
      ...tokenClaims(session.access_token),
      email: user.email,
      phone: user.phone,
      app_metadata: user.app_metadata,
      user_metadata: user.user_metadata,
      aal: "aal1",
      amr,
      is_anonymous: user.is_anonymous,
    };
    session.access_token = signToken(claims, jwtSecret);
    return session;
  }

  service.signInWithPassword = async (email, password) => {
    const user = email ? await service.repo.findUserByEmail(email) : null;
    if (user && isBanned(user)) throw banned(400);
    return lite.signInWithPassword(email, password);
  };

  service.refreshSession = async (token) => {
    const known = token ? await service.repo.findRefreshToken(token) : null;
    const user = known && (await findUser(known.user_id));
    if (user && isBanned(user)) throw banned(400, "Invalid Refresh Token: User Banned");
    return lite.refreshSession(token);
  };

  const refuseBanned = async (id) => {
    const user = await findUser(id);
    if (user && isBanned(user)) throw banned(403);
    return user;
  };
  for (const name of ["getUser", "reauthenticate"]) {
    service[name] = async (id) => {
      await refuseBanned(id);
      return lite[name](id);
    };
  }
  service.signOut = async (session, scope, id) => {
    await refuseBanned(id);
    return lite.signOut(session, scope ?? "global", id);
  };

  service.signUp = async (email, password, data) => {
    if (email || isPhone) return lite.signUp(email, password, data);
    if (!settings.enable_anonymous_sign_ins) {
      throw refusal(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled");
    }
    if (settings.enable_signup === false) {
      throw refusal(422, "signup_disabled", "Signups not allowed for this instance");
    }
    const made = await service.repo.createUser({
      id: randomUUID(),
      email: null,
      is_anonymous: true,
      raw_app_meta_data: {},
      raw_user_meta_data: data ?? {},
    });
    const user = service.repo.parseUserJson(made);
    const session = await service.createSessionForUser(user, [], "session", { authenticationMethod: "anonymous" });
    return { user: session.user, session };
  };

  service.updateUser = async (id, { data, password, email }) => {
    const user = await refuseBanned(id);
    const isNewAddress = email && user?.is_anonymous && !settings.email.enable_confirmations;
    if (password && user?.is_anonymous && !email) {
      const message = "Updating password of an anonymous user without an email or phone is not allowed";
      throw refusal(422, "validation_failed", message);
    }
    return inTransaction(service, async (repo) => {
      const updated = await lite.updateUser(id, { data, password, ...(isNewAddress ? {} : { email }) });
      // A new password ends the sessions of whoever knew the old one.
      if (password) await endSessions(repo, id, sessionId());
      if (!isNewAddress) return updated;
      await makePermanent(repo, user, email.toLowerCase());
      return lite.getUser(id);
    });
  };

  service.completeVerifyOtp = async (user, column, type) => {
    if (type === "email_change" && user.is_anonymous) {
      await service.repo.updateUser(user.id, { is_anonymous: false });
    }
    return lite.completeVerifyOtp(user, column, type);
  };
}

/** Give an anonymous user an address, which counts as confirmed like that of somebody who signs up. */
async function makePermanent(repo, user, email) {
  const other = await repo.findUserByEmail(email);
  if (other) throw refusal(422, "email_exists", "A user with this email address has already been registered");
  const { raw_user_meta_data: metadata } = repo.parseUserJson(await repo.findUserById(user.id));
  await repo.updateUser(user.id, {
    email,
    is_anonymous: false,
    email_confirmed_at: new Date().toISOString(),
    raw_user_meta_data: { ...metadata, email_verified: true },
  });
  await setIdentity(repo, user.id, "email", { email, email_verified: true });
}

/** Lite's own methods, which see those that replace them. */
function boundMethods(service) {
  return new Proxy(service, {
    get: (_, name) => Object.getPrototypeOf(service)[name].bind(service),
  });
}

const present = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
