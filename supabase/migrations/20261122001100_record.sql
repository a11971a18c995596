-- Recording what happened: one compound entry per run and flush, many runs in one transaction, each entry once.
--
-- 1. lock the runs, skipping those that others hold, and judge each entry: apply, duplicate, fenced, busy, gap
-- 2. for those that apply: may it go on, or was a limit passed or a cancel requested (stop)?
-- 3. store: steps, calls, results, reviews, starts; then the run's counters and its transition, in one update
--
-- What happened is stored whatever the verdict; intents and pauses are not, once it is stop.

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
  started jsonb
);

create function runhold.check_entries(p_entries jsonb) returns void
language plpgsql immutable security definer set search_path = ''
as $$
begin
  if jsonb_typeof(p_entries) is distinct from 'array' or jsonb_array_length(p_entries) > 256 then
    perform runhold.refuse('RH013', 'entries must be a list of at most 256.');
  end if;
  if exists (select from jsonb_array_elements(p_entries) e
             where e ->> 'execution' is null or e ->> 'fence' is null or coalesce((e ->> 'seq')::bigint, 0) < 1) then
    perform runhold.refuse('RH013', 'Each entry needs execution, fence and a seq from 1 on.');
  end if;
  if (select count(distinct e ->> 'execution') from jsonb_array_elements(p_entries) e) < jsonb_array_length(p_entries) then
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
    or exists (select from jsonb_array_elements(p_body -> 'calls') c where c ->> 'status' in ('pending', 'awaiting_review', 'running'));
end;
$$;

-- The limit that a run has passed, if any: {"code", "detail"}. Totals count what this entry brings.
create function runhold.passed_limit(p_execution public.agent_executions, p_body jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limits jsonb := runhold.run_limits(p_execution.agent_type, p_execution.allowance, p_execution.limits);
  v_steps integer;
  v_tokens bigint;
  v_cost numeric;
begin
  select p_execution.step_count + count(*),
         p_execution.token_count + coalesce(sum((s ->> 'input_tokens')::bigint + (s ->> 'output_tokens')::bigint), 0),
         p_execution.cost_usd + coalesce(sum((s ->> 'cost_usd')::numeric), 0)
  into v_steps, v_tokens, v_cost
  from jsonb_array_elements(p_body -> 'steps') s;

  return (
    select jsonb_build_object('code', l.code, 'detail', jsonb_build_object(
             'limit', l.name, 'allowed', v_limits -> l.name, 'used', l.used, 'step', v_steps))
    from (values
      ('max_steps', 'MAX_STEPS_EXCEEDED', v_steps::numeric),
      ('max_tokens', 'MAX_TOKENS_EXCEEDED', v_tokens),
      ('max_cost_usd', 'MAX_COST_EXCEEDED', v_cost),
      ('max_tool_calls', 'MAX_TOOL_CALLS_EXCEEDED', p_execution.tool_call_count + jsonb_array_length(coalesce(p_body -> 'calls', '[]'))),
      ('total_timeout_s', 'TOTAL_TIMEOUT', trim_scale((p_execution.active_ms + coalesce((p_body ->> 'active_ms')::bigint, 0)) / 1000.0))
    ) l(name, code, used)
    where l.used > (v_limits ->> l.name)::numeric
    limit 1);
end;
$$;

-- Why this run must not go on, if so: {"code", "detail"}.
create function runhold.why_stop(p_execution public.agent_executions, p_body jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  if p_body -> 'transition' ->> 'to' is distinct from 'awaiting_review' and not runhold.has_intents(p_body) then
    return null;
  elsif p_execution.cancel_requested_at is not null then
    return '{"code": "CANCELLED"}';
  end if;
  return runhold.passed_limit(p_execution, p_body);
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
             (a.e ->> 'seq')::bigint as seq, runhold.compact(a.e) as body
      from jsonb_array_elements(p_entries) with ordinality a(e, nth)
    ), present as materialized (
      select x.* from public.agent_executions x where x.id = any (v_ids)
    ), first as materialized (
      select e.*, x::public.agent_executions as run,
             case when x.id is not null and not x.id = any (v_locked) then 'busy'
                  else runhold.first_verdict(p_worker_id, x::public.agent_executions, e.fence, e.seq) end as verdict
      from entry e left join present x on x.id = e.execution_id
    ), judged as materialized (
      select f.*, case when f.verdict = 'ok' then runhold.why_stop(f.run, f.body) end as stop from first f
    )
    select (j.nth, j.execution_id, j.seq, j.body, case when j.stop is null then j.verdict else 'stop' end,
            j.stop ->> 'code', j.stop -> 'detail', (j.run).user_id, (j.run).attempt, (j.run).cancel_requested_at is not null,
            coalesce(j.body -> 'transition' ->> 'to' = 'awaiting_review', false), null)::runhold.judged_entry
    from judged j order by j.nth);
