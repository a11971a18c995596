-- Claiming runs, and all that a worker needs to go on with them.

create function runhold.calls_json(p_execution_id uuid) returns jsonb
language sql stable security definer set search_path = ''
return (
  select coalesce(jsonb_agg(jsonb_build_object(
    'step_number', c.step_number, 'position', c.position, 'call_id', c.call_id, 'tool_name', c.tool_name,
    'input', c.tool_input, 'effect', c.effect, 'status', c.status,
    'output', case when c.shown is null then c.tool_output end, 'shown', c.shown, 'error', c.error,
    'edited', c.edited, 'attempt', c.attempt) order by c.step_number, c.position), '[]')
  from public.agent_tool_calls c where c.execution_id = p_execution_id);

create function runhold.reviews_json(p_execution_id uuid) returns jsonb
language sql stable security definer set search_path = ''
return (
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', r.id, 'step_number', c.step_number, 'position', c.position, 'kind', r.kind, 'status', r.status,
    'used', r.used_at is not null, 'comment', r.comment, 'answer', r.answer)
    order by c.step_number, c.position, r.requested_at, r.id), '[]')
  from public.agent_reviews r join public.agent_tool_calls c on c.id = r.tool_call_id
  where r.execution_id = p_execution_id);

create function runhold.steps_json(p_execution_id uuid) returns jsonb
language sql stable security definer set search_path = ''
return (
  select coalesce(jsonb_agg(jsonb_build_object(
    'step_number', s.step_number, 'definition_id', s.definition_id, 'message', s.message,
    'injected', coalesce(s.injected, '[]'), 'request_params', coalesce(s.request_params, '{}'), 'finish_reason', s.finish_reason,
    'input_tokens', s.input_tokens, 'output_tokens', s.output_tokens, 'cached_tokens', s.cached_tokens,
    'usage_estimated', s.usage_estimated, 'cost_usd', s.cost_usd, 'latency_ms', s.latency_ms) order by s.step_number), '[]')
  from public.agent_steps s where s.execution_id = p_execution_id);

create function runhold.messages_json(p_execution_id uuid) returns jsonb
language sql stable security definer set search_path = ''
return (
  select coalesce(jsonb_agg(jsonb_build_object('id', m.id, 'content', m.content) order by m.created_at, m.id), '[]')
  from public.agent_messages m where m.execution_id = p_execution_id and m.delivered_step is null);

-- What holds for this run: its type's limits, tightened by its own.
create function runhold.run_limits(p_agent_type text, p_limits jsonb) returns jsonb
language sql stable security definer set search_path = ''
return runhold.tighten(runhold.type_limits(p_agent_type), p_limits);

create function runhold.run_json(p_execution public.agent_executions) returns jsonb
language sql stable security definer set search_path = ''
return jsonb_build_object(
  'id', p_execution.id, 'user_id', p_execution.user_id, 'tenant_id', p_execution.tenant_id,
  'agent_type', p_execution.agent_type, 'fence', p_execution.fence, 'attempt', p_execution.attempt,
  'created_at', p_execution.created_at, 'input', p_execution.input_data, 'state', p_execution.state,
  'limits', runhold.run_limits(p_execution.agent_type, p_execution.limits),
  'active_ms', p_execution.active_ms, 'cost_usd', p_execution.cost_usd,
  'cancel_requested', p_execution.cancel_requested_at is not null,
  'approval_tools', (select to_jsonb(t.approval_tools) from public.agent_types t where t.name = p_execution.agent_type),
  'outage_since', p_execution.outage_since,
  'steps', runhold.steps_json(p_execution.id), 'calls', runhold.calls_json(p_execution.id),
  'reviews', runhold.reviews_json(p_execution.id), 'messages', runhold.messages_json(p_execution.id));

-- Runs in the order of p_ids, at most 8 MiB of them; one that does not fit comes without its lists (agent_worker_log).
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
      v_run := v_run - array['steps', 'calls', 'reviews', 'messages'] || '{"truncated": true}';
    end if;
    v_bytes := v_bytes + pg_column_size(v_run);
    v_runs := v_runs || v_run;
  end loop;
  return to_jsonb(v_runs);
end;
$$;

-- Picking -----------------------------------------------------------------------------------------------------------

