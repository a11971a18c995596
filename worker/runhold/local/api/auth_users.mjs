// Users as Supabase Auth keeps them: what several of its endpoints do to a user, on lite's repository.

import { createHash, randomUUID } from "node:crypto";
import bcrypt from "bcryptjs";
import { invalid } from "./auth_errors.mjs";

const HASH_COST = Number(process.env.LITE_AUTH_BCRYPT_COST ?? 10); // as lite
const EMAIL =
  /^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$/;
const PHONE = /^[1-9]\d{1,14}$/;
const DURATION = /([\d.]+)(ns|us|µs|ms|s|m|h)/g;
const MS_OF = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1e3, m: 60e3, h: 3600e3 };

/** The address in lower case. */
export function validEmail(email) {
  if (!email) throw invalid("An email address is required");
  if (email.length > 255) throw invalid("An email address is too long");
  if (!EMAIL.test(email)) throw invalid("Unable to validate email address: invalid format");
  return email.toLowerCase();
}

/** The number as it is stored, without plus sign and spaces. */
export function validPhone(phone) {
  const digits = phone.replace(/^\+/, "").replaceAll(" ", "");
  if (!PHONE.test(digits)) throw invalid("Invalid phone number format (E.164 required)");
  return digits;
}

/** The end of a ban of a duration such as `24h` or `1h30m` from now; null for `none` and for zero. */
export function banEnd(duration) {
  if (duration === "none") return null;
  const parts = [...duration.matchAll(DURATION)];
  const ms = parts.reduce((sum, [, number, unit]) => sum + Number(number) * MS_OF[unit], 0);
  const isWhole = parts.map(([part]) => part).join("") === duration.replace(/^\+/, "") && parts.length > 0;
  const end = new Date(Date.now() + ms);
  if ((!isWhole && duration !== "0") || Number.isNaN(end.getTime())) {
    throw invalid(`invalid format for ban duration: time: invalid duration "${duration}"`);
  }
  return ms === 0 ? null : end.toISOString();
}

export const isBanned = (user) => Boolean(user.banned_until) && Date.parse(user.banned_until) > Date.now();

/** The hash that lite compares passwords with. */
export async function hashPassword(password) {
  if (Buffer.byteLength(password) > 72) throw invalid("bcrypt: password length exceeds 72 bytes");
  return bcrypt.hash(password, HASH_COST);
}

/** Metadata with updates; null removes a key. */
export function merged(metadata, updates) {
  const all = { ...metadata, ...updates };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== null));
}

/** Run `work` in a transaction in which the service's own methods take part, as lite does it. */
export async function inTransaction(service, work) {
  const { repo } = service;
  try {
    return await repo.transaction(async (transaction) => {
      service.repo = transaction;
      return work(transaction);
    });
  } finally {
    service.repo = repo;
  }
}

/** Set the identity that a user has by e-mail or phone, and with it the providers in app_metadata. */
export async function setIdentity(repo, userId, provider, data) {
  const identities = await repo.findIdentitiesByUserId(userId);
  const existing = identities.find((identity) => identity.provider === provider);
  if (existing) {
    await repo.updateIdentity(existing.id, { identity_data: { ...existing.identity_data, ...data } });
    return;
  }
  const verified = { email_verified: false, phone_verified: false };
  await repo.createIdentity({
    id: randomUUID(),
    provider,
    provider_id: userId,
    user_id: userId,
    identity_data: { ...verified, ...data, sub: userId },
  });
  const providers = [...new Set([...identities.map((identity) => identity.provider), provider])];
  const user = repo.parseUserJson(await repo.findUserById(userId));
  await repo.updateUser(userId, {
    raw_app_meta_data: { ...user.raw_app_meta_data, provider: providers[0], providers },
  });
}

/** End sessions of a user, all or all but one. */
export async function endSessions(repo, userId, exceptSessionId) {
  await repo.deleteRefreshTokensForUser(userId, exceptSessionId);
  await repo.deleteUserSessions(userId, exceptSessionId);
}

/** Keep the row of a user and make the person unrecognisable: what soft deletion is. */
export async function softDelete(repo, user) {
  const hash = (value) => createHash("sha256").update(user.id + (value ?? "")).digest("base64url");
  await repo.updateUser(user.id, {
    email: hash(user.email),
    phone: hash(user.phone).slice(0, 15),
    email_change: hash(user.email_change),
    phone_change: hash(user.phone_change).slice(0, 15),
    encrypted_password: null,
    confirmation_token: "",
    recovery_token: "",
    email_change_token_current: "",
    email_change_token_new: "",
    phone_change_token: "",
    raw_user_meta_data: {},
    raw_app_meta_data: {},
    deleted_at: new Date().toISOString(),
  });
  for (const identity of await repo.findIdentitiesByUserId(user.id)) {
    await repo.updateIdentity(identity.id, {
      identity_data: {},
      provider_id: hash(`${identity.provider}:${identity.provider_id}`),
    });
  }
  await endSessions(repo, user.id);
}