end;
$$;

-- Storing -----------------------------------------------------------------------------------------------------------

create function runhold.store_steps(p_worker_id uuid, p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.agent_steps (
    execution_id, step_number, user_id, definition_id, message, injected, request_params, finish_reason, input_tokens,
    output_tokens, cached_tokens, usage_estimated, cost_usd, latency_ms, attempt, worker_id, created_at)
  select e.execution_id, s.step_number, e.user_id, s.definition_id, s.message, nullif(s.injected, '[]'), nullif(s.request_params, '{}'),
         s.finish_reason, s.input_tokens, s.output_tokens, coalesce(s.cached_tokens, 0), coalesce(s.usage_estimated, false),
         coalesce(s.cost_usd, 0), s.latency_ms, e.attempt, p_worker_id, runhold.now()
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'steps') s(
    step_number integer, definition_id uuid, message jsonb, injected jsonb, request_params jsonb, finish_reason text,
    input_tokens integer, output_tokens integer, cached_tokens integer, usage_estimated boolean, cost_usd numeric, latency_ms integer)
  where e.verdict in ('ok', 'stop', 'late');
end;
$$;

create function runhold.mark_delivered(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_messages m set delivered_step = (s ->> 'step_number')::integer
  from unnest(p_entries) e cross join lateral jsonb_array_elements(e.body -> 'steps') s
  where e.verdict in ('ok', 'stop', 'late') and m.execution_id = e.execution_id and m.delivered_step is null
    and m.id in (select d::uuid from jsonb_array_elements_text(nullif(s -> 'delivered', 'null')) d);
end;
$$;

create function runhold.store_calls(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.agent_tool_calls (
    execution_id, step_number, position, call_id, user_id, tool_name, tool_input, effect, status, tool_output, shown, error,
    latency_ms, attempt, called_at, finished_at)
  select e.execution_id, c.step_number, c.position, c.call_id, e.user_id, c.tool_name, coalesce(c.input, '{}'), c.effect, c.status,
         c.output, c.shown, c.error, c.latency_ms, case when c.status in ('pending', 'awaiting_review') then 0 else 1 end,
         runhold.now(), case when c.status in ('succeeded', 'failed', 'rejected') then runhold.now() end
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'calls') c(
    step_number integer, position integer, call_id text, tool_name text, input jsonb, effect text, status text, output jsonb,
    shown text, error text, latency_ms integer)
  where e.verdict = 'ok' or (e.verdict in ('stop', 'late') and c.status not in ('pending', 'awaiting_review', 'running'));
end;
$$;

create function runhold.store_results(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_tool_calls c
  set status = r.status, tool_output = r.output, shown = r.shown, error = r.error, latency_ms = r.latency_ms, cut_off = null,
      finished_at = case when r.status <> 'unknown' then runhold.now() end
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'results') r(
    step_number integer, position integer, status text, output jsonb, shown text, error text, latency_ms integer)
  where e.verdict in ('ok', 'stop', 'late')
    and c.execution_id = e.execution_id and c.step_number = r.step_number and c.position = r.position
    -- a late result may also settle what was unknown, or cut off, when the run ended
    and (c.status in ('pending', 'running') or (e.verdict = 'late' and (c.status = 'unknown' or c.cut_off in ('pending', 'running'))));
end;
$$;

-- What exactly is asked: the same bytes when the question is put and when its approval is used.
create function runhold.input_hash(p_call public.agent_tool_calls) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select encode(sha256(convert_to(jsonb_build_array(
             p_call.tool_name, p_call.tool_input, p_call.step_number, p_call.position,
             (select t -> 'parameters' from jsonb_array_elements(d.tools) t where t ->> 'name' = p_call.tool_name limit 1))::text, 'UTF8')), 'hex')
    from public.agent_steps s join public.agent_definitions d on d.id = s.definition_id
    where s.execution_id = p_call.execution_id and s.step_number = p_call.step_number);
end;
$$;

