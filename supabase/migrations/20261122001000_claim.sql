-- Claiming runs, and all that a worker needs to go on with them.

create function runhold.calls_json(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'step_number', c.step_number, 'position', c.position, 'call_id', c.call_id, 'tool_name', c.tool_name,
      'input', c.tool_input, 'effect', c.effect, 'status', c.status,
      'output', case when c.shown is null then c.tool_output end, 'shown', c.shown, 'error', c.error,
      'edited', c.edited, 'attempt', c.attempt) order by c.step_number, c.position), '[]')
    from public.agent_tool_calls c where c.execution_id = p_execution_id);
end;
$$;

create function runhold.reviews_json(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', r.id, 'step_number', c.step_number, 'position', c.position, 'kind', r.kind, 'status', r.status,
      'used', r.used_at is not null, 'comment', r.comment, 'answer', r.answer)
      order by c.step_number, c.position, r.requested_at, r.id), '[]')
    from public.agent_reviews r join public.agent_tool_calls c on c.id = r.tool_call_id
    where r.execution_id = p_execution_id);
end;
$$;

create function runhold.steps_json(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'step_number', s.step_number, 'definition_id', s.definition_id, 'message', s.message,
      'injected', coalesce(s.injected, '[]'), 'max_output_tokens', s.max_output_tokens, 'streamed', s.streamed, 'landing', s.landing,
      'finish_reason', s.finish_reason,
      'input_tokens', s.input_tokens, 'output_tokens', s.output_tokens, 'cached_tokens', s.cached_tokens,
      'usage_estimated', s.usage_estimated, 'cost_usd', s.cost_usd, 'latency_ms', s.latency_ms) order by s.step_number), '[]')
    from public.agent_steps s where s.execution_id = p_execution_id);
end;
$$;

create function runhold.messages_json(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object('id', m.id, 'content', m.content) order by m.created_at, m.id), '[]')
    from public.agent_messages m where m.execution_id = p_execution_id and m.delivered_step is null);
end;
$$;

-- Runs in the order of p_ids, of p_max_bytes at most; one that does not fit comes without what is big in it: its worker
-- asks for it by agent_worker_log.
create function runhold.runs_json(p_ids uuid[], p_max_bytes bigint) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_any_budgets boolean := exists (select from public.agent_budgets);
  v_spoken_to uuid[] := array(
    select distinct m.execution_id from public.agent_messages m where m.execution_id = any (p_ids) and m.delivered_step is null);
  v_run jsonb;
  v_bytes bigint := 0;
  v_runs jsonb[] := '{}';
begin
  for v_run in
    with run as materialized (
      select x as whole, x.* from public.agent_executions x where x.id = any (p_ids)
    ), type as materialized (
      select t.name, to_jsonb(t.approval_tools) as approval_tools
      from public.agent_types t where t.name in (select r.agent_type from run r)
    )
    select jsonb_build_object(
      'id', r.id, 'user_id', r.user_id, 'tenant_id', r.tenant_id, 'agent_type', r.agent_type, 'fence', r.fence,
      'attempt', r.attempt, 'created_at', r.created_at, 'input', r.input_data, 'state', r.state,
      'limits', r.effective_limits,
      'active_ms', r.active_ms, 'cost_usd', r.cost_usd, 'cancel_requested', r.cancel_requested_at is not null,
      'approval_tools', t.approval_tools, 'outage_since', r.outage_since, 'resumed_after_step', r.resumed_after_step,
      -- a run without a step has no calls and no reviews either
      'steps', case when r.step_count > 0 then runhold.steps_json(r.id) else '[]' end,
      'calls', case when r.step_count > 0 then runhold.calls_json(r.id) else '[]' end,
      'reviews', case when r.step_count > 0 then runhold.reviews_json(r.id) else '[]' end,
      'messages', case when r.id = any (v_spoken_to) then runhold.messages_json(r.id) else '[]' end)
      || case when v_any_budgets and runhold.is_budgeted(r.whole) then '{"budgeted": true}'::jsonb else '{}' end
    from run r join type t on t.name = r.agent_type order by array_position(p_ids, r.id)
  loop
    if v_bytes + pg_column_size(v_run) > p_max_bytes then
      v_run := v_run - array['input', 'steps', 'calls', 'reviews', 'messages'] || '{"truncated": true}';
    end if;
    v_bytes := v_bytes + pg_column_size(v_run);
    v_runs := v_runs || v_run;
  end loop;
  return to_jsonb(v_runs);
end;
$$;

