-- Runs. A client inserts a row; from then on only functions change it.

create table public.agent_executions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users on delete cascade,
  agent_type text not null references public.agent_types,
  status text not null default 'pending',
  input_data jsonb not null,
  state jsonb default '{}',
  result jsonb,
  error text,
  step_count integer default 0,
  token_count integer default 0,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  completed_at timestamptz,

  tenant_id text,
  error_detail jsonb,
  limits jsonb,
  allowance jsonb,
  definition_id uuid,
  effective_limits jsonb,
  priority smallint not null default 0,
  wake_at timestamptz,
  idempotency_key text,
  forked_from uuid references public.agent_executions on delete set null,
  copied_steps integer not null default 0,
  copied_tokens integer not null default 0,
  resumed_after_step integer not null default 0,
  metadata jsonb,

  attempt integer not null default 0,
  worker_id uuid,
  fence bigint not null default 0,
  claim_seq bigint,
  recorded_seq bigint not null default 0,
  cancel_requested_at timestamptz,
  outage_since timestamptz,
  release_count integer not null default 0,
  waiting_since timestamptz,
  waiting_told_at timestamptz,

  started_at timestamptz,
  state_since timestamptz not null default now(),
  active_ms bigint not null default 0,
  queued_ms bigint not null default 0,
  review_ms bigint not null default 0,

  input_tokens integer not null default 0,
  output_tokens integer not null default 0,
  cached_tokens integer not null default 0,
  cost_usd numeric(14, 6) not null default 0,
  reserved_tokens integer not null default 0,
  reserved_usd numeric(14, 6) not null default 0,
  reserved_in bigint[],
  tool_call_count integer not null default 0,
  tool_error_count integer not null default 0,
  review_count integer not null default 0,

  constraint valid_status check (status in ('pending', 'running', 'completed', 'failed', 'cancelled', 'awaiting_review')),
  constraint worker_set_iff_running check ((worker_id is not null) = (status = 'running')),
  constraint completed_at_set_iff_final check ((completed_at is not null) = (status in ('completed', 'failed', 'cancelled'))),
  constraint reserved_only_while_running check ((reserved_in is null and reserved_tokens = 0 and reserved_usd = 0) or status = 'running'),
  constraint error_set_iff_failed check ((error is not null) = (status = 'failed')),
  constraint result_only_if_completed check (result is null or status = 'completed'),
  constraint input_is_an_object check (jsonb_typeof(input_data) = 'object'),
  constraint state_is_a_small_object check (jsonb_typeof(state) = 'object' and octet_length(state::text) <= 8192),
  constraint limits_is_an_object check (limits is null or jsonb_typeof(limits) = 'object'),
  constraint allowance_is_an_object check (allowance is null or jsonb_typeof(allowance) = 'object'),
  constraint limits_computed_when_claimed check (status <> 'running' or (effective_limits is not null and definition_id is not null)),
  constraint metadata_is_a_small_object check (metadata is null or (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 8192)),
  constraint idempotency_key_is_short check (length(idempotency_key) between 1 and 200),
  constraint counters_never_negative check (step_count >= 0 and token_count >= 0 and attempt >= 0 and active_ms >= 0)
) with (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02);

comment on column public.agent_executions.tenant_id is 'From the user''s JWT (setting tenant_claim); null without.';
comment on column public.agent_executions.limits is 'What this run asked for itself. It can only tighten.';
comment on column public.agent_executions.allowance is
  'What an operator allowed this run beyond its type''s limits, by agent_retry: in place of those of the definition and of agent_types.';
comment on column public.agent_executions.definition_id is
  'The definition that the worker runs which claimed it last. No foreign key: every claim would pay for its check.';
comment on column public.agent_executions.effective_limits is
  'What holds for this run: computed at each claim and retry, and when an operator changes agent_types.limits while it runs. '
  'Worker and database enforce this and nothing else.';
comment on column public.agent_executions.copied_steps is
  'Steps that a fork took over from forked_from. They count against the limits, not as spending.';
comment on column public.agent_executions.copied_tokens is 'Of token_count: those of the copied steps.';
comment on column public.agent_executions.resumed_after_step is
  'The last step before a person retried or forked the run; 0: nobody did. What was wrong before it is not held against the model.';
