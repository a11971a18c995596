-- The statements of the generator, in the order of their use. Everything random is a hash of the run's number.

-- name: chance
-- Evenly between 0 and 1, for what p_of is numbered by and the p_what-th question about it.
create or replace function pg_temp.chance(p_of bigint, p_what integer) returns float8
language sql immutable parallel safe
return (hashint8extended(p_of, p_what) & 9007199254740991)::float8 / 9007199254740992;

-- name: bell
-- Normal, mean 0, deviation 1.
create or replace function pg_temp.bell(p_of bigint, p_what integer) returns float8
language sql immutable parallel safe
return sqrt(-2 * ln(pg_temp.chance(p_of, p_what) + 1e-12)) * cos(6.283185307 * pg_temp.chance(p_of, p_what + 1000));

-- name: id_of
create or replace function pg_temp.id_of(p_kind text, p_number bigint) returns uuid
language sql immutable parallel safe
return md5(p_kind || p_number)::uuid;

-- name: users
insert into auth.users (id, email)
select pg_temp.id_of('user', %(seed)s * 10000000000 + i), format('person-%%s-%%s@example.org', %(seed)s, i)
from generate_series(0, %(users)s::bigint - 1) i
on conflict do nothing;

-- name: definitions
insert into public.agent_definitions (id, hash, agent_type, version, model, instructions, limits)
select md5('definition-' || t.name)::uuid, 'seed-' || t.name, t.name, '1', 'scripted', 'Work.',
       '{"max_steps": 25, "max_tokens": 200000, "max_tool_calls": 200, "total_timeout_s": 300, "step_timeout_s": 30}'
from unnest(array['support_reply', 'contract_review', 'data_cleanup', 'outreach', 'research']) t(name)
on conflict do nothing;

-- name: types
insert into public.agent_types (name, description, definition_id)
select d.agent_type, 'Seeded.', d.id from public.agent_definitions d where d.hash like 'seed-%%'
on conflict do nothing;

-- name: worker
-- Holds the running ones, and is heard of until a day after the end.
insert into public.agent_workers (id, hostname, pid, version, agent_types, capacity, lease, lease_expires_at)
select pg_temp.id_of('worker', %(seed)s), 'seed', 1, '0', array_agg(d.agent_type), 256, interval '30 seconds', %(end)s::timestamptz + interval '1 day'
from public.agent_definitions d where d.hash like 'seed-%%'
on conflict do nothing;

-- name: batch_ended
create temp table batch as
select r.*, r.completed_at - r.wall_ms * interval '1 ms' as created_at,
       case r.status when 'failed' then (
         select e.code from (values ('TOOL_FAILED', 0.35), ('MODEL_ERROR', 0.6), ('MAX_STEPS_EXCEEDED', 0.75), ('TOTAL_TIMEOUT', 0.87),
                                    ('LOOP_DETECTED', 0.95), ('REVIEW_EXPIRED', 1)) e(code, up_to)
         where pg_temp.chance(r.n, 9) < e.up_to order by e.up_to limit 1) end as error
from (
  select t.*, t.active_ms + t.queued_ms + t.review_ms as wall_ms, t.steps - 1 as steps_with_calls,
         %(end)s::timestamptz - %(days)s * interval '1 day' * (1 - (t.i - pg_temp.chance(t.n, 1)) / %(executions)s) as completed_at
  from (
    select s.*, case when s.asks then (60000 * exp(1.5 * pg_temp.bell(s.n, 10) + 1))::bigint else 0 end as review_ms,
           (s.steps * 1200 * exp(0.5 * pg_temp.bell(s.n, 11)))::bigint as active_ms,
           (40 + 300 * -ln(1 - pg_temp.chance(s.n, 12)))::bigint as queued_ms
    from (
      select q.*, case when q.i = 1 then 100 else greatest(least(1 - floor(4.8 * ln(1 - pg_temp.chance(q.n, 7))), 25), case when q.asks then 2 else 1 end) end::integer as steps,
             case when q.chosen < 0.92 then 'completed' when q.chosen < 0.98 then 'failed' else 'cancelled' end as status
      from (
        select i, n, pg_temp.id_of('run', n) as id, pg_temp.chance(n, 2) as chosen,
               pg_temp.id_of('user', %(seed)s * 10000000000 + case when mod(i, 100) = 0 then 0 else floor(power(pg_temp.chance(n, 3), 2) * %(users)s)::bigint end) as user_id,
               kind.name as agent_type, pg_temp.chance(n, 6) < case kind.name when 'outreach' then 0.6 else 0.03 end as asks,
               case when pg_temp.chance(n, 8) < 0.85 then 'approved' else 'rejected' end as verdict
        from (select i, %(seed)s * 10000000000 + i as n from generate_series(%(first)s::bigint, %(last)s) i) numbers
        cross join lateral (
          select k.name from (values ('support_reply', 0.45), ('contract_review', 0.7), ('data_cleanup', 0.85), ('outreach', 0.95), ('research', 1)) k(name, up_to)
          where pg_temp.chance(numbers.n, 4) < k.up_to order by k.up_to limit 1) kind
      ) q) s) t) r;

