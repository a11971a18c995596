// Clients as a browser has them: unmodified supabase-js with the publishable key.
import { createClient } from "@supabase/supabase-js"
import WebSocket from "ws"

const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY } = process.env
const opened = []

export function client() {
  const made = createClient(SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, {
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { transport: WebSocket },
  })
  opened.push(made)
  return made
}

export async function signedUp(name) {
  const made = client()
  const { data, error } = await made.auth.signUp({
    email: `${name}-${process.pid}-${opened.length}@example.org`,
    password: "a long passphrase",
  })
  if (error) throw error
  return { supabase: made, id: data.user.id }
}

export async function signedIn(email, password) {
  const made = client()
  const { data, error } = await made.auth.signInWithPassword({ email, password })
  if (error) throw error
  return { supabase: made, id: data.user.id }
}

/** Resolves with what `channel` says about its subscription: SUBSCRIBED, CHANNEL_ERROR, … */
export const subscribed = (channel) =>
  new Promise((resolve) => channel.subscribe((status, error) => resolve({ status, error })))

/** Polls `check` until it gives something true. */
export async function eventually(check, what = "it") {
  const deadline = Date.now() + 60_000
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > deadline) throw new Error(`${what} did not come`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export async function goodbye() {
  for (const made of opened) await made.removeAllChannels()
  // realtime-js keeps a timer of 10 s for joins and leaves that were answered long ago
  setTimeout(() => process.exit(), 300).unref()
}
