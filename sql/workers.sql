-- Which workers are there, and are they well?
--
-- Columns: state (living, draining, silent: its lease is over and the sweep has not come by yet, dead); in_flight as the
-- worker said at its last heartbeat, holds as the database knows, of capacity; seen_s, seconds since it was heard; lease_s.
-- Cost: one row per process of the last day and the running runs by index; milliseconds.
-- Bad answer: silent for more than a lease → the process hangs or is cut off: its runs go on elsewhere by themselves.
-- holds above in_flight for long → its next heartbeat gives back what it forgot. in_flight at capacity everywhere and a
-- queue (sql/queue.sql) → start more workers.

select case when w.dead_at is not null then 'dead'
            when w.lease_expires_at < now() then 'silent'
            when w.draining then 'draining'
            else 'living' end as state,
       w.hostname, w.pid, w.version, w.agent_types, w.in_flight, coalesce(h.n, 0) as holds, w.capacity,
       round(extract(epoch from now() - w.last_seen_at), 1) as seen_s,
       extract(epoch from w.lease)::integer as lease_s, w.started_at, w.dead_at, w.id
from public.agent_workers w
left join (select x.worker_id, count(*) as n from public.agent_executions x where x.status = 'running' group by x.worker_id) h
  on h.worker_id = w.id
where w.dead_at is null or w.dead_at > now() - interval '1 day'
order by w.dead_at nulls first, w.hostname, w.pid;