-- Puts a question about a call, unless one is open already. Used by record, by the sweep and by retries, which hold the run.
create function runhold.open_review(p_call_id uuid, p_kind text, p_summary text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_call public.agent_tool_calls;
begin
  if exists (select from public.agent_reviews r where r.tool_call_id = p_call_id and r.status = 'pending') then
    return;
  end if;
  if p_kind <> 'unknown_outcome' then
    update public.agent_tool_calls c set status = 'awaiting_review' where c.id = p_call_id and c.status in ('pending', 'running');
  end if;
  select c.* into v_call from public.agent_tool_calls c where c.id = p_call_id;
  insert into public.agent_reviews (
    execution_id, tool_call_id, user_id, tenant_id, kind, agent_type, tool_name, summary, proposed_input, input_hash,
    approvals_needed, requested_at, expires_at)
  select x.id, v_call.id, x.user_id, x.tenant_id, p_kind, x.agent_type, v_call.tool_name, p_summary, v_call.tool_input,
         runhold.input_hash(v_call), case when p_kind = 'approval' then t.approvals_needed else 1 end, runhold.now(), runhold.now() + coalesce(t.review_ttl, d.review_ttl)
  from public.agent_executions x
  join public.agent_types t on t.name = x.agent_type
  left join public.agent_definitions d on d.id = t.definition_id
  where x.id = v_call.execution_id;
  update public.agent_executions x set review_count = x.review_count + 1 where x.id = v_call.execution_id;
end;
$$;

create function runhold.store_reviews(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.open_review(c.id, r.kind, coalesce(r.summary, ''))
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'reviews') r(step_number integer, position integer, kind text, summary text)
  join public.agent_tool_calls c
    on c.execution_id = e.execution_id and c.step_number = r.step_number and c.position = r.position
  where e.verdict = 'ok'
  order by e.execution_id, r.step_number, r.position;

  -- every call that became unknown asks a person; where one said "stop" before, that stands
  perform runhold.open_review(c.id, 'unknown_outcome', format('Did %s happen? %s', c.tool_name, coalesce(c.error, '')))
  from unnest(p_entries) e
  join public.agent_tool_calls c on c.execution_id = e.execution_id and c.status = 'unknown'
  where e.verdict = 'ok' and not runhold.is_answered_stop(c.id)
    and (exists (select from jsonb_array_elements(e.body -> 'results') r where r ->> 'status' = 'unknown')
      or exists (select from jsonb_array_elements(e.body -> 'calls') r where r ->> 'status' = 'unknown'))
  order by e.execution_id, c.step_number, c.position;
end;
$$;

-- Sets a stored call to running, using its approval up if it needed one. Answers what to run.
create function runhold.start_call(p_execution_id uuid, p_step_number integer, p_position integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_call public.agent_tool_calls;
  v_review public.agent_reviews;
  v_reason text;
begin
  select c.* into v_call from public.agent_tool_calls c
  where c.execution_id = p_execution_id and c.step_number = p_step_number and c.position = p_position;

  if v_call.status = 'awaiting_review' then
    -- whoever holds a run never waits for a review: one that is being changed at this instant is not approved yet
    select r.* into v_review from public.agent_reviews r
    where r.tool_call_id = v_call.id and r.status = 'approved' and r.used_at is null
      and r.kind in ('approval', 'unknown_outcome')
      and not exists (select from public.agent_reviews a where a.tool_call_id = v_call.id and a.status = 'pending')
    order by r.decided_at desc limit 1 for update skip locked;
    if not found then
      v_reason := 'not_approved';
    elsif v_review.input_hash is distinct from runhold.input_hash(v_call) then
      v_reason := 'changed_since_review';
    else
      update public.agent_reviews r set used_at = runhold.now() where r.id = v_review.id;
      if v_review.edited_input is not null then
        v_call.edited := v_call.edited or v_review.edited_input <> v_call.tool_input;
        v_call.tool_input := v_review.edited_input;
      end if;
    end if;
  elsif v_call.status is null or v_call.status <> 'pending' then
    v_reason := 'not_pending';
  end if;

  if v_reason is null then
    update public.agent_tool_calls c
    set status = 'running', attempt = c.attempt + 1, tool_input = v_call.tool_input, edited = v_call.edited
    where c.id = v_call.id;
  end if;
  return runhold.started_json(p_execution_id, p_step_number, p_position, v_reason);
end;
$$;

create function runhold.started_json(p_execution_id uuid, p_step_number integer, p_position integer, p_reason text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return jsonb_build_object('step_number', p_step_number, 'position', p_position) || coalesce((
    select jsonb_build_object('taken', c.status = 'running' and p_reason is null, 'input', c.tool_input, 'edited', c.edited,
                              'attempt', c.attempt, 'reason', p_reason)
    from public.agent_tool_calls c
    where c.execution_id = p_execution_id and c.step_number = p_step_number and c.position = p_position),
    jsonb_build_object('taken', false, 'reason', 'no_such_call'));
end;
$$;

create function runhold.store_starts(p_entry runhold.judged_entry) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_start record;
  v_started jsonb := '[]';
begin
  for v_start in select * from jsonb_to_recordset(coalesce(p_entry.body -> 'starts', '[]')) s(step_number integer, position integer) loop
    v_started := v_started || case
      when p_entry.verdict = 'duplicate'
        then runhold.started_json(p_entry.execution_id, v_start.step_number, v_start.position, null)
      else runhold.start_call(p_entry.execution_id, v_start.step_number, v_start.position) end;
  end loop;
  return v_started;
end;
$$;

-- What is told of a cancelled run, from its rows: what the calls of its last step came to, before and after the request.
-- Calls that can be repeated and had begun are cut off; who ran them may still finish them (a thread can't be stopped).
-- Asked before the run leaves: calls that run are still "running". null members are left out.
create function runhold.cancel_detail(p_execution public.agent_executions) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select runhold.compact(jsonb_build_object(
      'requested_at', coalesce(p_execution.cancel_requested_at, runhold.now()),
      'reason', case when p_execution.cancel_requested_at is null then runhold.reason_of(p_execution.id) else (
        select e.data ->> 'reason' from public.agent_events e
        where e.execution_id = p_execution.id and e.kind = 'cancel_requested' order by e.id desc limit 1) end,
      'step', coalesce(max(s.last), 0),
      'finished', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'succeeded' and (p_execution.cancel_requested_at is null or c.finished_at < p_execution.cancel_requested_at)), '[]'),
      'finished_after_request', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'succeeded' and c.finished_at >= p_execution.cancel_requested_at), '[]'),
      'cut_off', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.effect <> 'unsafe' and (c.status = 'running' or (c.status = 'pending' and c.attempt > 0))), '[]'),
      'unknown', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'unknown' or (c.status = 'running' and c.effect = 'unsafe')), '[]')))
    from (select max(t.step_number) as last from public.agent_steps t where t.execution_id = p_execution.id) s
    left join public.agent_tool_calls c on c.execution_id = p_execution.id and c.step_number = s.last);
