// The admin API of Supabase Auth, which lite 0.10.0 lacks: users made, read, changed, banned and deleted with the secret key.

import { randomBytes, randomUUID } from "node:crypto";
import { invalid, refusal } from "./auth_errors.mjs";
import { generateLink, invite } from "./auth_links.mjs";
import {
  banEnd,
  endSessions,
  hashPassword,
  inTransaction,
  merged,
  setIdentity,
  softDelete,
  validEmail,
  validPhone,
} from "./auth_users.mjs";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const DEFAULT_PAGE_SIZE = 50;

/** Method, path below /auth/v1 and handler, which gets the path's captures and answers { body, headers }. */
export const adminRoutes = [
  ["GET", /^\/admin\/users\/?$/, listUsers],
  ["POST", /^\/admin\/users\/?$/, createUser],
  ["GET", /^\/admin\/users\/([^/]+)\/?$/, async ({ service }, id) => answerUser(service, await load(service, id))],
  ["PUT", /^\/admin\/users\/([^/]+)\/?$/, updateUser],
  ["DELETE", /^\/admin\/users\/([^/]+)\/?$/, deleteUser],
  ["GET", /^\/admin\/users\/([^/]+)\/factors\/?$/, listFactors],
  ["POST", /^\/admin\/generate_link\/?$/, generateLink],
  ["POST", /^\/invite\/?$/, invite],
];

async function listUsers({ service, url }) {
  const page = pageNumber(url, "page", 1);
  const size = pageNumber(url, "per_page", DEFAULT_PAGE_SIZE);
  if (size === 0) throw invalid("Bad Pagination Parameters: per_page must be greater than 0");
  const users = () => service.repo.table("users").where("aud", "=", "authenticated");
  const { count } = await users()
    .select(({ fn }) => fn.countAll().as("count"))
    .executeTakeFirst();
  const rows = await users()
    .selectAll()
    .orderBy("created_at", "desc")
    .orderBy("id")
    .limit(size)
    .offset((Math.max(page, 1) - 1) * size)
    .execute();
  // As in Supabase Auth, a list has no identities.
  const list = rows.map((row) => ({
    ...service.mapUserToResponse(service.repo.parseUserJson(row), [], "user"),
    identities: null,
  }));
  const pages = Math.ceil(Number(count) / size);
  const linkTo = (number, rel) => {
    const query = new URLSearchParams(url.searchParams);
    query.set("page", number);
    query.sort(); // supabase-js reads the first value of the query as the page
    return `<${url.pathname.slice("/auth/v1".length)}?${query}>; rel="${rel}"`;
  };
  const links = [...(pages > page ? [linkTo(page + 1, "next")] : []), linkTo(pages, "last")];
  return {
    body: { users: list, aud: "authenticated" },
    headers: { link: links.join(", "), "x-total-count": String(count) },
  };
}

function pageNumber(url, name, otherwise) {
  const text = url.searchParams.get(name) || String(otherwise);
  if (/^\d+$/.test(text)) return Number(text);
  throw invalid(`Bad Pagination Parameters: strconv.ParseUint: parsing "${text}": invalid syntax`);
}

async function createUser({ service, body }) {
  const { repo } = service;
  if (!body.email && !body.phone) throw invalid("Cannot create a user without either an email or phone");
  const email = body.email ? validEmail(body.email) : null;
  const phone = body.phone ? validPhone(body.phone) : null;
  await refuseTaken(repo, { email, phone });
  if (body.password && body.password_hash) {
    throw invalid("Only a password or a password hash should be provided");
  }
  if (body.id && !UUID.test(body.id)) throw invalid("ID must conform to the uuid v4 format");
  if (body.id && !/[1-9a-f]/i.test(body.id)) throw invalid("ID cannot be a nil uuid");
  const id = body.id || randomUUID();
  const banned = body.ban_duration ? banEnd(body.ban_duration) : null;
  const password = body.password_hash || (await hashPassword(body.password || randomBytes(48).toString("base64url")));
  const now = new Date().toISOString();
  const user = await inTransaction(service, async (repo) => {
    await repo.createUser({
      id,
      email,
      phone,
      encrypted_password: password,
      email_confirmed_at: body.email_confirm ? now : null,
      aud: body.aud || undefined,
      role: body.role || undefined,
      raw_app_meta_data: {},
      raw_user_meta_data: { ...body.user_metadata, ...(body.email_confirm ? { email_verified: true } : {}) },
    });
    if (email) await setIdentity(repo, id, "email", { email });
    if (phone) await setIdentity(repo, id, "phone", { phone });
    const { raw_app_meta_data: providers } = repo.parseUserJson(await repo.findUserById(id));
    return repo.updateUser(id, {
      raw_app_meta_data: merged(providers, body.app_metadata),
      phone_confirmed_at: body.phone_confirm ? now : null,
      banned_until: banned,
    });
  });
  return answerUser(service, user);
}

