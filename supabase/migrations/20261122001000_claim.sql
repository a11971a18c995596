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
      'injected', coalesce(s.injected, '[]'), 'request_params', coalesce(s.request_params, '{}'), 'finish_reason', s.finish_reason,
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

create function runhold.run_json(p_execution public.agent_executions) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return jsonb_build_object(
    'id', p_execution.id, 'user_id', p_execution.user_id, 'tenant_id', p_execution.tenant_id,
    'agent_type', p_execution.agent_type, 'fence', p_execution.fence, 'attempt', p_execution.attempt,
    'created_at', p_execution.created_at, 'input', p_execution.input_data, 'state', p_execution.state,
    'limits', runhold.run_limits(p_execution.agent_type, p_execution.allowance, p_execution.limits),
    'active_ms', p_execution.active_ms, 'cost_usd', p_execution.cost_usd,
    'cancel_requested', p_execution.cancel_requested_at is not null,
    'approval_tools', (select to_jsonb(t.approval_tools) from public.agent_types t where t.name = p_execution.agent_type),
    'outage_since', p_execution.outage_since, 'resumed_after_step', p_execution.resumed_after_step,
    -- a run without a step has no calls and no reviews either
    'steps', case when p_execution.step_count > 0 then runhold.steps_json(p_execution.id) else '[]' end,
    'calls', case when p_execution.step_count > 0 then runhold.calls_json(p_execution.id) else '[]' end,
    'reviews', case when p_execution.step_count > 0 then runhold.reviews_json(p_execution.id) else '[]' end, 'messages', runhold.messages_json(p_execution.id))
    || case when runhold.is_budgeted(p_execution) then '{"budgeted": true}'::jsonb else '{}' end;
end;
$$;

-- Runs in the order of p_ids, at most about 8 MiB of them; one that does not fit comes without what is big in it: its
-- worker asks for it by agent_worker_log.
create function runhold.runs_json(p_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  c_max_bytes constant bigint := 8 * 1024 * 1024;
  v_execution public.agent_executions;
  v_run jsonb;
  v_bytes bigint := 0;
  v_runs jsonb[] := '{}';
begin
  for v_execution in
    select x.* from unnest(p_ids) with ordinality i(id, n) join public.agent_executions x using (id) order by i.n
  loop
    v_run := runhold.run_json(v_execution);
    if v_bytes + pg_column_size(v_run) > c_max_bytes then
      v_run := v_run - array['input', 'steps', 'calls', 'reviews', 'messages'] || '{"truncated": true}';
    end if;
    v_bytes := v_bytes + pg_column_size(v_run);
    v_runs := v_runs || v_run;
  end loop;
  return to_jsonb(v_runs);
end;
$$;

create function runhold.worker_claim(p_worker_id uuid, p_seq bigint, p_definitions jsonb, p_n integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
  set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_worker public.agent_workers;
  v_types text[] := array(select jsonb_object_keys(p_definitions));
  v_ids uuid[] := '{}';  -- what a worker gets that drains or can't be heard any more
  v_more boolean := false;
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
    select p.ids, p.more into v_ids, v_more from runhold.pick(v_types, p_n) p;
    update public.agent_workers w set claim_seq = p_seq where w.id = p_worker_id;
    update public.agent_executions x
    set status = 'running', worker_id = p_worker_id, fence = x.fence + 1, claim_seq = p_seq, recorded_seq = 0,
        attempt = x.attempt + 1, wake_at = null, error_detail = null, started_at = coalesce(x.started_at, runhold.now())
    where x.id = any (v_ids);
  end if;

  return jsonb_build_object('runs', runhold.runs_json(v_ids), 'more', v_more, 'next_due', runhold.next_due(v_types));
end;
$$;

create function public.agent_worker_claim(worker_id uuid, seq bigint, definitions jsonb, n integer) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_claim(worker_id, seq, definitions, n);
end;

create function runhold.worker_log(p_worker_id uuid, p_execution_id uuid, p_fence bigint) returns jsonb
language sql stable security definer set search_path = ''
return (
  select runhold.run_json(x) from public.agent_executions x
  where x.id = p_execution_id and x.worker_id = p_worker_id and x.fence = p_fence and x.status = 'running');

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
