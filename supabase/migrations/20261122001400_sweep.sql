-- The sweep: what nobody else will do. Every worker calls it at intervals, pg_cron too where it exists; one at a time.

-- The sweep is seen too, so that silence of the workers can be told from silence of the database.
create function runhold.note_sweep() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update runhold.liveness l
  set sweeping_since = case when runhold.now() - l.last_sweep_at > 2 * runhold.longest_lease() then runhold.now() else l.sweeping_since end,
      last_sweep_at = runhold.now()
  where true;
end;
$$;

-- May the sweep trust that an expired lease means a dead worker? Not until one lease after a gap in *all* heartbeats: then
-- it may have been the database that was away, and the workers shall be heard first. Where sweeps went on through five
-- leases of silence, there is nobody left to be heard.
create function runhold.is_silence_death(p_lease interval) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select (runhold.now() - l.last_beat_at <= runhold.longest_lease() and runhold.now() - l.beating_since >= p_lease)
        or (runhold.now() - l.last_beat_at >= 5 * p_lease and runhold.now() - l.sweeping_since >= 5 * p_lease)
    from runhold.liveness l);
end;
$$;

-- Workers whose lease ran out are dead; their runs go back to the queue.
create function runhold.sweep_workers() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_workers w set dead_at = runhold.now()
  where w.id in (select e.id from public.agent_workers e
                 where e.dead_at is null and e.lease_expires_at < runhold.now() and runhold.is_silence_death(e.lease)
                 order by e.id for update skip locked);

  -- also runs of workers that died earlier: whatever was locked then is taken now
  return runhold.requeue(array(
    select x.id from public.agent_executions x left join public.agent_workers w on w.id = x.worker_id
    where x.status = 'running' and (w.id is null or w.dead_at is not null)
    order by x.id for no key update of x skip locked), 'worker_lost', true);
end;
$$;

