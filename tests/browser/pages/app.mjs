// A small application: a user starts a run and watches it, a reviewer decides what waits. It has only what every browser
// and the npm package supabase-js have.

const { url, key, agent, input } = await (await fetch("/config.json")).json();
const client = window.supabase.createClient(url, key);
const at = (id) => document.getElementById(id);
const show = (id, text) => (at(id).textContent = text);

/** Do what a button is for; a refusal is shown. */
const on = (id, act) =>
  at(id).addEventListener("click", async () => {
    show("refusal", "");
    const { error } = (await act()) ?? {};
    if (error) show("refusal", `${error.code}: ${error.message}`);
  });

const account = () => ({ email: at("email").value, password: at("password").value });

on("sign-up", () => client.auth.signUp(account()));
on("sign-in", () => client.auth.signInWithPassword(account()));
on("sign-out", () => client.auth.signOut());

on("start", async () => {
  const { data: run, error } = await client
    .from("agent_executions")
    .insert({ agent_type: agent, input_data: input })
    .select()
    .single();
  if (error) return { error };
  show("run", run.id);
  client
    .channel(`execution:${run.id}`, { config: { private: true } })
    .on("broadcast", { event: "status" }, ({ payload }) => add("statuses", payload.status).then(() => read(run.id)))
    .on("broadcast", { event: "progress" }, ({ payload }) => show("progress", JSON.stringify(payload)))
    .subscribe((status) => show("channel", status));
});

async function read(id) {
  const { data } = await client.from("agent_executions").select("status, result").eq("id", id).single();
  if (data.status === "completed") show("result", data.result.text);
}

async function add(list, text) {
  const item = document.createElement("li");
  item.textContent = text;
  at(list).append(item);
  return item;
}

client.auth.onAuthStateChange((_, session) => {
  show("who", session ? session.user.email : "nobody");
  if (session) setTimeout(() => listen(session.user.id)); // not inside the callback, as supabase-js asks
});

/** Reviewers hear of what waits for them, and find what waited before. */
async function listen(id) {
  if (client.getChannels().some(({ topic }) => topic.endsWith(`reviews:${id}`))) return;
  client
    .channel(`reviews:${id}`, { config: { private: true } })
    .on("broadcast", { event: "review" }, list)
    .subscribe((status) => status === "SUBSCRIBED" && list());
}

async function list() {
  const { data } = await client.from("agent_reviews").select("id, tool_name, proposed_input").eq("status", "pending");
  at("reviews").replaceChildren();
  for (const { id, tool_name, proposed_input } of data ?? []) {
    const item = await add("reviews", `${tool_name} ${JSON.stringify(proposed_input)}`);
    const button = document.createElement("button");
    button.textContent = "Approve";
    button.addEventListener("click", async () => {
      const { error } = await client.from("agent_reviews").update({ status: "approved" }).eq("id", id);
      show("refusal", error ? `${error.code}: ${error.message}` : "");
      await list();
    });
    item.append(button);
  }
}

window.client = client; // for what the test asks by itself
