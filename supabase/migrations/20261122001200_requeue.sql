-- A run leaves a worker that will not finish it: it died, shuts down, or forgot the run. One function for all of them,
-- because the question is always the same: what may have happened?
--
--   unsafe call that was running      → unknown, a person is asked, the run waits for the answer
--   read or idempotent call, running  → pending: it runs again (an idempotent one under the same key)
--   anything else                     → as it stands

-- Must a person say first what happened? A call is unknown or, its worker gone, about to be, and nobody said "stop" yet.
create function runhold.is_unsure(p_execution_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (
    select from public.agent_tool_calls c
    where c.execution_id = p_execution_id
      and ((c.status = 'running' and c.effect = 'unsafe')
        or (c.status = 'unknown' and not runhold.is_answered_stop(c.id))));
end;
$$;

create function runhold.is_answered_stop(p_call_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce((
    select r.status = 'rejected' from public.agent_reviews r
    where r.tool_call_id = p_call_id and r.kind = 'unknown_outcome'
    order by r.requested_at desc, r.status = 'pending' desc, r.id limit 1), false);
end;
$$;

-- What is left to do for runs that have just left their worker: no call of theirs runs any more, unknown outcomes are
-- asked about, questions of ended runs are closed.
create function runhold.leave_worker(p_execution_ids uuid[], p_error text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_tool_calls c
  set status = case when c.effect = 'unsafe' then 'unknown' when x.completed_at is not null then 'failed' else 'pending' end,
      finished_at = case when c.effect <> 'unsafe' and x.completed_at is not null then runhold.now() end,
      cut_off = case when c.effect <> 'unsafe' and x.completed_at is not null then 'running' end,
      error = case when c.effect = 'unsafe' or x.completed_at is not null then p_error end
  from public.agent_executions x
  where x.id = any (p_execution_ids) and x.status <> 'running' and c.execution_id = x.id and c.status = 'running';

  perform runhold.open_review(c.id, 'unknown_outcome', format('Did %s happen? %s', c.tool_name, c.error))
  from public.agent_tool_calls c join public.agent_executions x on x.id = c.execution_id
  where x.id = any (p_execution_ids) and x.status = 'awaiting_review' and c.status = 'unknown' and not runhold.is_answered_stop(c.id)
  order by c.execution_id, c.step_number, c.position;

  perform runhold.close_reviews(p_execution_ids);
end;
$$;

-- What becomes of each run, as status and why; null: it goes on.
create function runhold.why_not_again(p_execution public.agent_executions, p_counted boolean) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
  return case
    when p_execution.cancel_requested_at is not null then 'CANCELLED'
    when exists (select from public.agent_tool_calls c
                 where c.execution_id = p_execution.id and c.status = 'unknown' and runhold.is_answered_stop(c.id)) then 'STOPPED_BY_REVIEWER'
    when runhold.is_unsure(p_execution.id) then 'UNSURE'
    when p_counted and p_execution.attempt >= runhold.max_attempts(p_execution) then 'WORKER_LOST'
  end;
end;
$$;

-- As its operator says, else as the definition that claimed it.
create function runhold.max_attempts(p_execution public.agent_executions) returns integer
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (select coalesce(t.max_attempts, d.max_attempts, 3)
          from public.agent_types t left join public.agent_definitions d on d.id = coalesce(p_execution.definition_id, t.definition_id)
          where t.name = p_execution.agent_type);
end;
$$;

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
  perform runhold.set_reasons((select jsonb_object_agg(i, p_reason) from unnest(p_execution_ids) i));

  perform runhold.charge_as_estimated(p_execution_ids);
  update public.agent_executions x
  set status = case w.why when 'CANCELLED' then 'cancelled' when 'UNSURE' then 'awaiting_review'
                          when 'STOPPED_BY_REVIEWER' then 'failed' when 'WORKER_LOST' then 'failed' else 'pending' end,
      error = case when w.why in ('STOPPED_BY_REVIEWER', 'WORKER_LOST') then w.why end,
      error_detail = case w.why
        when 'CANCELLED' then runhold.cancel_detail(x)
        when 'WORKER_LOST' then jsonb_build_object(
          'limit', 'max_attempts', 'allowed', runhold.max_attempts(x), 'used', x.attempt, 'step', x.step_count)
        when 'STOPPED_BY_REVIEWER' then jsonb_build_object('step', x.step_count)
        else case when not p_counted then runhold.release_detail(x.release_count + 1, p_reason, null) end end,
      attempt = case when p_counted then x.attempt else greatest(x.attempt - 1, 0) end,
      release_count = case when p_counted then 0 else x.release_count + 1 end,
      waiting_since = case when not p_counted then coalesce(x.waiting_since, runhold.now()) end,
      waiting_told_at = case when not p_counted then runhold.release_told_at(x.release_count + 1, null, x.waiting_told_at) end,
      wake_at = case when w.why is null and not p_counted
                     then runhold.now() + nullif(runhold.release_pause(x.release_count + 1, p_reason, '0'), '0') end,
      active_ms = x.active_ms + case when p_counted then runhold.unrecorded_ms(x) else 0 end
  from (select e.id, runhold.why_not_again(e, p_counted) as why from public.agent_executions e
        where e.id = any (p_execution_ids) and e.status = 'running') w
  where x.id = w.id and x.status = 'running';
  get diagnostics v_count = row_count;

  perform runhold.leave_worker(p_execution_ids, 'The worker was lost while this call ran.');
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
