-- Five queues, each of them hard in its own way; a claim asks for one of them. Their types are known to the database already.

-- name: users
insert into auth.users (id, email)
select md5('u' || i)::uuid, format('queued-%%s@example.org', i) from generate_series(0, %(users)s::bigint) i
on conflict do nothing;

-- name: plain
-- Runs of many users, in the order in which they came.
insert into public.agent_executions (user_id, agent_type, input_data, created_at)
select md5('u' || mod(i, %(users)s))::uuid, 'plain', '{}', now() - interval '1 day' + i * interval '1 ms' from generate_series(1, %(runs)s::bigint) i;

-- name: future
-- The time of none has come.
insert into public.agent_executions (user_id, agent_type, input_data, created_at, wake_at)
select md5('u' || mod(i, %(users)s))::uuid, 'future', '{}', now() - interval '1 day', now() + interval '1 day' + i * interval '1 ms'
from generate_series(1, %(runs)s::bigint) i;

-- name: behind
-- A few, behind those of all other types in the same table.
insert into public.agent_executions (user_id, agent_type, input_data)
select md5('u' || mod(i, %(users)s))::uuid, 'behind', '{}' from generate_series(1, %(behind)s::bigint) i;

-- name: cap
update public.agent_types set max_concurrent_per_user = 1 where name = 'capped';

-- name: capped
-- Runs of users who have all that they may have, ahead of one run each of users who have none.
insert into public.agent_executions (user_id, agent_type, input_data, status, worker_id, definition_id, effective_limits)
select md5('u' || i)::uuid, 'capped', '{}', 'running', gen_random_uuid(), gen_random_uuid(), '{}' from generate_series(1, %(capped_users)s::bigint) i;
insert into public.agent_executions (user_id, agent_type, input_data, created_at)
select md5('u' || 1 + mod(i, %(capped_users)s))::uuid, 'capped', '{}', now() - interval '1 day' + i * interval '1 ms'
from generate_series(1, %(runs)s::bigint) i;
insert into public.agent_executions (user_id, agent_type, input_data)
select md5('u' || i)::uuid, 'capped', '{}' from generate_series(%(capped_users)s::bigint + 1, %(single_users)s) i;

-- name: fair
-- All of one user's, ahead of one run each of others.
insert into public.agent_executions (user_id, agent_type, input_data, created_at)
select md5('u0')::uuid, 'fair', '{}', now() - interval '1 day' + i * interval '1 ms' from generate_series(1, %(runs)s::bigint) i;
insert into public.agent_executions (user_id, agent_type, input_data)
select md5('u' || i)::uuid, 'fair', '{}' from generate_series(1, %(single_users)s::bigint) i;
