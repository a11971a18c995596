-- What is waiting, and why is it not being worked on?
--
-- Columns: per agent type. ready, runs that could start now; oldest_s, for how long the first of them has waited; later,
-- runs whose wake_at is still to come, and next_at; running, of max_concurrent; workers and free, living workers that run
-- this type and their free slots; paused, runs that wait for people.
-- Cost: counts queued, running and paused runs by partial indexes; 2 s at a million queued (2 busy cores).
-- Bad answer: ready and no workers → start one that has this agent. ready and free = 0 → start more. ready, free and
-- running at max_concurrent → the cap holds them (agent_types). enabled false → the kill switch is on.

with queued as (
  select x.agent_type, count(*) filter (where x.wake_at is null or x.wake_at <= now()) as ready,
         min(x.state_since) filter (where x.wake_at is null) as oldest,
         count(*) filter (where x.wake_at > now()) as later, min(x.wake_at) as next_at
  from public.agent_executions x where x.status = 'pending' group by x.agent_type
), busy as (
  select x.agent_type, count(*) as n from public.agent_executions x where x.status = 'running' group by x.agent_type
), paused as (
  select x.agent_type, count(*) as n from public.agent_executions x where x.status = 'awaiting_review' group by x.agent_type
), staff as (
  select n.agent_type, count(*) as workers, sum(greatest(0, w.capacity - w.in_flight)) as free
  from public.agent_workers w cross join lateral unnest(w.agent_types) n(agent_type)
  where w.dead_at is null and not w.draining and w.lease_expires_at > now()
  group by n.agent_type
)
select t.name as agent_type, t.enabled, coalesce(q.ready, 0) as ready, round(extract(epoch from now() - q.oldest)) as oldest_s,
       coalesce(q.later, 0) as later, q.next_at, coalesce(b.n, 0) as running, t.max_concurrent, t.max_concurrent_per_user,
       coalesce(s.workers, 0) as workers, coalesce(s.free, 0) as free, coalesce(p.n, 0) as paused
from public.agent_types t
left join queued q on q.agent_type = t.name
left join busy b on b.agent_type = t.name
left join paused p on p.agent_type = t.name
left join staff s on s.agent_type = t.name
order by ready desc, t.name;
