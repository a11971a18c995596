-- The log of a run: what the model decided (agent_steps), which tools were called (agent_tool_calls), what people said
-- to it meanwhile (agent_messages). Big JSON lives here, in rows that are inserted once.

create table public.agent_steps (
  execution_id uuid not null references public.agent_executions on delete cascade,
  step_number integer not null check (step_number > 0),
  user_id uuid not null,
  definition_id uuid not null references public.agent_definitions,
  message jsonb not null check (jsonb_typeof(message) = 'object'),
  injected jsonb check (injected is null or jsonb_typeof(injected) = 'array'),
  finish_reason text,
  input_tokens integer not null check (input_tokens >= 0),
  output_tokens integer not null check (output_tokens >= 0),
  cached_tokens integer not null default 0 check (cached_tokens >= 0),
  usage_estimated boolean not null default false,
  streamed boolean not null default false,
  cost_usd numeric(14, 6) not null default 0 check (cost_usd >= 0),
  latency_ms integer,
  attempt integer not null,
  worker_id uuid,
  max_output_tokens bigint,
  landing text,
  created_at timestamptz not null default now(),
  primary key (execution_id, step_number)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

comment on table public.agent_steps is 'One decision of the model, append-only.';
comment on column public.agent_steps.message is 'The assistant''s message as the provider returned it.';
comment on column public.agent_steps.injected is 'Messages that the loop added before this call: nudges, validation errors, what people said.';
comment on column public.agent_steps.streamed is 'The request asked for a stream.';
comment on column public.agent_steps.max_output_tokens is 'The bound in the request: it follows from what was left of the limits then.';
comment on column public.agent_steps.landing is 'The limit that was nearly used up, if this request was the run''s last, without tools.';

create table public.agent_tool_calls (
  id uuid primary key default gen_random_uuid(),
  execution_id uuid not null references public.agent_executions on delete cascade,
  step_number integer not null check (step_number > 0),
  tool_name text not null,
  tool_input jsonb not null,
  tool_output jsonb,
  status text not null default 'pending',
  latency_ms integer,
  error text,
  called_at timestamptz default now(),

  user_id uuid not null,
  call_id text not null,
  position integer not null check (position >= 0),
  effect text not null,
  attempt integer not null default 0,
  shown text,
  edited boolean not null default false,
  cut_off text,
  finished_at timestamptz,

  constraint valid_call_status check (status in ('pending', 'awaiting_review', 'running', 'succeeded', 'failed', 'rejected', 'unknown')),
  constraint valid_effect check (effect in ('read', 'idempotent', 'unsafe')),
  constraint finished_at_set_iff_finished check ((finished_at is not null) = (status in ('succeeded', 'failed', 'rejected'))),
  constraint cut_off_only_without_result check (cut_off is null or (cut_off in ('pending', 'running', 'awaiting_review') and status in ('failed', 'rejected'))),
  constraint one_call_per_position unique (execution_id, step_number, position)
)
-- most calls are inserted with their results; of the others, one after the other is changed once or twice
with (fillfactor = 90, autovacuum_vacuum_insert_scale_factor = 0.05);

comment on column public.agent_tool_calls.status is
  'pending: provably not started · awaiting_review: a person decides first · running: may have happened · succeeded · failed · rejected · unknown: a person must say whether it happened';
comment on column public.agent_tool_calls.call_id is 'The model''s id for the call.';
comment on column public.agent_tool_calls.position is '0, 1, 2 … within the step.';
comment on column public.agent_tool_calls.shown is 'What the model saw, where that was not all of tool_output.';
comment on column public.agent_tool_calls.edited is 'A reviewer changed the arguments: tool_input is not what the model asked for.';

comment on column public.agent_tool_calls.cut_off is
  'The run''s end, not the tool or a person, ended this call; it was pending, running or awaiting_review then. agent_retry takes it up again.';

create table public.agent_messages (
  id uuid primary key default gen_random_uuid(),
  execution_id uuid not null references public.agent_executions on delete cascade,
  user_id uuid not null,
  sender_id uuid references auth.users on delete set null,
  content text not null check (octet_length(content) between 1 and 65536),
  created_at timestamptz not null default now(),
  delivered_step integer
);

comment on table public.agent_messages is 'What people say to a living run; the model reads it at its next step.';

create index agent_messages_of_execution_idx on public.agent_messages (execution_id, created_at);
create index agent_messages_undelivered_idx on public.agent_messages (execution_id) where delivered_step is null;
create index agent_messages_sender_idx on public.agent_messages (sender_id);

-- Rights ------------------------------------------------------------------------------------------------------------

alter table public.agent_steps enable row level security;
alter table public.agent_tool_calls enable row level security;
alter table public.agent_messages enable row level security;
revoke all on public.agent_steps, public.agent_tool_calls, public.agent_messages from public, anon, authenticated, service_role;
grant select on public.agent_steps, public.agent_tool_calls, public.agent_messages to authenticated, service_role;

create policy "users see the steps of their own runs" on public.agent_steps
  for select to authenticated using (user_id = (select auth.uid()));
create policy "users see the tool calls of their own runs" on public.agent_tool_calls
  for select to authenticated using (user_id = (select auth.uid()));
create policy "users see the messages to their own runs" on public.agent_messages
  for select to authenticated using (user_id = (select auth.uid()));
