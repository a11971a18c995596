-- Is anything waiting for something that will never come?
--
-- Columns: what is wrong, the run, its state, since when, and what to do. No rows is the good answer.
-- Cost: reads running and paused runs by partial indexes, and the queue once: milliseconds, whatever the size of the history;
-- 4 s with a million queued (2 busy cores).
-- Bad answer: the sweep repairs all but the last three within seconds. If rows of the others stay, no sweep runs: is a worker alive
-- (sql/workers.sql)? By hand: select agent_sweep();

select 'paused without an open review' as what, x.id as execution_id, x.agent_type, x.status, x.state_since as since,
       'the sweep puts it back into the queue' as then_what
from public.agent_executions x
where x.status = 'awaiting_review'
  and not exists (select from public.agent_reviews r where r.execution_id = x.id and r.status = 'pending')
union all
select 'held by a dead worker', x.id, x.agent_type, x.status, x.state_since, 'the sweep gives it to another worker'
from public.agent_executions x left join public.agent_workers w on w.id = x.worker_id
where x.status = 'running' and (w.id is null or w.dead_at is not null)
union all
select 'held by a worker whose lease is long over', x.id, x.agent_type, x.status, x.state_since, 'the sweep declares the worker dead'
from public.agent_executions x join public.agent_workers w on w.id = x.worker_id
where x.status = 'running' and w.dead_at is null and w.lease_expires_at < now() - interval '2 minutes'
union all
select 'open review of an ended run', x.id, x.agent_type, x.status, x.state_since, 'the sweep closes it'
from public.agent_reviews r join public.agent_executions x on x.id = r.execution_id
where r.status = 'pending' and x.completed_at is not null
union all
select 'review long past its time', x.id, x.agent_type, x.status, x.state_since, 'the sweep does what review_on_expiry says'
from public.agent_reviews r join public.agent_executions x on x.id = r.execution_id
where r.status = 'pending' and x.status = 'awaiting_review' and r.expires_at < now() - interval '2 minutes'
union all
select 'no progress for 15 minutes', x.id, x.agent_type, x.status, x.updated_at, 'read the worker''s log; agent_cancel, or end the worker'
from public.agent_executions x join public.agent_workers w on w.id = x.worker_id
where x.status = 'running' and w.dead_at is null and x.updated_at < now() - interval '15 minutes'
union all
select 'queued, and no living worker runs this type', x.id, x.agent_type, x.status, x.state_since, 'start a worker with this agent, or enable the type'
from (select q.*, row_number() over (partition by q.agent_type order by q.created_at) as nth
      from public.agent_executions q
      where q.status = 'pending' and q.wake_at is null and q.state_since < now() - interval '2 minutes') x
where x.nth = 1  -- one run per type
  and not exists (select from public.agent_workers w join public.agent_types t on t.name = x.agent_type and t.enabled
                  where w.dead_at is null and not w.draining and x.agent_type = any (w.agent_types))
union all
select case x.n when 1 then '1 run waits for ' else x.n || ' runs wait for ' end || x.what, x.id, x.agent_type, x.status, x.waiting_since,
       x.error_detail ->> 'message'
from (select q.*, w.what, row_number() over oldest as nth, count(*) over (partition by q.agent_type, w.what) as n
      from public.agent_executions q
      cross join lateral (select runhold.waits_for(q.error_detail) as what) w
      where q.status = 'pending' and q.wake_at is not null and q.waiting_since is not null
        and q.error_detail ->> 'waiting_for' in ('tool', 'redact_key', 'user_access', 'worker', 'model')
      window oldest as (partition by q.agent_type, w.what order by q.waiting_since, q.id)) x
where x.nth = 1  -- one run for each that is missing
order by since;
