-- How are the agents doing? One JSON object over the runs that the caller may see (row level security applies: an owner
-- gets their own numbers, service_role everybody's).
--
-- Mind the parameters: inside, a bare agent_type would be the column.

create function public.agent_health_metrics(
  agent_type text default null,
  since timestamptz default now() - interval '7 days',
  until timestamptz default now()) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  with run as materialized (
    select x.*, x.completed_at is not null as final
    from public.agent_executions x
    where (agent_health_metrics.agent_type is null or x.agent_type = agent_health_metrics.agent_type)
      and x.created_at >= agent_health_metrics.since and x.created_at < agent_health_metrics.until
  ), max_steps as materialized (
    select k.agent_type, (runhold.type_limits(k.agent_type) ->> 'max_steps')::numeric as n
    from (select distinct r.agent_type from run r) k
  ), call as materialized (
    -- what a fork copied was called once, in its source; what a run's end cut off is no failure of the tool
    select c.tool_name, case when c.cut_off is null then c.status end as status, c.latency_ms
    from run r join public.agent_tool_calls c on c.execution_id = r.id and c.step_number > r.copied_steps
  ), review as materialized (
    select v.status, v.execution_id,
           case when v.status in ('approved', 'rejected') then extract(epoch from v.decided_at - v.requested_at) * 1000 end as wait_ms
    from public.agent_reviews v where v.execution_id in (select r.id from run r)
  )
  select jsonb_build_object(
    'agent_type', agent_health_metrics.agent_type,
    'since', agent_health_metrics.since,
    'until', agent_health_metrics.until,
    'runs', (select count(*) from run),
    'runs_by_status', (select coalesce(jsonb_object_agg(s.status, s.n), '{}') from (select r.status, count(*) as n from run r group by r.status) s),
    'completion_rate', (select round(count(*) filter (where r.status = 'completed') * 1.0 / nullif(count(*) filter (where r.final), 0), 4) from run r),
    'failures_by_code', (select coalesce(jsonb_object_agg(f.error, f.n), '{}') from (select r.error, count(*) as n from run r where r.error is not null group by r.error) f),
    'steps', (select jsonb_build_object(
        'avg', round(avg(r.step_count), 2),
        'p50', percentile_cont(0.5) within group (order by r.step_count),
        'p95', percentile_cont(0.95) within group (order by r.step_count),
        'efficiency', round(avg(r.step_count * 1.0 / nullif(least(m.n, (r.limits ->> 'max_steps')::numeric), 0)), 4))
      from run r join max_steps m using (agent_type) where r.status = 'completed'),
    'tools', (select jsonb_build_object(
        'calls', count(*),
        'success_rate', round(count(*) filter (where c.status = 'succeeded') * 1.0
                              / nullif(count(*) filter (where c.status in ('succeeded', 'failed', 'unknown')), 0), 4),
        'by_tool', (select coalesce(jsonb_object_agg(t.tool_name, jsonb_build_object(
            'calls', t.calls, 'success_rate', t.success_rate, 'latency_ms_p50', t.p50, 'latency_ms_p95', t.p95)), '{}')
          from (select k.tool_name, count(*) as calls,
                       round(count(*) filter (where k.status = 'succeeded') * 1.0
                             / nullif(count(*) filter (where k.status in ('succeeded', 'failed', 'unknown')), 0), 4) as success_rate,
                       percentile_cont(0.5) within group (order by k.latency_ms) as p50,
                       percentile_cont(0.95) within group (order by k.latency_ms) as p95
                from call k group by k.tool_name) t))
      from call c),
    'reviews', (select jsonb_build_object(
        'rate', round(count(distinct v.execution_id) * 1.0 / nullif((select count(*) from run), 0), 4),
        'by_outcome', (select coalesce(jsonb_object_agg(o.status, o.n), '{}') from (select w.status, count(*) as n from review w group by w.status) o),
        'wait_ms_p50', percentile_cont(0.5) within group (order by v.wait_ms),
        'wait_ms_p95', percentile_cont(0.95) within group (order by v.wait_ms))
      from review v),
    'cost', (select jsonb_build_object(
        'tokens', coalesce(sum(r.token_count - r.copied_tokens), 0),
        'usd', coalesce(sum(r.cost_usd), 0),
        'tokens_per_completion', round(sum(r.token_count - r.copied_tokens) * 1.0 / nullif(count(*) filter (where r.status = 'completed'), 0), 1),
        'usd_per_completion', round(sum(r.cost_usd) / nullif(count(*) filter (where r.status = 'completed'), 0), 6))
      from run r),
    'time_ms', (select jsonb_build_object(
        'active_p50', percentile_cont(0.5) within group (order by r.active_ms),
        'active_p95', percentile_cont(0.95) within group (order by r.active_ms),
        'queued_p50', percentile_cont(0.5) within group (order by r.queued_ms),
        'queued_p95', percentile_cont(0.95) within group (order by r.queued_ms),
        'wall_p50', percentile_cont(0.5) within group (order by extract(epoch from r.completed_at - r.created_at) * 1000),
        'wall_p95', percentile_cont(0.95) within group (order by extract(epoch from r.completed_at - r.created_at) * 1000))
      from run r where r.final),
    'queue', (select jsonb_build_object(
        'depth', count(*) filter (where q.status = 'pending'),
        'oldest_pending_s', round(extract(epoch from now() - min(q.state_since) filter (
          where q.status = 'pending' and (q.wake_at is null or q.wake_at <= now()))), 1),
        'awaiting_review', count(*) filter (where q.status = 'awaiting_review'),
        -- nobody has touched them for far longer than a step may take, or nothing will ever wake them
        'stuck', count(*) filter (where (q.status = 'running' and q.updated_at < now() - interval '15 minutes')
                                    or (q.status = 'awaiting_review' and not exists (
                                          select from public.agent_reviews v where v.execution_id = q.id and v.status = 'pending'))))
      from public.agent_executions q
      where (agent_health_metrics.agent_type is null or q.agent_type = agent_health_metrics.agent_type)
        and q.status in ('pending', 'running', 'awaiting_review')));
end;

revoke execute on function public.agent_health_metrics(text, timestamptz, timestamptz) from public, anon;
grant execute on function public.agent_health_metrics(text, timestamptz, timestamptz) to authenticated, service_role;
-- the function runs as its caller, so this helper (no secret: numbers of limits) is called by them too
grant execute on function runhold.type_limits(text) to authenticated, service_role;