async function updateUser({ service, body }, id) {
  const found = await load(service, id);
  const email = body.email ? validEmail(body.email) : null;
  const phone = body.phone ? validPhone(body.phone) : null;
  const changes = {};
  if (body.ban_duration) changes.banned_until = banEnd(body.ban_duration);
  if (typeof body.password === "string") {
    service.assertPasswordStrong(body.password);
    changes.encrypted_password = await hashPassword(body.password);
  }
  await refuseTaken(service.repo, { email, phone }, id);
  const now = new Date().toISOString();
  if (body.role) changes.role = body.role.trim();
  if (body.email_confirm) changes.email_confirmed_at = now;
  if (body.phone_confirm) changes.phone_confirmed_at = now;
  if (email) changes.email = email;
  if (phone) changes.phone = phone;
  if ((email && body.email_confirm) || (phone && body.phone_confirm)) changes.is_anonymous = false;
  const user = await inTransaction(service, async (repo) => {
    if (email) await setIdentity(repo, id, "email", { email, email_verified: Boolean(body.email_confirm) });
    if (phone) await setIdentity(repo, id, "phone", { phone, phone_verified: Boolean(body.phone_confirm) });
    const { raw_app_meta_data: app } = repo.parseUserJson(await repo.findUserById(id));
    const confirmed = body.email_confirm ? { email_verified: true } : {};
    if (changes.encrypted_password) await endSessions(repo, id);
    return repo.updateUser(id, {
      ...changes,
      raw_app_meta_data: merged(app, body.app_metadata),
      raw_user_meta_data: merged({ ...found.raw_user_meta_data, ...confirmed }, body.user_metadata),
    });
  });
  return answerUser(service, user);
}

async function deleteUser({ service, body }, id) {
  const user = await load(service, id);
  if (!body.should_soft_delete) await service.repo.deleteFrom("users").where("id", "=", id).execute();
  else if (!user.deleted_at) await inTransaction(service, (repo) => softDelete(repo, user));
  return { body: {} };
}

async function listFactors({ service }, id) {
  await load(service, id);
  return { body: [] }; // the local stack has no second factors
}

/** The user, their metadata parsed. */
async function load(service, id) {
  if (!UUID.test(id)) throw refusal(404, "validation_failed", "user_id must be an UUID");
  const user = await service.repo.findUserById(id);
  if (!user) throw refusal(404, "user_not_found", "User not found");
  return service.repo.parseUserJson(user);
}

async function refuseTaken(repo, { email, phone }, ownId) {
  const isOther = (user) => user && user.id !== ownId;
  if (email && isOther(await repo.findUserByEmail(email))) {
    throw refusal(422, "email_exists", "A user with this email address has already been registered");
  }
  const withPhone = phone && (await repo.table("users").selectAll().where("phone", "=", phone).executeTakeFirst());
  if (isOther(withPhone)) {
    throw refusal(422, "phone_exists", "Phone number already registered by another user");
  }
}

async function answerUser(service, row) {
  const identities = await service.repo.findIdentitiesByUserId(row.id);
  return { body: service.mapUserToResponse(service.repo.parseUserJson(row), identities, "user") };
}