-- name: batch_open
create temp table batch as
select i, n, pg_temp.id_of('run', n) as id, %(state)s as status, null::text as error, null::timestamptz as completed_at,
       pg_temp.id_of('user', %(seed)s * 10000000000 + floor(power(pg_temp.chance(n, 3), 2) * %(users)s)::bigint) as user_id,
       (array['support_reply', 'contract_review', 'data_cleanup', 'outreach', 'research'])[1 + floor(5 * pg_temp.chance(n, 4))] as agent_type,
       %(end)s::timestamptz - interval '2 days' * (1 - (i - pg_temp.chance(n, 1)) / %(count)s) as created_at,
       case %(state)s when 'pending' then 0 when 'paused' then 1 else 3 end as steps,
       case %(state)s when 'pending' then 0 when 'paused' then 1 else 2 end as steps_with_calls,
       %(state)s = 'paused' as asks, 'pending' as verdict,
       0::bigint as active_ms, 0::bigint as queued_ms, 0::bigint as review_ms
from (select i, %(seed)s * 10000000000 + i + case %(state)s when 'pending' then 2000000000 when 'paused' then 3000000000 else 4000000000 end as n
      from generate_series(%(first)s::bigint, %(last)s) i) numbers;

-- name: calls_of_batch
drop table if exists pg_temp.batch_calls;
create temp table batch_calls as
select c.*, b.id as execution_id, b.user_id, b.verdict,
       case when c.gated then case b.verdict when 'approved' then 'succeeded' when 'rejected' then 'rejected' else 'awaiting_review' end
            when c.luck < 0.955 then 'succeeded' when c.luck < 0.995 or c.effect <> 'unsafe' then 'failed' else 'unknown' end as status,
       b.created_at + b.queued_ms * interval '1 ms' + (b.active_ms * c.step_number / greatest(b.steps, 1) - 1) * interval '1 ms' as called_at,
       (c.median_ms * exp(0.7 * pg_temp.bell(c.n, 21)))::integer as latency_ms
from pg_temp.batch b
cross join lateral (
  select k.*, t.tool_name, t.effect, t.median_ms, pg_temp.chance(k.n, 22) as luck
  from (
    select b.n * 1000 + s.step_number * 4 + p.position as n, s.step_number, p.position, b.asks and s.step_number = 1 and p.position = 0 as gated
    from generate_series(1, b.steps_with_calls) s(step_number)
    cross join lateral (select pg_temp.chance(b.n * 1000 + s.step_number, 23) as x) many
    cross join lateral generate_series(0, (many.x < 0.35)::integer + (many.x < 0.15)::integer + (many.x < 0.1)::integer) p(position)) k
  join (values
    (0, 'find_customer', 'read', 40), (1, 'search_documents', 'read', 120), (2, 'read_file', 'read', 15), (3, 'query_database', 'read', 250),
    (4, 'search_documents', 'read', 120), (5, 'write_note', 'idempotent', 30), (6, 'update_record', 'idempotent', 180), (7, 'post_message', 'unsafe', 300),
    (8, 'send_email', 'unsafe', 400)) t(number, tool_name, effect, median_ms)
    on t.number = case when k.gated then 8 else floor(8 * pg_temp.chance(k.n, 24)) end) c;

-- name: executions
insert into public.agent_executions (
  id, user_id, agent_type, status, input_data, result, error, error_detail, step_count, token_count, input_tokens, output_tokens, cost_usd,
  created_at, updated_at, completed_at, started_at, state_since, tenant_id, wake_at, attempt, worker_id, fence, recorded_seq,
  active_ms, queued_ms, review_ms, tool_call_count, tool_error_count, review_count, definition_id, effective_limits)
select b.id, b.user_id, b.agent_type, case b.status when 'paused' then 'awaiting_review' else b.status end,
       jsonb_build_object('request', 'Please work on item ' || b.n), case when b.status = 'completed' then jsonb_build_object('answer', 'Item ' || b.n || ' is done.') end,
       b.error, case when b.error is not null then '{"message": "seeded"}'::jsonb end,
       b.steps, s.input_tokens + s.output_tokens, s.input_tokens, s.output_tokens, (s.input_tokens * 0.25 + s.output_tokens * 2) / 1000000,
       b.created_at, coalesce(b.completed_at, %(end)s), b.completed_at,
       case when b.steps > 0 then b.created_at + b.queued_ms * interval '1 ms' end,
       coalesce(b.completed_at, b.created_at + b.active_ms * interval '1 ms'), 'tenant-' || mod(abs(hashint8(b.n)), 50),
       case when b.status = 'pending' and pg_temp.chance(b.n, 5) < 0.2 then %(end)s::timestamptz + (1 + 30 * pg_temp.chance(b.n, 6)) * interval '1 day' end,
       case when b.steps > 0 then 1 else 0 end, case when b.status = 'running' then pg_temp.id_of('worker', %(seed)s) end,
       case when b.steps > 0 then 1 else 0 end, b.steps, b.active_ms, b.queued_ms, b.review_ms,
       coalesce(c.calls, 0), coalesce(c.failed, 0), b.asks::integer, d.id, d.limits