end;
$$;

create function runhold.failed_calls(p_execution_id uuid) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select count(*) from public.agent_tool_calls c
          where c.execution_id = p_execution_id and c.status = 'failed' and c.cut_off is null);
end;
$$;

-- Counters and transition, in one update per run. A pause without an open review was turned into "continue" before.
create function runhold.move_on(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_left uuid[] := array(
    select e.execution_id from unnest(p_entries) e where e.verdict = 'ok' and e.body -> 'transition' ->> 'to' is not null);
begin
  perform runhold.set_reasons((
    select jsonb_object_agg(e.execution_id, e.body -> 'transition' -> 'reason')
    from unnest(p_entries) e where e.body -> 'transition' ->> 'to' = 'pending'));

  with u as materialized (
    select e.execution_id, e.seq, e.body -> 'transition' as transition,
           coalesce((e.body ->> 'active_ms')::bigint, 0) as active_ms,
           case when e.verdict <> 'late' then e.body -> 'state' end as state, e.verdict <> 'late' as here,
           e.body -> 'transition' ->> 'reason' as reason,
           least(coalesce((e.body -> 'transition' ->> 'delay_ms')::bigint, 0), 2592000000) as delay_ms,  -- at most 30 days
           case
             when e.verdict <> 'ok' then null  -- stop and continue keep the run where it is, late where it ended
             when e.cancel_requested and e.body -> 'transition' ->> 'to' in ('completed', 'failed', 'pending') then 'cancelled'
             when e.body -> 'transition' ->> 'to' = 'pending'
               then case when runhold.is_unsure(e.execution_id) then 'awaiting_review'
                         -- given back because its task failed in the worker: where it always does, it must end
                         when e.body -> 'transition' ->> 'reason' like 'worker error%' and e.attempt >= (
                           select runhold.max_attempts(r.agent_type) from public.agent_executions r where r.id = e.execution_id)
                           then 'failed'
                         else 'pending' end
             else e.body -> 'transition' ->> 'to'
           end as target,
           s.steps, s.input_tokens, s.output_tokens, s.cached_tokens, s.cost_usd,
           (select count(*) from jsonb_array_elements(e.body -> 'calls') c
            where e.verdict in ('ok', 'continue') or c ->> 'status' not in ('pending', 'awaiting_review', 'running')) as calls,
           -- a result may come too late to count: what failed is counted in the rows, where any did
           case when exists (
                  select from jsonb_array_elements(coalesce(e.body -> 'calls', '[]') || coalesce(e.body -> 'results', '[]')) c
                  where c ->> 'status' = 'failed')
                then runhold.failed_calls(e.execution_id) end as failed
    from unnest(p_entries) e
    cross join lateral (
      select count(*)::integer as steps,
             coalesce(sum((s ->> 'input_tokens')::integer), 0)::integer as input_tokens,
             coalesce(sum((s ->> 'output_tokens')::integer), 0)::integer as output_tokens,
             coalesce(sum((s ->> 'cached_tokens')::integer), 0)::integer as cached_tokens,
             coalesce(sum((s ->> 'cost_usd')::numeric), 0) as cost_usd
      from jsonb_array_elements(e.body -> 'steps') s) s
    where e.verdict in ('ok', 'stop', 'continue', 'late'))
  update public.agent_executions x
  set recorded_seq = u.seq,
      updated_at = runhold.now(),
      step_count = x.step_count + u.steps,
      token_count = x.token_count + u.input_tokens + u.output_tokens,
      input_tokens = x.input_tokens + u.input_tokens,
      output_tokens = x.output_tokens + u.output_tokens,
      cached_tokens = x.cached_tokens + u.cached_tokens,
      cost_usd = x.cost_usd + u.cost_usd,
      tool_call_count = x.tool_call_count + u.calls,
      tool_error_count = coalesce(u.failed, x.tool_error_count),
      active_ms = x.active_ms + u.active_ms,
      state = coalesce(u.state, x.state),
      attempt = case when u.reason like 'worker error%' then x.attempt
                     when u.target = 'pending' then greatest(x.attempt - 1, 0) when u.steps > 0 and u.here then 1 else x.attempt end,
      outage_since = case when u.target = 'pending' and u.reason = 'model_outage' then coalesce(x.outage_since, runhold.now())
                          when u.steps > 0 then null else x.outage_since end,
      wake_at = case when u.target = 'pending' and u.delay_ms > 0 then runhold.now() + u.delay_ms * interval '1 ms' end,
      status = coalesce(u.target, x.status),
      result = case when u.target = 'completed' then coalesce(u.transition -> 'result', 'null') when u.target is null then x.result end,
      error = case when u.target = 'failed' then coalesce(u.transition ->> 'error', 'INTERNAL_ERROR') when u.target is null then x.error end,
      error_detail = case
        -- the rows know what came when; the worker only when it heard of the cancel, which may have been seconds later
        when u.target = 'cancelled' then runhold.compact(
          coalesce(nullif(u.transition -> 'detail', 'null'), '{}') || runhold.cancel_detail(x) || jsonb_build_object(
            'result', nullif(u.transition -> 'result', 'null'), 'error', u.transition ->> 'error'))
        when u.target in ('failed', 'completed') then nullif(u.transition -> 'detail', 'null')
        when u.target is null then x.error_detail end
  from u where x.id = u.execution_id;

  if v_left <> '{}' then
    perform runhold.leave_worker(v_left, 'The run left its worker while this call ran.');
  end if;
end;
$$;

-- Is this an answer given before people were heard? A cancel needs no answer any more; "final" says that there is no room
-- for another step.
create function runhold.is_unheard(p_entry runhold.judged_entry) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return p_entry.body -> 'transition' ->> 'to' = 'completed' and not p_entry.cancel_requested
    and not coalesce((p_entry.body -> 'transition' ->> 'final')::boolean, false)
    and exists (select from public.agent_messages m where m.execution_id = p_entry.execution_id and m.delivered_step is null);
end;
$$;

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
    if runhold.has_intents(p_entry.body) and not p_entry.body ? 'transition' then
      p_entry.verdict := case when runhold.is_final(v_run.status) then 'stop' else 'fenced' end;
      p_entry.code := case when p_entry.verdict = 'stop' then coalesce(v_run.error, 'CANCELLED') end;
      p_entry.started := null;
    end if;
    return p_entry;
  elsif v_run.recorded_seq <> p_entry.seq then
    return p_entry;
  end if;
  if exists (select from jsonb_array_elements(p_entry.body -> 'calls') c
             where not exists (select from public.agent_tool_calls t
                               where t.execution_id = v_run.id and t.step_number = (c ->> 'step_number')::integer
                                 and t.position = (c ->> 'position')::integer)) then
    v_stop := runhold.why_stop(v_run, jsonb_build_object('calls', p_entry.body -> 'calls'));
    p_entry.verdict := 'stop';
    p_entry.code := coalesce(v_stop ->> 'code', 'INTERNAL_ERROR');  -- what stopped it may be gone by now
    p_entry.detail := v_stop -> 'detail';
  elsif p_entry.body -> 'transition' ->> 'to' is not null then
    p_entry.verdict := 'continue';
  end if;
  return p_entry;
end;
$$;

-- Ready to be applied: what is stored, in which order, is all here.
create function runhold.apply_entries(p_worker_id uuid, p_entries runhold.judged_entry[]) returns runhold.judged_entry[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_lists text[] := array(select distinct k from unnest(p_entries) e cross join lateral jsonb_object_keys(e.body) k);
begin
  if 'steps' = any (v_lists) then
    perform runhold.store_steps(p_worker_id, p_entries);
    perform runhold.mark_delivered(p_entries);
  end if;
  if v_lists && array['calls', 'results', 'reviews'] then
    perform runhold.store_calls(p_entries);
    perform runhold.store_results(p_entries);
    perform runhold.store_reviews(p_entries);
  end if;
  for i in 1 .. cardinality(p_entries) loop
    if p_entries[i].body ? 'starts' and p_entries[i].verdict in ('ok', 'duplicate') then
      p_entries[i].started := runhold.store_starts(p_entries[i]);
    end if;
    -- read in a statement after the lock: a decision that committed meanwhile is seen
    if p_entries[i].verdict = 'ok' and p_entries[i].paused and not exists (
         select from public.agent_reviews r where r.execution_id = p_entries[i].execution_id and r.status = 'pending') then
      p_entries[i].verdict := 'continue';
    end if;
    -- the same for a message: whoever sends one holds the run's row, and finds it ended or is heard here
    if p_entries[i].verdict = 'ok' and p_entries[i].body ? 'transition' and runhold.is_unheard(p_entries[i]) then
      p_entries[i].verdict := 'continue';
    end if;
  end loop;
  perform runhold.move_on(p_entries);
  for i in 1 .. cardinality(p_entries) loop
    if p_entries[i].verdict in ('duplicate', 'late') then
      p_entries[i] := runhold.judge_again(p_worker_id, p_entries[i]);
    end if;
  end loop;
  return p_entries;
end;
$$;

create function runhold.verdicts_json(p_entries runhold.judged_entry[]) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(runhold.compact(jsonb_build_object(
      'execution', e.execution_id, 'seq', e.seq,
      'verdict', case when e.verdict in ('duplicate', 'late') then 'ok' else e.verdict end,
      'code', e.code, 'detail', e.detail, 'cancel_requested', e.cancel_requested, 'started', e.started,
      'calls', case when e.verdict = 'continue' then runhold.calls_json(e.execution_id) end,
      'reviews', case when e.verdict = 'continue' then runhold.reviews_json(e.execution_id) end,
      'messages', case when e.verdict in ('ok', 'continue', 'duplicate') then said.messages end)) order by e.ordinal), '[]')
    from unnest(p_entries) e
    left join (
      select m.execution_id, jsonb_agg(jsonb_build_object('id', m.id, 'content', m.content) order by m.created_at, m.id) as messages
      from public.agent_messages m
      where m.delivered_step is null and m.execution_id in (select u.execution_id from unnest(p_entries) u)
      group by m.execution_id) said using (execution_id));
end;
$$;

create function runhold.worker_record(p_worker_id uuid, p_entries jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_entries runhold.judged_entry[];
begin
  perform runhold.set_actor('worker', p_worker_id);
  perform runhold.check_entries(p_entries);
  -- a statement each: every one must see what those before it wrote
  v_entries := runhold.judge(p_worker_id, p_entries);
  v_entries := runhold.apply_entries(p_worker_id, v_entries);
  return runhold.verdicts_json(v_entries);
end;
$$;

create function public.agent_worker_record(worker_id uuid, entries jsonb) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_record(worker_id, entries);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_record(uuid, jsonb) from public, anon, authenticated;
grant execute on function runhold.worker_record(uuid, jsonb) to service_role;
grant execute on function public.agent_worker_record(uuid, jsonb) to service_role;