comment on column public.agent_executions.wake_at is 'Not claimed before this time; null once it has come.';
comment on column public.agent_executions.attempt is
  'Claims since the last progress: +1 at each claim, back to 1 with a step, not counted for releases. At max_attempts a lost worker ends the run.';
comment on column public.agent_executions.fence is '+1 at every claim. Records under an older fence are refused.';
comment on column public.agent_executions.claim_seq is 'The worker''s claim that gave it this run.';
comment on column public.agent_executions.recorded_seq is 'The last entry of (run, fence) that is stored.';
comment on column public.agent_executions.tool_call_count is 'Calls in the log, those of copied steps included.';
comment on column public.agent_executions.tool_error_count is
  'Of tool_call_count: those that failed by themselves; not what the run''s end cut off, a person refused, or nobody knows of.';
comment on column public.agent_executions.review_count is 'Questions ever put to people about this run, whoever opened them.';
comment on column public.agent_executions.outage_since is 'First release for a model outage since the last step.';
comment on column public.agent_executions.release_count is
  'How often in a row workers gave the run back, not counted as an attempt and without a step in between. Each time it waits longer.';
comment on column public.agent_executions.waiting_since is 'First of these releases.';
comment on column public.agent_executions.waiting_told_at is
  'Time of the last event about this wait: one an hour. While it is set, a claim writes its event only when the run makes progress.';
comment on column public.agent_executions.reserved_in is
  'The rows of agent_usage in which reserved_tokens and reserved_usd are set aside for the model call under way.';
comment on column public.agent_executions.active_ms is 'Time worked on: neither queued nor waiting for people. Milliseconds.';

-- One index per question, and none that mentions a column that every step changes (those updates stay HOT).
create index agent_executions_claimable_idx on public.agent_executions (agent_type, priority desc, created_at, id)
  where status = 'pending' and wake_at is null;
create index agent_executions_queued_users_idx on public.agent_executions (agent_type, user_id, priority desc, created_at, id)
  where status = 'pending' and wake_at is null;
create index agent_executions_due_idx on public.agent_executions (agent_type, wake_at) where status = 'pending' and wake_at is not null;
create index agent_executions_waiting_for_budget_idx on public.agent_executions (wake_at)
  where status = 'pending' and wake_at is not null and error_detail ->> 'waiting_for' = 'budget';
create index agent_executions_waiting_for_idx on public.agent_executions (agent_type, waiting_since)
  where status = 'pending' and wake_at is not null and waiting_since is not null;
create index agent_executions_running_idx on public.agent_executions (worker_id) where status = 'running';
create index agent_executions_in_flight_idx on public.agent_executions (agent_type, user_id) where status = 'running';
create index agent_executions_awaiting_review_idx on public.agent_executions (id) where status = 'awaiting_review';
create index agent_executions_ended_idx on public.agent_executions (completed_at) where completed_at is not null;
create index agent_executions_of_user_idx on public.agent_executions (user_id, created_at desc);
create index agent_executions_of_type_idx on public.agent_executions (agent_type, created_at);
create index agent_executions_forked_from_idx on public.agent_executions (forked_from) where forked_from is not null;
create unique index agent_executions_idempotency_key_idx on public.agent_executions (user_id, idempotency_key) where idempotency_key is not null;

-- Is this run one that may be inserted? -----------------------------------------------------------------------------

