-- Judging the entries of agent_worker_record: may this one be applied, was it applied before, must its run stop?

create type runhold.judged_entry as (
  ordinal bigint,
  execution_id uuid,
  seq bigint,
  body jsonb,            -- without members that are null: absent and null mean the same
  verdict text,          -- ok (to be applied), duplicate, late, fenced, busy, gap; then stop, continue
  code text,
  detail jsonb,
  user_id uuid,
  attempt integer,
  cancel_requested boolean,
  paused boolean,
  started jsonb,
  budgeted boolean,      -- does a budget count for the run?
  reserved jsonb,        -- the answer to "reserve"
  reserved_in bigint[],  -- what the run has set aside in budgets; after settling: what it has from now on
  reserved_tokens integer,
  reserved_usd numeric
);

create function runhold.check_entries(p_entries jsonb) returns void
language plpgsql immutable security definer set search_path = ''
as $$
declare
  v_incomplete boolean;
  v_runs integer;
begin
  if jsonb_typeof(p_entries) is distinct from 'array' or jsonb_array_length(p_entries) > 256 then
    perform runhold.refuse('RH013', 'entries must be a list of at most 256.');
  end if;
  select bool_or(e ->> 'execution' is null or e ->> 'fence' is null or coalesce((e ->> 'seq')::bigint, 0) < 1),
         count(distinct e ->> 'execution')
  into v_incomplete, v_runs from jsonb_array_elements(p_entries) e;
  if v_incomplete then
    perform runhold.refuse('RH013', 'Each entry needs execution, fence and a seq from 1 on.');
  end if;
  if v_runs < jsonb_array_length(p_entries) then
    perform runhold.refuse('RH013', 'At most one entry per run and call.', 'Send the next one when this one is answered.');
  end if;
end;
$$;

create function runhold.has_intents(p_body jsonb) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return jsonb_array_length(coalesce(p_body -> 'starts', '[]')) > 0
    or jsonb_array_length(coalesce(p_body -> 'reviews', '[]')) > 0
    or p_body @> '{"calls": [{"status": "pending"}]}'
    or p_body @> '{"calls": [{"status": "awaiting_review"}]}'
    or p_body @> '{"calls": [{"status": "running"}]}';
end;
$$;

create function runhold.has_calls(p_body jsonb) returns boolean
language sql immutable parallel safe set search_path = ''
return jsonb_array_length(coalesce(p_body -> 'calls', '[]')) > 0;

-- Does a run with this entry mean to go on: to wait for a person, to start something, or to ask its model what to do with what
-- its calls gave? (Reads that were quick come with their results.) Then it must be allowed to.
create function runhold.means_to_go_on(p_body jsonb) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return (p_body -> 'transition' ->> 'to' is null and runhold.has_calls(p_body))
    or coalesce(p_body -> 'transition' ->> 'to', '') = 'awaiting_review'
    or runhold.has_intents(p_body);
end;
$$;

