-- A run leaves a worker that will not finish it: it died, shuts down, or forgot the run. One function for all of them,
-- because the question is always the same: what may have happened?
--
--   unsafe call that was running      → unknown, a person is asked, the run waits for the answer
--   read or idempotent call, running  → pending: it runs again (an idempotent one under the same key)
--   anything else                     → as it stands

-- The caller holds the locks of these runs. p_counted: the attempt was used up (a lost worker), else it is given back.
create function runhold.requeue(p_execution_ids uuid[], p_reason text, p_counted boolean) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  if p_execution_ids is null or p_execution_ids = '{}' then
    return 0;
  end if;
  perform set_config('runhold.reason', p_reason, true);

  update public.agent_tool_calls c
  set status = case when c.effect = 'unsafe' then 'unknown' else 'pending' end,
      error = case when c.effect = 'unsafe' then 'The worker was lost while this call ran.' end
  where c.execution_id = any (p_execution_ids) and c.status = 'running';

  update public.agent_executions x
  set status = case
        when x.cancel_requested_at is not null then 'cancelled'
        when exists (select from public.agent_tool_calls c where c.execution_id = x.id and c.status = 'unknown') then 'awaiting_review'
        when p_counted and x.attempt >= m.max_attempts then 'failed'
        else 'pending' end,
      error = case when x.cancel_requested_at is null and p_counted and x.attempt >= m.max_attempts
                    and not exists (select from public.agent_tool_calls c where c.execution_id = x.id and c.status = 'unknown')
                   then 'WORKER_LOST' end,
      error_detail = case
        when x.cancel_requested_at is not null then jsonb_build_object(
          'requested_at', x.cancel_requested_at, 'reason', p_reason,
          'unknown', (select coalesce(jsonb_agg(c.tool_name order by c.step_number, c.position), '[]')
                      from public.agent_tool_calls c where c.execution_id = x.id and c.status = 'unknown'))
        when p_counted and x.attempt >= m.max_attempts then jsonb_build_object(
          'limit', 'max_attempts', 'allowed', m.max_attempts, 'used', x.attempt, 'step', x.step_count) end,
      attempt = case when p_counted then x.attempt else greatest(x.attempt - 1, 0) end,
      active_ms = x.active_ms + case when p_counted then runhold.unrecorded_ms(x) else 0 end
  from (select e.id, coalesce(t.max_attempts, d.max_attempts, 3) as max_attempts
        from public.agent_executions e
        join public.agent_types t on t.name = e.agent_type
        left join public.agent_definitions d on d.id = t.definition_id
        where e.id = any (p_execution_ids)) m
  where x.id = m.id and x.status = 'running';
  get diagnostics v_count = row_count;

  perform runhold.open_review(c.id, 'unknown_outcome', format('Did %s happen? %s', c.tool_name, c.error))
  from public.agent_tool_calls c join public.agent_executions x on x.id = c.execution_id
  where c.execution_id = any (p_execution_ids) and c.status = 'unknown' and x.status = 'awaiting_review'
    and not exists (select from public.agent_reviews r where r.tool_call_id = c.id and r.status = 'pending')
  order by c.execution_id, c.step_number, c.position;

  perform runhold.close_reviews(p_execution_ids);
  return v_count;
end;
$$;

-- Active time that a lost worker never recorded: at most until its lease ended. A run can't outlive its time limit by
-- killing its workers.
create function runhold.unrecorded_ms(p_execution public.agent_executions) returns bigint
language sql stable security definer set search_path = ''
return coalesce((
  select greatest(0, extract(epoch from least(w.lease_expires_at, runhold.now()) - greatest(p_execution.updated_at, p_execution.state_since)) * 1000)::bigint
  from public.agent_workers w where w.id = p_execution.worker_id), 0);

-- The same for runs picked by a condition: those that others hold are left for the next round.
create function runhold.requeue_held(p_worker_id uuid, p_execution_ids uuid[], p_reason text, p_counted boolean) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return runhold.requeue(array(
    select x.id from public.agent_executions x
    where x.worker_id = p_worker_id and x.status = 'running' and (p_execution_ids is null or x.id = any (p_execution_ids))
    order by x.id for no key update skip locked), p_reason, p_counted);
end;
$$;

revoke execute on all functions in schema runhold from public;
