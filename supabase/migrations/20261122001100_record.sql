-- Recording what happened: one compound entry per run and flush, many runs in one transaction, each entry once.
--
-- 1. lock the runs, skipping those that others hold, and judge each entry: apply, duplicate, fenced, busy, gap
-- 2. for those that apply: may it go on, or was a limit passed or a cancel requested (stop)?
-- 3. store: steps, calls, results, reviews, starts
-- 4. settle with the budgets; then the run's counters and its transition, in one update
--
-- What happened is stored whatever the verdict; intents and pauses are not, once it is stop.

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
  v_now timestamptz := runhold.now();
  v_left uuid[];
  v_reasons jsonb;
begin
  select array_agg(e.execution_id),
         jsonb_object_agg(e.execution_id, e.body -> 'transition' -> 'reason') filter (where e.body -> 'transition' ->> 'to' = 'pending')
  into v_left, v_reasons
  from unnest(p_entries) e where e.verdict = 'ok' and e.body -> 'transition' ->> 'to' is not null;
  if v_left is not null then
    perform runhold.set_reasons(v_reasons);
  end if;

  with u as materialized (
    select e.execution_id, e.seq, e.body -> 'transition' as transition,
           coalesce((e.body ->> 'active_ms')::bigint, 0) as active_ms,
           case when e.verdict <> 'late' then e.body -> 'state' end as state, e.verdict <> 'late' as here,
           e.body -> 'transition' ->> 'reason' as reason, counted.it as counted, e.reserved_in, e.reserved_tokens, e.reserved_usd,
           least(coalesce((e.body -> 'transition' ->> 'delay_ms')::bigint, 0), 2592000000) as delay_ms,  -- at most 30 days
           case
             when e.verdict <> 'ok' then null  -- stop and continue keep the run where it is, late where it ended
             when e.cancel_requested and e.body -> 'transition' ->> 'to' in ('completed', 'failed', 'pending') then 'cancelled'
             when e.body -> 'transition' ->> 'to' = 'pending'
               then case when runhold.is_unsure(e.execution_id) then 'awaiting_review'
                         -- given back because its task failed in the worker: where it always does, it must end
                         when counted.it and e.attempt >= (
                           select runhold.max_attempts(r) from public.agent_executions r where r.id = e.execution_id)
                           then 'failed'
                         else 'pending' end
             else e.body -> 'transition' ->> 'to'
           end as target,
           case when s.steps > 0 and e.verdict <> 'late' then 0 else 1 end as in_a_row,  -- with earlier releases
           s.steps, s.input_tokens, s.output_tokens, s.cached_tokens, s.cost_usd,
           (select count(*) from jsonb_array_elements(e.body -> 'calls') c
            where e.verdict in ('ok', 'continue') or c ->> 'status' not in ('pending', 'awaiting_review', 'running')) as calls,
           -- a result may come too late to count: what failed is counted in the rows, where any did
           case when e.body @> '{"calls": [{"status": "failed"}]}' or e.body @> '{"results": [{"status": "failed"}]}'
                then runhold.failed_calls(e.execution_id) end as failed
    from unnest(p_entries) e
    cross join lateral (select coalesce((e.body -> 'transition' ->> 'counted')::boolean, false)) counted(it)
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
      updated_at = v_now,
      step_count = x.step_count + u.steps,
      token_count = x.token_count + u.input_tokens + u.output_tokens,
      input_tokens = x.input_tokens + u.input_tokens,
      output_tokens = x.output_tokens + u.output_tokens,
      cached_tokens = x.cached_tokens + u.cached_tokens,
      cost_usd = x.cost_usd + u.cost_usd,
      reserved_in = u.reserved_in,
      reserved_tokens = u.reserved_tokens,
      reserved_usd = u.reserved_usd,
      tool_call_count = x.tool_call_count + u.calls,
      tool_error_count = coalesce(u.failed, x.tool_error_count),
      active_ms = x.active_ms + u.active_ms,
      state = coalesce(u.state, x.state),
      attempt = case when u.counted then x.attempt
                     when u.target = 'pending' then greatest(x.attempt - 1, 0) when u.steps > 0 and u.here then 1 else x.attempt end,
      outage_since = case when u.target = 'pending' and u.reason = 'model_outage' then coalesce(x.outage_since, v_now)
                          when u.steps > 0 then null else x.outage_since end,
      -- a release; a step, or a return that counts as an attempt, begins anew
      release_count = case when u.target = 'pending' and not u.counted then x.release_count * u.in_a_row + 1
                           when u.target is null then x.release_count * u.in_a_row else 0 end,
      waiting_since = case when u.target = 'pending' and not u.counted then coalesce(case when u.in_a_row = 1 then x.waiting_since end, v_now)
                           when u.target is null and u.in_a_row = 1 then x.waiting_since end,
      waiting_told_at = case when u.target = 'pending' and not u.counted then runhold.release_told_at(
                                    x.release_count * u.in_a_row + 1, u.transition -> 'detail',
                                    case when u.in_a_row = 1 then x.waiting_told_at end)
                             when u.target is null and u.in_a_row = 1 then x.waiting_told_at end,
      wake_at = case when u.target = 'pending' then v_now + nullif(runhold.release_pause(
        case when u.counted then 1 else x.release_count * u.in_a_row + 1 end, u.reason, u.delay_ms * interval '1 ms'), '0') end,
      status = coalesce(u.target, x.status),
      result = case when u.target = 'completed' then coalesce(u.transition -> 'result', 'null') when u.target is null then x.result end,
      error = case when u.target = 'failed' then coalesce(u.transition ->> 'error', 'INTERNAL_ERROR') when u.target is null then x.error end,
      error_detail = case
        -- the rows know what came when; the worker only when it heard of the cancel, which may have been seconds later
        when u.target = 'cancelled' then runhold.compact(
          coalesce(nullif(u.transition -> 'detail', 'null'), '{}') || runhold.cancel_detail(x) || jsonb_build_object(
            'result', nullif(u.transition -> 'result', 'null'), 'error', u.transition ->> 'error'))
        when u.target = 'pending' and not u.counted then runhold.release_detail(
          x.release_count * u.in_a_row + 1, u.reason, nullif(u.transition -> 'detail', 'null'))
        when u.target in ('failed', 'completed', 'pending') then nullif(u.transition -> 'detail', 'null')
        when u.target is null then x.error_detail end
  from u where x.id = u.execution_id;

  if v_left is not null then
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

-- Ready to be applied: what is stored, in which order, is all here.
create function runhold.apply_entries(p_worker_id uuid, p_entries runhold.judged_entry[]) returns runhold.judged_entry[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  -- what these entries have, so that what none has costs no statement
  v_have text[] := array(
    select distinct h.what from unnest(p_entries) e
    cross join lateral (
      select jsonb_object_keys(e.body)
      union all select 'delivered messages' where e.body @? '$.steps[*].delivered[*]'
      union all select 'unknown calls' where e.body @> '{"calls": [{"status": "unknown"}]}' or e.body @> '{"results": [{"status": "unknown"}]}'
      union all select 'old answers' where e.verdict in ('duplicate', 'late')) h(what));
  v_gated uuid[] := '{}';
  i integer;
begin
  if 'steps' = any (v_have) then
    perform runhold.store_steps(p_worker_id, p_entries);
  end if;
  if 'delivered messages' = any (v_have) then
    perform runhold.mark_delivered(p_entries);
  end if;
  if 'calls' = any (v_have) then
    perform runhold.store_calls(p_entries);
  end if;
  if 'results' = any (v_have) then
    perform runhold.store_results(p_entries);
  end if;
  if v_have && array['reviews', 'unknown calls'] then
    perform runhold.store_reviews(p_entries);
  end if;
  if 'calls' = any (v_have) then
    v_gated := runhold.gate_calls(p_entries);
  end if;
  -- most entries are a step that goes on: nothing here concerns them
  foreach i in array array(
    select e.ordinal::integer from unnest(p_entries) e
    where e.body ?| '{starts,transition}' or e.execution_id = any (v_gated) order by e.ordinal) loop
    if p_entries[i].body ? 'starts' and p_entries[i].verdict in ('ok', 'duplicate') then
      p_entries[i].started := runhold.store_starts(p_entries[i]);
    end if;
    -- held back for a person: its worker must know before it runs anything
    if p_entries[i].verdict = 'ok' and not p_entries[i].body ? 'transition'
       and (p_entries[i].execution_id = any (v_gated) or p_entries[i].started @> '[{"reason": "not_approved"}]') then
      p_entries[i].verdict := 'continue';
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
  p_entries := runhold.settle(p_entries);
  perform runhold.move_on(p_entries);
  if 'old answers' = any (v_have) then
    foreach i in array array(
      select e.ordinal::integer from unnest(p_entries) e where e.verdict in ('duplicate', 'late') order by e.ordinal) loop
      p_entries[i] := runhold.judge_again(p_worker_id, p_entries[i]);
    end loop;
  end if;
  return p_entries;
end;
$$;

create function runhold.verdicts_json(p_entries runhold.judged_entry[]) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(case
      when e.verdict = 'ok' and e.started is null and e.reserved is null and e.budgeted is not true and said.messages is null
        then jsonb_build_object('execution', e.execution_id, 'seq', e.seq, 'verdict', 'ok', 'cancel_requested', e.cancel_requested)
      else runhold.compact(jsonb_build_object(
      'execution', e.execution_id, 'seq', e.seq,
      'verdict', case when e.verdict in ('duplicate', 'late') then 'ok' else e.verdict end,
      'code', e.code, 'detail', e.detail, 'cancel_requested', e.cancel_requested, 'started', e.started,
      'reserved', e.reserved, 'budgeted', case when e.budgeted and e.verdict in ('ok', 'continue', 'duplicate') then true end,
      'calls', case when e.verdict = 'continue' then runhold.calls_json(e.execution_id) end,
      'reviews', case when e.verdict = 'continue' then runhold.reviews_json(e.execution_id) end,
      'messages', case when e.verdict in ('ok', 'continue', 'duplicate') then said.messages end)) end order by e.ordinal), '[]')
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
  set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off  -- plans that are good also when the tables have grown
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