-- One review whose time is up. The caller holds it and its run.
create function runhold.expire_review(p_review_id uuid, p_execution_id uuid, p_then text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_then = 'fail' then
    update public.agent_executions x
    set status = 'failed', error = 'REVIEW_EXPIRED', error_detail = jsonb_build_object('review_id', p_review_id)
    where x.id = p_execution_id and x.status = 'awaiting_review';
  end if;
  perform set_config('runhold.closing', 'on', true);
  update public.agent_reviews r set status = 'expired' where r.id = p_review_id;
  perform set_config('runhold.closing', '', true);
  if p_then = 'fail' then  -- not the answer that the model is to see: a retry asks again
    update public.agent_tool_calls c set cut_off = 'awaiting_review'
    from public.agent_reviews r where r.id = p_review_id and c.id = r.tool_call_id and c.status = 'rejected';
  end if;
  perform runhold.close_reviews(array[p_execution_id]);
end;
$$;

-- Hands a review over to the operators: from now on only they decide, within their own time limit if there is one.
create function runhold.escalate_review(p_review_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_reviews r
  set escalated_at = runhold.now(),
      expires_at = runhold.now() + (select t.escalation_ttl from public.agent_types t where t.name = r.agent_type)
  where r.id = p_review_id;
  perform runhold.write_event(r.execution_id, r.user_id, r.tenant_id, 'review_escalated', runhold.compact(jsonb_build_object(
    'review_id', r.id, 'kind', r.kind, 'tool_name', r.tool_name, 'expires_at', r.expires_at)))
  from public.agent_reviews r where r.id = p_review_id;
end;
$$;

-- Reviews of paused runs whose time is up, as their type says: reject, fail, or hand over to the operators, and when
-- their time is up too, as reject. Runs first, then reviews, and whatever someone else holds is left for the next round: this
-- never waits.
create function runhold.sweep_reviews() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_runs uuid[];
  v_review record;
  v_count integer := 0;
begin
  v_runs := array(
    select x.id from public.agent_executions x
    where x.status = 'awaiting_review'
      and x.id in (select r.execution_id from public.agent_reviews r
                   where r.status = 'pending' and r.expires_at <= runhold.now() order by r.expires_at limit 500)
    order by x.id for no key update skip locked);
  for v_review in
    select r.id, r.execution_id,
           -- nobody can be told "it did not happen": what is unknown can't be rejected, only ended
           case when r.kind = 'unknown_outcome' and e.then_do = 'reject' then 'fail' else e.then_do end as then_do
    from public.agent_reviews r join public.agent_types t on t.name = r.agent_type
    cross join lateral (
      select case when r.escalated_at is not null and t.review_on_expiry = 'escalate' then 'reject'
                  else t.review_on_expiry end as then_do) e
    where r.execution_id = any (v_runs) and r.status = 'pending' and r.expires_at <= runhold.now()
    order by r.id for update of r skip locked
  loop
    v_count := v_count + 1;
    if v_review.then_do = 'escalate' then
      perform runhold.escalate_review(v_review.id);
    elsif exists (select from public.agent_reviews r where r.id = v_review.id and r.status = 'pending') then
      perform runhold.expire_review(v_review.id, v_review.execution_id, v_review.then_do);
    end if;
  end loop;
  return v_count;
end;
$$;

-- What should not be: paused runs without a question, open questions and waiting calls of ended runs, runs that wait for a budget
-- that has room, running runs with limits that an operator has changed or taken away.
create function runhold.sweep_repairs() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select x.id from public.agent_executions x
    where x.status = 'awaiting_review'
      and not exists (select from public.agent_reviews r where r.execution_id = x.id and r.status = 'pending')
    order by x.id limit 500 for no key update skip locked);
  perform runhold.close_reviews(array(
    select distinct r.execution_id from public.agent_reviews r join public.agent_executions x on x.id = r.execution_id
    where r.status = 'pending' and runhold.is_final(x.status) limit 500));
  return runhold.resume_decided(v_ids) + runhold.wake_waiting()
    + runhold.refresh_limits(array(select t.name from public.agent_types t));
end;
$$;

create function runhold.sweep() returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if not pg_try_advisory_xact_lock(hashtextextended('runhold.sweep', 0)) then
    return '{"busy": true}';
  end if;
  perform runhold.set_actor('system');
  perform runhold.roll_up_metrics(4);  -- before what locks runs, or what heartbeats wait for: it takes longest
  -- in the order of a worker that registers: types before liveness
  perform runhold.adopt_definitions(array(select t.name from public.agent_types t));
  perform runhold.note_sweep();
  perform runhold.prune_lanes();
  return jsonb_build_object(
    'requeued', runhold.sweep_workers(),
    'expired', runhold.sweep_reviews(),
    'repaired', runhold.sweep_repairs() + runhold.sweep_users());
end;
$$;

create function public.agent_sweep() returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.sweep();
end;

-- Retention: the oldest ended runs, with all that belongs to them, and workers that died long ago. A run with a question that
-- the sweep has not closed yet is left for the next time: somebody may be answering it, and holds the review.
create function runhold.prune(p_older_than interval, p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_count integer;
begin
  if p_older_than is null or p_older_than < interval '1 hour' then
    perform runhold.refuse('RH013', 'older_than must be at least one hour.', 'Say for example interval ''90 days''.');
  end if;
  delete from public.agent_executions x
  where x.id in (select e.id from public.agent_executions e
                 where runhold.is_final(e.status) and e.completed_at < runhold.now() - p_older_than
                   and not exists (select from public.agent_reviews r where r.execution_id = e.id and r.status = 'pending')
                 order by e.completed_at limit least(greatest(p_limit, 0), 10000) for update skip locked);
  get diagnostics v_count = row_count;
  delete from public.agent_workers w
  where w.dead_at < runhold.now() - p_older_than
    and not exists (select from public.agent_executions x where x.status = 'running' and x.worker_id = w.id);
  return v_count;
end;
$$;

create function public.agent_prune(older_than interval, "limit" integer default 1000) returns integer
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.prune(older_than, "limit");
end;

-- Retention as the project has set it: what pg_cron calls. A bounded part of what is due; the rest next time.
create function runhold.prune_as_set() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_age interval := runhold.setting('retention');
begin
  return case when v_age is null then 0 else runhold.prune(v_age, 1000) end;
end;
$$;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_sweep(), public.agent_prune(interval, integer) from public, anon, authenticated;
grant execute on function runhold.sweep(), runhold.prune(interval, integer) to service_role;
grant execute on function public.agent_sweep(), public.agent_prune(interval, integer) to service_role;
