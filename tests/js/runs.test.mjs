// What a frontend and a reviewer do with supabase-js alone, while a worker process runs.
import assert from "node:assert/strict"
import { after, test } from "node:test"
import { eventually, goodbye, signedIn, signedUp, subscribed } from "./people.mjs"

after(goodbye)

const plan = (...moves) => ({ agent_type: "clerk", input_data: { plan: moves } })
const send = ["call", "send", { to: "ada", text: "hello" }]
const reviewerSignsIn = () => signedIn(process.env.REVIEWER_EMAIL, process.env.REVIEWER_PASSWORD)

const insert = async (supabase, row) => {
  const { data, error } = await supabase.from("agent_executions").insert(row).select().single()
  assert.equal(error, null)
  return data
}

const until = (supabase, id, status) =>
  eventually(async () => {
    const { data } = await supabase.from("agent_executions").select("*").eq("id", id).single()
    return data.status === status && data
  }, `${status} of ${id}`)

test("a run is inserted, hinted at, approved by another person and completed", async () => {
  const user = await signedUp("user")
  const reviewer = await reviewerSignsIn()

  const told = []
  const inbox = reviewer.supabase
    .channel(`reviews:${reviewer.id}`, { config: { private: true } })
    .on("broadcast", { event: "review" }, ({ payload }) => told.push(payload))
  assert.equal((await subscribed(inbox)).status, "SUBSCRIBED")

  const run = await insert(user.supabase, plan(send, ["say", "Sent."]))
  assert.equal(run.status, "pending")
  const hints = []
  const topic = user.supabase
    .channel(`execution:${run.id}`, { config: { private: true } })
    .on("broadcast", { event: "status" }, ({ payload }) => hints.push(payload.status))
  assert.equal((await subscribed(topic)).status, "SUBSCRIBED")

  await until(user.supabase, run.id, "awaiting_review")
  const { data: open } = await reviewer.supabase
    .from("agent_reviews").select().eq("status", "pending").eq("execution_id", run.id)
  assert.deepEqual(open[0].proposed_input, { to: "ada", text: "hello" })
  await eventually(() => told.some((hint) => hint.id === open[0].id), "the hint of the review")

  const { data: context } = await reviewer.supabase.rpc("agent_review_context", { review_id: open[0].id })
  assert.equal(context.run.id, run.id)

  const { data: decided, error } = await reviewer.supabase
    .from("agent_reviews").update({ status: "approved" }).eq("id", open[0].id).select().single()
  assert.equal(error, null)
  assert.equal(decided.reviewer_id, reviewer.id)

  const done = await until(user.supabase, run.id, "completed")
  assert.deepEqual(done.result, { text: "Sent." })
  await eventually(() => hints.includes("completed"), "the hint of the end")

  const again = await reviewer.supabase.from("agent_reviews").update({ status: "rejected" }).eq("id", open[0].id)
  assert.equal(again.error.code, "RH007")
})

test("mistakes are refused with a code, a sentence and a hint", async () => {
  const { supabase } = await signedUp("user")
  const unknown = await supabase.from("agent_executions").insert({ agent_type: "nobody", input_data: {} })
  assert.equal(unknown.error.code, "RH001")
  assert.match(unknown.error.message, /no agent type 'nobody'/)
  assert.ok(unknown.error.hint)

  const list = await supabase.from("agent_executions").insert({ agent_type: "clerk", input_data: [1] })
  assert.equal(list.error.code, "RH003")
  const odd = await supabase.from("agent_executions").insert({ ...plan(), limits: { max_steps: 0 } })
  assert.equal(odd.error.code, "RH004")
  const forged = await supabase.from("agent_executions").insert({ ...plan(), status: "completed" })
  assert.equal(forged.error.code, "42501")
})

test("a mebibyte of input is refused with a sentence", async () => {
  const { supabase } = await signedUp("user")
  const big = await supabase.from("agent_executions")
    .insert({ agent_type: "clerk", input_data: { text: "x".repeat(1024 * 1024) } })
  assert.equal(big.error.code, "RH003")
  assert.match(big.error.message, /262144/)
})

test("strangers see nothing, hear nothing and stop nothing", async () => {
  const user = await signedUp("user")
  const stranger = await signedUp("stranger")
  const run = await insert(user.supabase, plan(send, ["say", "Sent."]))
  await until(user.supabase, run.id, "awaiting_review")

  for (const table of ["agent_executions", "agent_steps", "agent_tool_calls", "agent_reviews", "agent_events"]) {
    const { data, error } = await stranger.supabase.from(table).select()
    assert.equal(error, null)
    assert.equal(data.filter((row) => (row.execution_id ?? row.id) === run.id).length, 0, table)
  }
  const listening = stranger.supabase.channel(`execution:${run.id}`, { config: { private: true } })
  assert.equal((await subscribed(listening)).status, "CHANNEL_ERROR")
  await stranger.supabase.removeChannel(listening)

  const cancel = await stranger.supabase.rpc("agent_cancel", { execution_id: run.id })
  assert.equal(cancel.error.code, "RH006")
  const update = await stranger.supabase.from("agent_reviews").update({ status: "approved" }).eq("execution_id", run.id).select()
  assert.deepEqual(update.data, [])

  const own = await user.supabase.from("agent_reviews").update({ status: "approved" }).eq("execution_id", run.id)
  assert.equal(own.error.code, "RH009")

  const { data: cancelled } = await user.supabase.rpc("agent_cancel", { execution_id: run.id, reason: "enough" })
  assert.equal(cancelled.status, "cancelled")
})

test("postgres_changes follow a run for projects that publish its table", async () => {
  const user = await signedUp("user")
  const statuses = []
  const channel = user.supabase.channel("my-runs").on(
    "postgres_changes",
    { event: "UPDATE", schema: "public", table: "agent_executions", filter: `user_id=eq.${user.id}` },
    ({ new: row }) => statuses.push(row.status),
  )
  const ready = new Promise((resolve) => channel.on("system", {}, (message) => message.status === "ok" && resolve()))
  assert.equal((await subscribed(channel)).status, "SUBSCRIBED")
  await ready
  await insert(user.supabase, plan(["say", "Quick."]))
  await eventually(() => statuses.includes("completed"), "the change")
})

test("the health of an agent is one call away", async () => {
  const { supabase } = await signedUp("user")
  const run = await insert(supabase, plan(["say", "Well."]))
  await until(supabase, run.id, "completed")
  const { data, error } = await supabase.rpc("agent_health_metrics", {
    agent_type: "clerk",
    since: new Date(Date.now() - 7 * 24 * 60 * 60 * 1000).toISOString(),
  })
  assert.equal(error, null)
  assert.equal(data.runs, 1)
  assert.equal(data.completion_rate, 1)
})
