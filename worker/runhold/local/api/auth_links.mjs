// Links that sign a user in or confirm an address, made by an administrator instead of being mailed by Auth.

import { createHash, randomInt, randomUUID } from "node:crypto";
import { answerOf, invalid, refusal } from "./auth_errors.mjs";
import { hashPassword, inTransaction, merged, setIdentity, validEmail } from "./auth_users.mjs";

/** The columns of a user that hold the token of a link of this type, and when it was made. */
const COLUMNS = {
  signup: ["confirmation_token", "confirmation_sent_at"],
  invite: ["confirmation_token", "confirmation_sent_at"],
  magiclink: ["recovery_token", "recovery_sent_at"],
  recovery: ["recovery_token", "recovery_sent_at"],
  email_change_current: ["email_change_token_current", "email_change_sent_at"],
  email_change_new: ["email_change_token_new", "email_change_sent_at"],
};

/** `POST /admin/generate_link`: the user, and the link, code and token that a mail would have held. */
export async function generateLink({ service, body, url }) {
  const email = validEmail(body.email);
  const existing = await service.repo.findUserByEmail(email);
  // A magic link for somebody new is a sign-up.
  const type = !existing && body.type === "magiclink" ? "signup" : body.type;
  if (!Object.hasOwn(COLUMNS, type ?? "")) {
    throw invalid(`Invalid email action link type requested: ${type ?? ""}`);
  }
  if (!existing && type !== "signup" && type !== "invite") {
    throw refusal(404, "user_not_found", "User with this email not found");
  }
  const isChange = type.startsWith("email_change");
  const newEmail = isChange ? validEmail(body.new_email) : null;
  if (newEmail && (await service.repo.findUserByEmail(newEmail))) throw taken();
  const made = await makeToken(service, { type, email, newEmail, existing, body });
  const redirectTo = service.resolveEmailRedirect(body.redirect_to ?? url.searchParams.get("redirect_to"));
  return {
    body: {
      ...(await userWithToken(service, made)),
      action_link: actionLink(url.origin, made.hash, isChange ? "email_change" : type, redirectTo),
      email_otp: made.code,
      hashed_token: made.hash,
      verification_type: type,
      redirect_to: redirectTo,
    },
  };
}

/** `GET /verify` with a type that lite's own handler refuses: back to the application, with a session or an error. */
export async function followLink({ service, url }, type) {
  const target = service.resolveEmailRedirect(url.searchParams.get("redirect_to"));
  let fragment;
  try {
    const session = await service.verifyOtp({ token_hash: url.searchParams.get("token"), type });
    const { access_token, refresh_token, expires_in, expires_at, token_type } = session;
    fragment = { access_token, refresh_token, expires_in, expires_at, token_type };
  } catch (error) {
    const { body } = answerOf(error);
    fragment = { error: "access_denied", error_code: body.error_code, error_description: body.msg };
  }
  const given = new URLSearchParams({ ...fragment, type: url.searchParams.get("type") });
  return { status: 303, body: {}, headers: { location: `${target}#${given}` } };
}

/** `POST /invite`: the user. The mail is in the API's log. */
export async function invite({ service, body, url }) {
  const email = validEmail(body.email);
  const existing = await service.repo.findUserByEmail(email);
  const made = await makeToken(service, { type: "invite", email, existing, body });
  const redirectTo = service.resolveEmailRedirect(body.redirect_to ?? url.searchParams.get("redirect_to"));
  const { mailer } = service;
  await mailer.send(await mailer.render("invite", email, made.hash, made.code, { redirectTo }));
  return { body: await userWithToken(service, made) };
}

/** Store a new token on the user, who is made if there is none: `{ id, code, hash }`. */
async function makeToken(service, { type, email, newEmail, existing, body }) {
  if (existing?.email_confirmed_at && (type === "signup" || type === "invite")) throw taken();
  if (!existing && type === "signup" && body.type === "signup") {
    if (!body.password) throw invalid("Signup requires a valid password");
    service.assertPasswordStrong(body.password);
  }
  const code = String(randomInt(10 ** service.otpLength)).padStart(service.otpLength, "0");
  const hash = createHash("sha256").update((newEmail && type === "email_change_new" ? newEmail : email) + code);
  const id = existing?.id ?? randomUUID();
  const password = !existing && body.password ? await hashPassword(body.password) : null;
  const token = { id, code, hash: hash.digest("hex") };
  const now = new Date().toISOString();
  const [tokenColumn, timeColumn] = COLUMNS[type];
  await inTransaction(service, async (repo) => {
    if (!existing) {
      await repo.createUser({
        id,
        email,
        encrypted_password: password,
        raw_app_meta_data: {},
        raw_user_meta_data: body.data ?? {},
      });
      await setIdentity(repo, id, "email", { email });
    } else if (type === "signup") {
      const { raw_user_meta_data: metadata } = repo.parseUserJson(existing);
      await repo.updateUser(id, { raw_user_meta_data: merged(metadata, body.data) });
    }
    await repo.updateUser(id, {
      [tokenColumn]: token.hash,
      [timeColumn]: now,
      ...(type === "invite" ? { invited_at: now } : {}),
      ...(newEmail ? { email_change: newEmail } : {}),
    });
  });
  return token;
}

async function userWithToken(service, { id }) {
  const user = service.repo.parseUserJson(await service.repo.findUserById(id));
  return service.mapUserToResponse(user, await service.repo.findIdentitiesByUserId(id), "user");
}

/** As Supabase Auth, escape the target only where the link would be read otherwise. */
function actionLink(origin, hash, type, redirectTo) {
  const target = /[&=#]/.test(redirectTo) ? encodeURIComponent(redirectTo) : redirectTo;
  return `${origin}/auth/v1/verify?token=${hash}&type=${type}&redirect_to=${target}`;
}

const taken = () =>
  refusal(422, "email_exists", "A user with this email address has already been registered");
