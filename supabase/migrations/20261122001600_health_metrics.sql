-- How are the agents doing? One JSON object over the runs that the caller may see (row level security applies: an owner
-- gets their own numbers, service_role everybody's, those by roll-ups).
--
-- Rates, percentiles and costs are of the runs that ended in the span; what is open now is counted in runs, runs_by_status,
-- reviews and queue, if the span reaches into the current hour. The span begins with a whole hour, in UTC.
--
-- Mind the parameters: inside, a bare agent_type would be the column.

-- The oldest that waits, and not for its time.
create index agent_executions_waiting_idx on public.agent_executions (agent_type, state_since) where status = 'pending' and wake_at is null;

-- What is open now. The service's queue is too long to be counted.
create function runhold.open_now(p_agent_type text)
returns table (pending bigint, running bigint, awaiting_review bigint, reviews bigint, oldest_pending_s numeric, stuck bigint)
language sql stable security invoker set search_path = ''
begin atomic
  with held as materialized (
    select x.id, x.status, x.updated_at
    from public.agent_executions x
    where x.status = 'running' and (p_agent_type is null or x.agent_type = p_agent_type)
    union all
    select x.id, x.status, x.updated_at
    from public.agent_executions x
    where x.status = 'awaiting_review' and (p_agent_type is null or x.agent_type = p_agent_type)
  ), question as materialized (
    select v.execution_id from public.agent_reviews v
    where v.status = 'pending' and (p_agent_type is null or v.agent_type = p_agent_type)
      and ((select runhold.caller_is_service()) or v.user_id = (select auth.uid()))  -- not what a reviewer sees of others
  ), queued as (
    select runhold.queue_depth(p_agent_type) as n, least(
      (select min(f.state_since) from public.agent_types t
       cross join lateral (select x.state_since from public.agent_executions x
                           where x.agent_type = t.name and x.status = 'pending' and x.wake_at is null order by x.state_since limit 1) f
       where p_agent_type is null or t.name = p_agent_type),
      (select min(f.wake_at) from public.agent_types t
       cross join lateral (select x.wake_at from public.agent_executions x
                           where x.agent_type = t.name and x.status = 'pending' and x.wake_at <= now() order by x.wake_at limit 1) f
       where p_agent_type is null or t.name = p_agent_type)) as oldest
    where runhold.caller_is_service()
    union all
    select count(*), min(coalesce(x.wake_at, x.state_since)) filter (where x.wake_at is null or x.wake_at <= now())
    from public.agent_executions x
    where x.status = 'pending' and (p_agent_type is null or x.agent_type = p_agent_type)
      and x.user_id = (select auth.uid())
    having not runhold.caller_is_service()
  )
  select q.n,
         (select count(*) from held h where h.status = 'running'),
         (select count(*) from held h where h.status = 'awaiting_review'),
         (select count(*) from question),
         round(extract(epoch from now() - q.oldest), 1),
         -- nobody has touched them for far longer than a step may take, or nothing will ever wake them
         (select count(*) from held h
          where (h.status = 'running' and h.updated_at < now() - interval '15 minutes')
             or (h.status = 'awaiting_review' and h.id not in (select k.execution_id from question k)))
  from queued q;
end;

-- Runs in the queue by what workers gave them back for. Of a hundred thousand at most.
create function runhold.waiting_now(p_agent_type text) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select coalesce(jsonb_object_agg(w.what, w.n), '{}')
  from (select runhold.waits_for(x.error_detail) as what, count(*) as n
        from (
          (select e.error_detail from public.agent_executions e
           where e.status = 'pending' and e.wake_at is not null and e.waiting_since is not null
             and (p_agent_type is null or e.agent_type = p_agent_type) and (select runhold.caller_is_service())
           limit 100000)
          union all
          select e.error_detail from public.agent_executions e
          where e.status = 'pending' and e.wake_at is not null and e.waiting_since is not null
            and (p_agent_type is null or e.agent_type = p_agent_type)
            and e.user_id = (select auth.uid()) and not (select runhold.caller_is_service())) x
        where x.error_detail ->> 'waiting_for' is not null
        group by 1) w;
end;

create function public.agent_health_metrics(
  agent_type text default null,
  since timestamptz default now() - interval '7 days',
  until timestamptz default now()) returns jsonb
language sql stable security invoker set search_path = '' set jit = off
begin atomic
  with metric as materialized (
    select m.* from runhold.metrics(date_trunc('hour', agent_health_metrics.since, 'UTC'), agent_health_metrics.until, agent_health_metrics.agent_type) m
  ), now_open as materialized (
    select o.* from runhold.open_now(agent_health_metrics.agent_type) o
  ), state(status, n) as (
    select m.label, m.n from metric m where m.measure = 'ended'
    union all
    select s.status, s.n
    from now_open o cross join lateral (values ('pending', o.pending), ('running', o.running), ('awaiting_review', o.awaiting_review)) s(status, n)
    where s.n > 0 and agent_health_metrics.until >= date_trunc('hour', now(), 'UTC')
  ), outcome(status, n) as (
    select m.label, m.n from metric m where m.measure = 'reviews'
    union all
    select 'pending', o.reviews from now_open o where o.reviews > 0 and agent_health_metrics.until >= date_trunc('hour', now(), 'UTC')
  ), tool as (
    select m.label as name, m.n as calls, l.p50, l.p95,
           coalesce((select s.n from metric s where s.measure = 'calls_succeeded' and s.label = m.label), 0) as succeeded,
           coalesce((select f.n from metric f where f.measure = 'calls_finished' and f.label = m.label), 0) as finished
    from metric m left join metric l on l.measure = 'call_latency_ms' and l.label = m.label
    where m.measure = 'calls'
  ), total as (
    select coalesce(sum(m.n) filter (where m.measure = 'ended'), 0) as ended,
           coalesce(sum(m.n) filter (where m.measure = 'ended' and m.label = 'completed'), 0) as completed,
           coalesce(sum(m.n) filter (where m.measure = 'reviewed'), 0) as reviewed,
           coalesce(sum(m.total) filter (where m.measure = 'tokens'), 0) as tokens,
           coalesce(sum(m.total) filter (where m.measure = 'usd'), 0) as usd,
           round(sum(m.total) filter (where m.measure = 'steps') / sum(m.n) filter (where m.measure = 'steps'), 2) as steps,
           round(sum(m.total) filter (where m.measure = 'efficiency') / sum(m.n) filter (where m.measure = 'efficiency'), 4) as efficiency
    from metric m
  ), spread as (  -- one row, also without any run
    select max(m.p50) filter (where m.measure = 'steps') as steps_p50, max(m.p95) filter (where m.measure = 'steps') as steps_p95,
           max(m.p50) filter (where m.measure = 'active_ms') as active_p50, max(m.p95) filter (where m.measure = 'active_ms') as active_p95,
           max(m.p50) filter (where m.measure = 'queued_ms') as queued_p50, max(m.p95) filter (where m.measure = 'queued_ms') as queued_p95,
           max(m.p50) filter (where m.measure = 'wall_ms') as wall_p50, max(m.p95) filter (where m.measure = 'wall_ms') as wall_p95,
           max(m.p50) filter (where m.measure = 'review_wait_ms') as wait_p50, max(m.p95) filter (where m.measure = 'review_wait_ms') as wait_p95
    from metric m
  )
  select jsonb_build_object(
    'agent_type', agent_health_metrics.agent_type,
    'since', date_trunc('hour', agent_health_metrics.since, 'UTC'),
    'until', agent_health_metrics.until,
    'runs', (select coalesce(sum(s.n), 0) from state s),
    'runs_by_status', (select coalesce(jsonb_object_agg(s.status, s.n), '{}') from state s),
    'completion_rate', round(t.completed / nullif(t.ended, 0), 4),
    'failures_by_code', (select coalesce(jsonb_object_agg(m.label, m.n), '{}') from metric m where m.measure = 'failed'),
    'steps', jsonb_build_object('avg', t.steps, 'p50', p.steps_p50, 'p95', p.steps_p95, 'efficiency', t.efficiency),
    'tools', (select jsonb_build_object(
        'calls', coalesce(sum(k.calls), 0),
        'success_rate', round(sum(k.succeeded) / nullif(sum(k.finished), 0), 4),
        'by_tool', coalesce(jsonb_object_agg(k.name, jsonb_build_object(
          'calls', k.calls, 'success_rate', round(k.succeeded * 1.0 / nullif(k.finished, 0), 4),
          'latency_ms_p50', k.p50, 'latency_ms_p95', k.p95)), '{}'))
      from tool k),
    'reviews', jsonb_build_object(
      'rate', round(t.reviewed / nullif(t.ended, 0), 4),
      'by_outcome', (select coalesce(jsonb_object_agg(o.status, o.n), '{}') from (select c.status, sum(c.n) as n from outcome c group by 1) o),
      'wait_ms_p50', p.wait_p50, 'wait_ms_p95', p.wait_p95),
    'cost', jsonb_build_object(
      'tokens', t.tokens, 'usd', t.usd,
      'tokens_per_completion', round(t.tokens / nullif(t.completed, 0), 1),
      'usd_per_completion', round(t.usd / nullif(t.completed, 0), 6)),
    'time_ms', jsonb_build_object(
      'active_p50', p.active_p50, 'active_p95', p.active_p95, 'queued_p50', p.queued_p50, 'queued_p95', p.queued_p95,
      'wall_p50', p.wall_p50, 'wall_p95', p.wall_p95),
    'queue', (select jsonb_build_object(
        'depth', o.pending, 'oldest_pending_s', o.oldest_pending_s, 'awaiting_review', o.awaiting_review, 'stuck', o.stuck,
        'waiting', runhold.waiting_now(agent_health_metrics.agent_type))
      from now_open o))
  from total t cross join spread p;
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_health_metrics(text, timestamptz, timestamptz) from public, anon;
grant execute on function public.agent_health_metrics(text, timestamptz, timestamptz) to authenticated, service_role;
-- the function runs as its caller, so these helpers are called by them too: numbers of what they may see
grant execute on function runhold.open_now(text), runhold.queue_depth(text), runhold.waiting_now(text), runhold.waits_for(jsonb)
  to authenticated, service_role;