-- What a worker's definitions say of the runs that it claims, by type: {"id", "definition", "operator", "limits"}, the last for runs
-- without limits of their own.
create function runhold.claim_terms(p_definitions jsonb) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_terms jsonb := (
    select coalesce(jsonb_object_agg(d.agent_type, jsonb_build_object(
             'id', d.id, 'definition', d.limits, 'operator', t.limits,
             'limits', runhold.effective_limits(d.limits, t.limits, null, null))), '{}')
    from jsonb_each_text(p_definitions) g
    join public.agent_definitions d on d.id = g.value::uuid and d.agent_type = g.key
    join public.agent_types t on t.name = d.agent_type);
begin
  if exists (select from jsonb_object_keys(p_definitions) k where not v_terms ? k) then
    perform runhold.refuse('RH013', 'A definition of this claim was never registered.', 'Send the ids that agent_worker_register answered.');
  end if;
  return v_terms;
end;
$$;

create function runhold.worker_claim(p_worker_id uuid, p_seq bigint, p_definitions jsonb, p_n integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
  set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off  -- plans that are good also when the tables have grown
as $$
declare
  c_max_bytes constant bigint := 8 * 1024 * 1024;
  v_worker public.agent_workers;
  v_types text[] := array(select jsonb_object_keys(p_definitions));
  c_rounds constant integer := 4;
  v_picked uuid[];
  v_taken uuid[];
  v_ids uuid[] := '{}';  -- what a worker gets that drains or can't be heard any more
  v_more boolean := false;
  v_terms jsonb;
begin
  perform runhold.set_actor('worker', p_worker_id);
  v_worker := runhold.lock_worker(p_worker_id);
  if p_n is null or p_n not between 1 and 1000 or p_seq is null then
    perform runhold.refuse('RH013', 'n must be between 1 and 1000, and seq a number.');
  end if;

  if p_seq <= v_worker.claim_seq then
    v_ids := array(select x.id from public.agent_executions x
                   where x.worker_id = p_worker_id and x.status = 'running' and x.claim_seq = p_seq
                   order by x.priority desc, x.created_at, x.id);
    v_more := true;  -- nobody knows any more whether that claim left something
  elsif not v_worker.draining and v_worker.lease_expires_at > runhold.now() then
    update public.agent_workers w set claim_seq = p_seq where w.id = p_worker_id;
    v_terms := runhold.claim_terms(p_definitions);
    for v_round in 1 .. c_rounds loop
      select p.ids, p.more into v_picked, v_more from runhold.pick(v_types, p_n - cardinality(v_ids)) p;
      v_taken := runhold.set_aside(v_types, v_picked);
      update public.agent_executions x
      set status = 'running', worker_id = p_worker_id, fence = x.fence + 1, claim_seq = p_seq, recorded_seq = 0,
          attempt = x.attempt + 1, wake_at = null, error_detail = null, started_at = coalesce(x.started_at, runhold.now()),
          definition_id = (v_terms -> x.agent_type ->> 'id')::uuid,
          effective_limits = case
            when x.limits is null and x.allowance is null then v_terms -> x.agent_type -> 'limits'
            else runhold.effective_limits(v_terms -> x.agent_type -> 'definition', v_terms -> x.agent_type -> 'operator',
                                          x.allowance, x.limits) end
      where x.id = any (v_taken);
      v_ids := v_ids || v_taken;
      exit when cardinality(v_taken) = cardinality(v_picked);  -- else: in place of those that were set aside
      v_more := true;
    end loop;
  end if;

  return jsonb_build_object('runs', runhold.runs_json(v_ids, c_max_bytes), 'more', v_more, 'next_due', runhold.next_due(v_types));
end;
$$;

create function public.agent_worker_claim(worker_id uuid, seq bigint, definitions jsonb, n integer) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_claim(worker_id, seq, definitions, n);
end;

create function runhold.worker_log(p_worker_id uuid, p_execution_id uuid, p_fence bigint) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return runhold.runs_json(array(
    select x.id from public.agent_executions x
    where x.id = p_execution_id and x.worker_id = p_worker_id and x.fence = p_fence and x.status = 'running'), null) -> 0;
end;
$$;

create function public.agent_worker_log(worker_id uuid, execution_id uuid, fence bigint) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.worker_log(worker_id, execution_id, fence);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_claim(uuid, bigint, jsonb, integer), public.agent_worker_log(uuid, uuid, bigint)
  from public, anon, authenticated;
grant execute on function runhold.worker_claim(uuid, bigint, jsonb, integer), runhold.worker_log(uuid, uuid, bigint) to service_role;
grant execute on function public.agent_worker_claim(uuid, bigint, jsonb, integer), public.agent_worker_log(uuid, uuid, bigint) to service_role;