-- The limit that a run has passed, if any: {"code", "detail"}. Totals count what this entry brings.
create function runhold.passed_limit(p_execution public.agent_executions, p_body jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limits jsonb := p_execution.effective_limits;
  v_step jsonb;
  v_steps integer := p_execution.step_count;
  v_tokens bigint := p_execution.token_count;
  v_cost numeric := p_execution.cost_usd;
  v_calls integer := p_execution.tool_call_count + jsonb_array_length(coalesce(p_body -> 'calls', '[]'));
  v_active_ms bigint := p_execution.active_ms + coalesce((p_body ->> 'active_ms')::bigint, 0);
begin
  for i in 0 .. jsonb_array_length(coalesce(p_body -> 'steps', '[]')) - 1 loop
    v_step := p_body -> 'steps' -> i;
    v_steps := v_steps + 1;
    v_tokens := v_tokens + (v_step ->> 'input_tokens')::bigint + (v_step ->> 'output_tokens')::bigint;
    v_cost := v_cost + coalesce((v_step ->> 'cost_usd')::numeric, 0);
  end loop;
  if v_steps <= coalesce((v_limits ->> 'max_steps')::numeric, 'infinity')
     and v_tokens <= coalesce((v_limits ->> 'max_tokens')::numeric, 'infinity')
     and v_cost <= coalesce((v_limits ->> 'max_cost_usd')::numeric, 'infinity')
     and v_calls <= coalesce((v_limits ->> 'max_tool_calls')::numeric, 'infinity')
     and v_active_ms <= coalesce((v_limits ->> 'total_timeout_s')::numeric * 1000, 'infinity') then
    return null;  -- as nearly always: said without a query
  end if;

  return (
    select jsonb_build_object('code', l.code, 'detail', jsonb_build_object(
             'limit', l.name, 'allowed', v_limits -> l.name, 'used', l.used, 'step', v_steps))
    from (values
      ('max_steps', 'MAX_STEPS_EXCEEDED', v_steps::numeric),
      ('max_tokens', 'MAX_TOKENS_EXCEEDED', v_tokens),
      ('max_cost_usd', 'MAX_COST_EXCEEDED', v_cost),
      ('max_tool_calls', 'MAX_TOOL_CALLS_EXCEEDED', v_calls),
      ('total_timeout_s', 'TOTAL_TIMEOUT', trim_scale(v_active_ms / 1000.0))
    ) l(name, code, used)
    where l.used > (v_limits ->> l.name)::numeric
    limit 1);
end;
$$;

-- Why this run must not go on, if so: {"code", "detail"}.
create function runhold.why_stop(p_execution public.agent_executions, p_body jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_stop jsonb;
begin
  if p_execution.cancel_requested_at is not null then
    -- finished reads are no reason to stop: the verdict says that a cancel was requested, and what the model said meanwhile is kept
    return case when p_body -> 'transition' ->> 'to' = 'awaiting_review' or runhold.has_intents(p_body) then '{"code": "CANCELLED"}'::jsonb end;
  end if;
  if coalesce(p_body -> 'transition' ->> 'to', 'awaiting_review') = 'awaiting_review' then  -- it does not leave by itself
    v_stop := runhold.stop_of_user(p_execution);
  end if;
  if v_stop is null and runhold.means_to_go_on(p_body) then
    v_stop := runhold.passed_limit(p_execution, p_body);
  end if;
  return v_stop;
end;
$$;

create function runhold.first_verdict(p_worker_id uuid, p_execution public.agent_executions, p_fence bigint, p_seq bigint) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return case
    when p_execution.id is null or p_execution.fence <> p_fence then 'fenced'
    when p_seq <= p_execution.recorded_seq then 'duplicate'
    when p_seq > p_execution.recorded_seq + 1 then 'gap'
    when p_execution.status = 'running' and p_execution.worker_id = p_worker_id then 'ok'
    when runhold.is_final(p_execution.status) then 'late'
    else 'fenced'
  end;
end;
$$;

create function runhold.judge(p_worker_id uuid, p_entries jsonb) returns runhold.judged_entry[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  -- an array, so that they are found by the primary key: how many a function returns, the planner guesses
  v_ids uuid[] := array(select (e ->> 'execution')::uuid from jsonb_array_elements(p_entries) e);
  v_locked uuid[];
begin
  -- one statement locks them, in order; the next one reads what they are now
  v_locked := array(
    select x.id from public.agent_executions x where x.id = any (v_ids) order by x.id for no key update skip locked);

  return array(
    with entry as materialized (
      select a.nth, (a.e ->> 'execution')::uuid as execution_id, (a.e ->> 'fence')::bigint as fence,
             (a.e ->> 'seq')::bigint as seq,
             case when a.e @? 'strict $.* ? (@ == null)' then runhold.compact(a.e) else a.e end as body
      from jsonb_array_elements(p_entries) with ordinality a(e, nth)
    ), present as materialized (
      select x.* from public.agent_executions x where x.id = any (v_ids)
    ), first as materialized (
      select e.*, x::public.agent_executions as run,
             case when x.id is not null and not x.id = any (v_locked) then 'busy'
                  else runhold.first_verdict(p_worker_id, x::public.agent_executions, e.fence, e.seq) end as verdict
      from entry e left join present x on x.id = e.execution_id
    ), judged as materialized (
      select f.*, case when f.verdict = 'ok' then runhold.why_stop(f.run, f.body) end as stop
      from first f
    )
    select (j.nth, j.execution_id, j.seq, j.body, case when j.stop is null then j.verdict else 'stop' end,
            j.stop ->> 'code', j.stop -> 'detail', (j.run).user_id, (j.run).attempt, (j.run).cancel_requested_at is not null,
            coalesce(j.body -> 'transition' ->> 'to' = 'awaiting_review', false), null, null, null,
            (j.run).reserved_in, (j.run).reserved_tokens, (j.run).reserved_usd)::runhold.judged_entry
    from judged j order by j.nth);
end;
$$;

create function runhold.is_stored_call(p_execution_id uuid, p_call jsonb) returns boolean
language sql stable set search_path = ''
return exists (
  select from public.agent_tool_calls t
  where t.execution_id = p_execution_id and t.step_number = (p_call ->> 'step_number')::integer
    and t.position = (p_call ->> 'position')::integer);

-- An entry whose answer was lost, or that comes late. What did not hold the first time does not hold now: intents that are
-- not there were stopped, a transition that was not made was answered "continue" (or stopped: the next entry is told so).
-- And no intent of a run that left its worker holds any more, or a worker whose clock is slow would act on it.
create function runhold.judge_again(p_worker_id uuid, p_entry runhold.judged_entry) returns runhold.judged_entry
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_run public.agent_executions;
  v_stop jsonb;
begin
  select x.* into v_run from public.agent_executions x where x.id = p_entry.execution_id;
  if v_run.status <> 'running' or v_run.worker_id is distinct from p_worker_id then
    if runhold.means_to_go_on(p_entry.body) and not p_entry.body ? 'transition' then
      p_entry.verdict := case when runhold.is_final(v_run.status) then 'stop' else 'fenced' end;
      p_entry.code := case when p_entry.verdict = 'stop' then coalesce(v_run.error, 'CANCELLED') end;
      p_entry.started := null;
    end if;
    return p_entry;
  elsif v_run.recorded_seq <> p_entry.seq then
    return p_entry;
  end if;
  if exists (select from jsonb_array_elements(p_entry.body -> 'calls') c where not runhold.is_stored_call(v_run.id, c)) then
    v_stop := runhold.why_stop(v_run, jsonb_build_object('calls', (
      select jsonb_agg(c) from jsonb_array_elements(p_entry.body -> 'calls') c
      where not runhold.is_stored_call(v_run.id, c))));
    p_entry.verdict := 'stop';
    p_entry.code := coalesce(v_stop ->> 'code', 'INTERNAL_ERROR');  -- what stopped it may be gone by now
    p_entry.detail := v_stop -> 'detail';
  elsif p_entry.body -> 'transition' ->> 'to' is null and runhold.has_calls(p_entry.body) and not runhold.has_intents(p_entry.body) then
    v_stop := runhold.passed_limit(v_run, '{}');  -- its totals have this entry already
    if v_stop is not null then
      p_entry.verdict := 'stop';
      p_entry.code := v_stop ->> 'code';
      p_entry.detail := v_stop -> 'detail';
    end if;
  elsif p_entry.body -> 'transition' ->> 'to' is not null or runhold.is_held_back(p_entry) then
    p_entry.verdict := 'continue';
  end if;
  return p_entry;
end;
$$;

revoke execute on all functions in schema runhold from public;