-- Locks up to p_n claimable runs and returns their ids, best first. What others hold is skipped.
create function runhold.pick_uncapped(p_types text[], p_n integer) returns uuid[]
language sql volatile security definer set search_path = ''
begin atomic
  select coalesce(array_agg(p.id order by p.priority desc, p.created_at, p.id), '{}')
  from (
    select c.* from unnest(p_types) t(name)
    cross join lateral (
      select x.id, x.priority, x.created_at from public.agent_executions x
      where x.status = 'pending' and x.agent_type = t.name and (x.wake_at is null or x.wake_at <= runhold.now())
      order by x.priority desc, x.created_at, x.id
      limit p_n for update skip locked) c
    order by c.priority desc, c.created_at, c.id
    limit p_n) p;
end;

-- The same for a type with a cap on its runs in flight. Its row in agent_types is the lock under which we count; while
-- another worker counts, this type has nothing for us.
create function runhold.pick_capped(p_type text, p_n integer) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_window constant integer := 1000;  -- pending runs looked at: beyond, one user's backlog waits for the next claim
  v_type public.agent_types;
  v_free integer;
  v_ids uuid[];
begin
  select t.* into v_type from public.agent_types t where t.name = p_type for no key update skip locked;
  if not found then
    return '{}';
  end if;
  v_free := least(p_n, coalesce(v_type.max_concurrent, p_n) - (
    select count(*) from public.agent_executions x where x.status = 'running' and x.agent_type = p_type));
  if v_free <= 0 then
    return '{}';
  end if;

  select coalesce(array_agg(r.id), '{}') into v_ids
  from (
    select c.id, c.user_id, row_number() over (partition by c.user_id order by c.priority desc, c.created_at, c.id) as nth,
           c.priority, c.created_at
    from (select x.* from public.agent_executions x
          where x.status = 'pending' and x.agent_type = p_type and (x.wake_at is null or x.wake_at <= runhold.now())
          order by x.priority desc, x.created_at, x.id limit c_window) c) r
  where v_type.max_concurrent_per_user is null
     or r.nth + (select count(*) from public.agent_executions x
                 where x.status = 'running' and x.agent_type = p_type and x.user_id = r.user_id) <= v_type.max_concurrent_per_user;

  return array(
    select x.id from public.agent_executions x where x.id = any (v_ids) and x.status = 'pending'
    order by x.priority desc, x.created_at, x.id limit v_free for update skip locked);
end;
$$;

create function runhold.pick(p_types text[], p_n integer) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_type public.agent_types;
  v_open text[] := '{}';
  v_ids uuid[] := '{}';
begin
  for v_type in select t.* from public.agent_types t where t.name = any (p_types) and t.enabled order by t.name loop
    if v_type.max_concurrent is null and v_type.max_concurrent_per_user is null then
      v_open := v_open || v_type.name;
    elsif cardinality(v_ids) < p_n then
      v_ids := v_ids || runhold.pick_capped(v_type.name, p_n - cardinality(v_ids));
    end if;
  end loop;
  if v_open <> '{}' and cardinality(v_ids) < p_n then
    v_ids := v_ids || runhold.pick_uncapped(v_open, p_n - cardinality(v_ids));
  end if;
  return v_ids;
end;
$$;

create function runhold.worker_claim(p_worker_id uuid, p_seq bigint, p_definitions jsonb, p_n integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_worker public.agent_workers;
  v_types text[] := array(select jsonb_object_keys(p_definitions));
  v_ids uuid[];
begin
  perform runhold.set_actor('worker', p_worker_id);
  v_worker := runhold.lock_worker(p_worker_id);
  if p_n is null or p_n < 1 or p_n > 1000 then
    perform runhold.refuse('RH013', 'n must be between 1 and 1000.');
  end if;

  if p_seq <= v_worker.claim_seq then
    v_ids := array(select x.id from public.agent_executions x
                   where x.worker_id = p_worker_id and x.status = 'running' and x.claim_seq = p_seq
                   order by x.priority desc, x.created_at, x.id);
  elsif v_worker.draining or v_worker.lease_expires_at <= runhold.now() then
    v_ids := '{}';  -- a worker that can't be heard any more gets nothing new
  else
    v_ids := runhold.pick(v_types, p_n);
    update public.agent_workers w set claim_seq = p_seq where w.id = p_worker_id;
    update public.agent_executions x
    set status = 'running', worker_id = p_worker_id, fence = x.fence + 1, claim_seq = p_seq, recorded_seq = 0,
        attempt = x.attempt + 1, wake_at = null, started_at = coalesce(x.started_at, runhold.now())
    where x.id = any (v_ids);
  end if;

  return jsonb_build_object(
    'runs', runhold.runs_json(v_ids),
    'more', cardinality(v_ids) = p_n,
    'next_due', (select min(x.wake_at) from public.agent_executions x
                 where x.status = 'pending' and x.wake_at > runhold.now() and x.agent_type = any (v_types)));
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