create function runhold.tenant_of(p_user_id uuid) returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_path text[] := runhold.setting('tenant_claim')::text[];
begin
  if p_user_id = auth.uid() then
    return auth.jwt() #>> v_path;
  end if;
  -- the service acts for a user: what that user's token would say, as far as it is stored
  return (select jsonb_build_object('app_metadata', u.raw_app_meta_data) #>> v_path from auth.users u where u.id = p_user_id);
end;
$$;

-- p_allowed: by name, what none of p_limits may pass.
create function runhold.check_run_limits(p_limits jsonb, p_allowed jsonb, p_agent_type text) returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_name text;
  v_value jsonb;
begin
  for v_name, v_value in select l.key, l.value from jsonb_each(p_limits) l loop
    if not v_name = any (runhold.limit_names()) then
      perform runhold.refuse('RH004', format('Unknown limit %I.', v_name),
        'Limits are ' || array_to_string(runhold.limit_names(), ', ') || '.');
    elsif jsonb_typeof(v_value) <> 'number' or (v_value)::numeric <= 0 or (v_value)::numeric > 1e15 then
      perform runhold.refuse('RH004', format('The limit %I must be a number above 0.', v_name), 'And at most 1e15.');
    elsif jsonb_typeof(p_allowed -> v_name) = 'number' and v_value::numeric > (p_allowed -> v_name)::numeric then
      perform runhold.refuse('RH004',
        format('The limit %I of %s is wider than agent type %I allows (%s).', v_name, v_value, p_agent_type, p_allowed ->> v_name),
        'A run may only tighten what operators set in agent_types.limits.');
    end if;
  end loop;
end;
$$;

create function runhold.require_enabled(p_agent_type text) returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_enabled boolean;
begin
  select t.enabled into v_enabled from public.agent_types t where t.name = p_agent_type;
  if v_enabled is null then
    perform runhold.refuse('RH001', format('There is no agent type %s.', quote_literal(p_agent_type)),
      'Start a worker that has this agent, or correct agent_type; table agent_types lists those known.');
  elsif not v_enabled then
    perform runhold.refuse('RH002', format('Agent type %I is disabled.', p_agent_type),
      'An operator has to enable it: agent_enable.');
  end if;
end;
$$;

create function runhold.before_insert_execution() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_bytes integer;
  v_problem text;
begin
  if new.status <> 'pending' then
    perform runhold.refuse('RH005', format('A run can not begin as %s.', new.status), 'Leave status out.');
  end if;
  perform runhold.require_enabled(new.agent_type);

  if new.input_data is null or jsonb_typeof(new.input_data) <> 'object' then
    perform runhold.refuse('RH003', 'input_data must be a JSON object.', 'Send {"key": "value"}, not a list, text or number.');
  end if;
  v_bytes := octet_length(new.input_data::text);
  if v_bytes > 262144 then
    perform runhold.refuse('RH003', format('input_data has %s bytes; at most 262144 (256 KiB) are allowed.', v_bytes),
      'Put large content into Storage and send a reference.');
  end if;
  v_problem := runhold.why_unreadable(new.input_data);
  if v_problem is not null then
    perform runhold.refuse('RH003', format('input_data %s.', v_problem), 'Send what is odd about it as text.');
  end if;

  -- a client that sends null where nothing is meant
  new.limits := nullif(new.limits, 'null');
  new.metadata := nullif(new.metadata, 'null');
  if new.limits is not null then
    if jsonb_typeof(new.limits) <> 'object' then
      perform runhold.refuse('RH004', 'limits must be a JSON object.', 'Send {"max_steps": 10}.');
    end if;
    perform runhold.check_run_limits(new.limits, runhold.operator_limits(new.agent_type), new.agent_type);
  end if;

  -- a worker must be able to read every time it is told, and nobody will see a run of the year 20000
  if not isfinite(new.wake_at) or new.wake_at > runhold.now() + interval '10 years' then
    perform runhold.refuse('RH003', 'wake_at must lie within the next ten years.', 'Leave wake_at out to start at once.');
  elsif new.wake_at <= runhold.now() then
    new.wake_at := null;
  end if;

  if new.forked_from is null then  -- a fork stays with its source's tenant; no client can set either column
    new.tenant_id := runhold.tenant_of(new.user_id);
  end if;
  if new.user_id = auth.uid() and not runhold.caller_is_service() then  -- of others' runs the claim decides
    perform runhold.require_may_act(new.user_id, new.tenant_id);
  end if;
  new.state_since := runhold.now();
  return new;
end;
$$;

create trigger before_insert_execution before insert on public.agent_executions
  for each row execute function runhold.before_insert_execution();

-- Rights ------------------------------------------------------------------------------------------------------------

alter table public.agent_executions enable row level security;
revoke all on public.agent_executions from public, anon, authenticated, service_role;

grant select on public.agent_executions to authenticated, service_role;
grant insert (user_id, agent_type, input_data, limits, wake_at, idempotency_key, metadata)
  on public.agent_executions to authenticated, service_role;

create policy "users see their own runs" on public.agent_executions
  for select to authenticated using (user_id = (select auth.uid()));
create policy "users start runs of their own" on public.agent_executions
  for insert to authenticated with check (user_id = (select auth.uid()));

revoke execute on all functions in schema runhold from public;