from pg_temp.batch b
cross join lateral (select 500 * b.steps + 125 * b.steps * (b.steps + 1) as input_tokens, (40 + floor(200 * pg_temp.chance(b.n, 13)))::integer * b.steps as output_tokens) s
left join (select k.execution_id, count(*) as calls, count(*) filter (where k.status = 'failed') as failed from pg_temp.batch_calls k group by 1) c on c.execution_id = b.id
left join public.agent_definitions d on d.id = md5('definition-' || b.agent_type)::uuid and b.steps > 0;

-- name: steps
insert into public.agent_steps (
  execution_id, step_number, user_id, definition_id, message, finish_reason, input_tokens, output_tokens, cost_usd, latency_ms, attempt, worker_id, created_at)
select b.id, s.step_number, b.user_id, md5('definition-' || b.agent_type)::uuid,
       jsonb_build_object('role', 'assistant', 'content', 'Step ' || s.step_number || ' of item ' || b.n || ': looking at what there is.'),
       case when s.step_number = b.steps then 'stop' else 'tool_calls' end, 500 + 250 * s.step_number, x.output_tokens,
       ((500 + 250 * s.step_number) * 0.25 + x.output_tokens * 2) / 1000000, 1000, 1, pg_temp.id_of('worker', %(seed)s),
       b.created_at + b.queued_ms * interval '1 ms' + (b.active_ms * s.step_number / b.steps - 2) * interval '1 ms'
from pg_temp.batch b
cross join lateral (select (40 + floor(200 * pg_temp.chance(b.n, 13)))::integer as output_tokens) x
cross join lateral generate_series(1, b.steps) s(step_number);

-- name: calls
insert into public.agent_tool_calls (
  id, execution_id, step_number, tool_name, tool_input, tool_output, status, latency_ms, error, called_at, user_id, call_id, position, effect, attempt, finished_at)
select pg_temp.id_of('call', c.n), c.execution_id, c.step_number, c.tool_name, jsonb_build_object('key', c.n),
       case when c.status = 'succeeded' then jsonb_build_object('found', 'What was asked for about ' || c.n) end, c.status,
       case when c.status in ('succeeded', 'failed') then c.latency_ms end, case when c.status in ('failed', 'unknown') then 'It did not answer.' end,
       c.called_at, c.user_id, 'call_' || c.n, c.position, c.effect, 1,
       case when c.status in ('succeeded', 'failed', 'rejected') then c.called_at + c.latency_ms * interval '1 ms' end
from pg_temp.batch_calls c;

-- name: reviews
insert into public.agent_reviews (
  id, execution_id, tool_call_id, user_id, tenant_id, kind, agent_type, tool_name, summary, proposed_input, input_hash, status,
  requested_at, expires_at, decided_at, used_at)
select pg_temp.id_of('review', b.n), b.id, pg_temp.id_of('call', c.n), b.user_id, 'tenant-' || mod(abs(hashint8(b.n)), 50), 'approval', b.agent_type, c.tool_name,
       'Send it?', jsonb_build_object('key', c.n), md5(c.n::text), b.verdict, c.called_at, c.called_at + interval '7 days',
       case when b.verdict <> 'pending' then c.called_at + b.review_ms * interval '1 ms' end,
       case when b.verdict = 'approved' then c.called_at + b.review_ms * interval '1 ms' end
from pg_temp.batch b join pg_temp.batch_calls c on c.execution_id = b.id and c.gated;

-- name: decisions
insert into public.agent_review_decisions (review_id, execution_id, user_id, decision, decided_at)
select pg_temp.id_of('review', b.n), b.id, b.user_id, b.verdict, b.completed_at
from pg_temp.batch b where b.asks;

-- name: events
insert into public.agent_events (execution_id, user_id, tenant_id, at, actor_kind, kind)
select b.id, b.user_id, 'tenant-' || mod(abs(hashint8(b.n)), 50), e.at, e.actor_kind, e.kind
from pg_temp.batch b
cross join lateral (values
  (b.created_at, 'user', 'submitted'),
  (case when b.steps > 0 then b.created_at + b.queued_ms * interval '1 ms' end, 'worker', 'claimed'),
  (case when b.asks then b.created_at + (b.queued_ms + 1000) * interval '1 ms' end, 'worker', 'paused'),
  (b.completed_at, 'worker', b.status)) e(at, actor_kind, kind)
where e.at is not null
order by e.at;

-- name: forget_metrics
select runhold.forget_metrics();

-- name: roll_up
select runhold.roll_up_metrics(100);
