-- What ended in each hour, added up: agent_metrics_hourly. A week of a million runs is read from some thousand rows.
--
-- A run belongs to the hour in which it ended (submitted: was inserted), in UTC. The sweep rolls an hour up once it is
-- closed: it is over, and so is every transaction that may have written to it. What changes later (a retry takes a failed
-- run out of its hour, pruning and erasure too; results, charges and reviews come late) leaves a mark in the same
-- transaction, by triggers; a marked hour is read from its rows until it is rolled up anew. So numbers by roll-ups and
-- numbers by rows are the same at any time; percentiles to within 5 %, as values are kept in buckets that grow by 10 %. Whole
-- days are added up once more, so that months are read as quickly as weeks; and of the hour that is open its *head*, up to the last
-- ten minutes or so, is rolled up, as far as nothing in it changed since.

create table public.agent_metrics_hourly (
  hour timestamptz not null,
  hours smallint not null default 1,
  agent_type text not null,
  measure text not null,
  label text not null default '',
  n bigint not null,
  total numeric,
  buckets smallint[],
  counts bigint[],
  primary key (agent_type, hours, hour, measure, label),
  constraint hour_or_day_is_whole check (hour = case when hours in (0, 1) then date_trunc('hour', hour, 'UTC') when hours = 24 then date_trunc('day', hour, 'UTC') end),
  constraint every_bucket_has_its_count check (cardinality(buckets) is not distinct from cardinality(counts))
);

comment on table public.agent_metrics_hourly is 'What ended in an hour, by agent type and measure; written by the sweep.';
comment on column public.agent_metrics_hourly.hours is
  '1, or 24: the day that begins with hour, in UTC. 0: the head of an hour that is not over. Never add them up.';
comment on column public.agent_metrics_hourly.agent_type is '*: all types together.';
comment on column public.agent_metrics_hourly.label is 'Of ended a status, of failed a code, of reviews an outcome, of calls… a tool.';
comment on column public.agent_metrics_hourly.n is 'How many.';
comment on column public.agent_metrics_hourly.total is 'The sum of their values, where they have one.';
comment on column public.agent_metrics_hourly.buckets is
  'Which values there are: below 32 the value itself, from there on 32 · 1.1^(bucket - 32) and up to 10 % more.';
comment on column public.agent_metrics_hourly.counts is 'How many are in each of buckets.';

create index agent_metrics_hourly_hour_idx on public.agent_metrics_hourly (hour);
-- all that ever came in and went out: the difference is what is open now
create index agent_metrics_hourly_flow_idx on public.agent_metrics_hourly (agent_type, hour) include (measure, n)
  where measure in ('submitted', 'ended') and hours = 1;

create index agent_metrics_hourly_head_idx on public.agent_metrics_hourly (hour) where hours = 0;

alter table public.agent_metrics_hourly enable row level security;
revoke all on public.agent_metrics_hourly from public, anon, authenticated, service_role;
grant select on public.agent_metrics_hourly to service_role;
-- says to the linter, and to readers, that no policy for users is meant (the service passes RLS anyway)
create policy "metrics of all are the service's alone" on public.agent_metrics_hourly for select to service_role using (true);

-- How far the roll-up is. Every hour before rolled_until is rolled up, those in metrics_marks excepted, and of the hour that begins
-- then what is before head_until. Everything before closed_until, the begin of ten minutes, is closed; what is before closing will be
-- once all transactions up to barrier are over.
create table runhold.metrics_state (
  one boolean primary key default true check (one),
  rolled_until timestamptz,
  head_until timestamptz,
  closed_until timestamptz,
  closing timestamptz,
  barrier xid8,
  head_at timestamptz  -- when the head was rolled up
);

insert into runhold.metrics_state default values;

-- Hours that changed after they were over. Never updated: two who mark the same hour don't wait for each other, and a roll-up
-- removes only marks whose change it sees.
create table runhold.metrics_marks (
  id bigint generated always as identity primary key,
  hour timestamptz not null
);

create index metrics_marks_hour_idx on runhold.metrics_marks (hour);

-- Measures of rows ---------------------------------------------------------------------------------------------------

-- What ended from p_since until before p_until, and how many were submitted then, over the runs that the caller may see; p_agent_type
-- null is each type. Rows as in agent_metrics_hourly.
create function runhold.metrics_of(p_since timestamptz, p_until timestamptz, p_agent_type text)
returns setof public.agent_metrics_hourly
language sql stable security invoker rows 300 set search_path = ''
begin atomic
  with known as materialized (
    select t.name as agent_type from public.agent_types t where p_agent_type is null or t.name = p_agent_type
  ), run as materialized (
    select x.id, x.agent_type, x.status, x.error, x.step_count, x.copied_steps, x.review_count, x.cost_usd, x.active_ms, x.queued_ms,
           x.token_count - x.copied_tokens as tokens,
           round(extract(epoch from x.completed_at - x.created_at) * 1000)::bigint as wall_ms,
           x.step_count * 1.0 / nullif((x.effective_limits ->> 'max_steps')::numeric, 0) as efficiency
    from public.agent_executions x join known k on k.agent_type = x.agent_type
    where x.completed_at >= p_since and x.completed_at < p_until and (p_agent_type is null or x.agent_type = p_agent_type)
  ), call as materialized (
    -- what a fork copied was called once, in its source; what a run's end cut off is no failure of the tool
    select r.agent_type, c.tool_name, case when c.cut_off is null then c.status end as outcome,
           (case when c.latency_ms < 32 then greatest(c.latency_ms, 0) else 32 + floor(ln(c.latency_ms::float8 / 32) / ln(1.1::float8)) end)::smallint as bucket,
           count(*) as n, sum(c.latency_ms) as total
    from run r join public.agent_tool_calls c on c.execution_id = r.id and c.step_number > r.copied_steps
    group by 1, 2, 3, 4
  ), review as materialized (
    select r.agent_type, v.status, v.execution_id,
           case when v.status in ('approved', 'rejected') then round(extract(epoch from v.decided_at - v.requested_at) * 1000)::bigint end as wait_ms
    from run r join public.agent_reviews v on v.execution_id = r.id
    where r.review_count > 0
  ), counted(agent_type, measure, label, n, total) as (
    select t.agent_type, 'submitted', '', s.n, null::numeric
    from known t
    cross join lateral (
      select count(*) as n from public.agent_executions x
      where x.agent_type = t.agent_type and x.created_at >= p_since and x.created_at < p_until
      having count(*) > 0) s
    union all
    select r.agent_type, 'ended', r.status, count(*), null from run r group by 1, 3
    union all
    select r.agent_type, 'failed', r.error, count(*), null from run r where r.error is not null group by 1, 3
    union all
    select r.agent_type, 'efficiency', '', count(*), sum(r.efficiency) from run r where r.status = 'completed' and r.efficiency is not null group by 1
    union all
    select r.agent_type, 'tokens', '', count(*), sum(r.tokens) from run r group by 1
    union all
    select r.agent_type, 'usd', '', count(*), sum(r.cost_usd) from run r group by 1
    union all
    select v.agent_type, 'reviewed', '', count(distinct v.execution_id), null from review v group by 1
    union all
    select v.agent_type, 'reviews', v.status, count(*), null from review v group by 1, 3
    union all
    select c.agent_type, o.measure, c.tool_name, sum(c.n)::bigint, null
    from call c cross join lateral (values
      ('calls', true), ('calls_succeeded', c.outcome = 'succeeded'), ('calls_finished', c.outcome in ('succeeded', 'failed', 'unknown'))) o(measure, counts)
    where o.counts group by 1, 2, 3
  ), valued(agent_type, measure, value) as (
    select r.agent_type, o.measure, o.value
    from run r cross join lateral (values
      ('steps', case when r.status = 'completed' then r.step_count end), ('active_ms', r.active_ms), ('queued_ms', r.queued_ms),
      ('wall_ms', r.wall_ms)) o(measure, value)
    union all
    select v.agent_type, 'review_wait_ms', v.wait_ms from review v
  ), bucket(agent_type, measure, label, number, n, total) as (
    select v.agent_type, v.measure, '',
           (case when v.value < 32 then greatest(v.value, 0) else 32 + floor(ln(v.value::float8 / 32) / ln(1.1::float8)) end)::smallint,
           count(*), sum(v.value)
    from valued v where v.value is not null
    group by 1, 2, 4
    union all
    select c.agent_type, 'call_latency_ms', c.tool_name, c.bucket, sum(c.n)::bigint, sum(c.total)
    from call c where c.bucket is not null
    group by 1, 3, 4
  )
  select p_since, 1::smallint, k.agent_type, k.measure, k.label, k.n, k.total, null::smallint[], null::bigint[] from counted k
  union all
  select p_since, 1::smallint, b.agent_type, b.measure, b.label, sum(b.n)::bigint, sum(b.total), array_agg(b.number order by b.number), array_agg(b.n order by b.number)
  from bucket b group by 3, 4, 5;
end;

-- Marks --------------------------------------------------------------------------------------------------------------

create function runhold.mark_inserted_run() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.metrics_marks (hour) values (date_trunc('hour', new.created_at, 'UTC'));
  return null;
end;
$$;

-- The transaction began in ten minutes that are over now. (Conditions are checked with the rights of whoever writes, who may call
-- no function of ours.)
create trigger mark_inserted_run after insert on public.agent_executions
  for each row when (date_bin('10 minutes', new.created_at, '2000-01-01 00:00:00+00')
                     <> date_bin('10 minutes', clock_timestamp(), '2000-01-01 00:00:00+00'))
  execute function runhold.mark_inserted_run();

create function runhold.mark_changed_run() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.metrics_marks (hour)
  select distinct date_trunc('hour', h.at, 'UTC') from (values (old.completed_at), (new.completed_at)) h(at) where h.at is not null;
  return null;
end;
$$;

-- It had ended before, or its end is told when the ten minutes of it are over. Steps, ends in time, and what changes within the
-- same ten minutes pass by: those are not closed before this transaction is over.
create trigger mark_changed_run after update on public.agent_executions
  for each row when (date_bin('10 minutes', old.completed_at, '2000-01-01 00:00:00+00')
                     <> date_bin('10 minutes', clock_timestamp(), '2000-01-01 00:00:00+00')
                     or date_bin('10 minutes', new.completed_at, '2000-01-01 00:00:00+00')
                     <> date_bin('10 minutes', clock_timestamp(), '2000-01-01 00:00:00+00'))
  execute function runhold.mark_changed_run();

create function runhold.mark_deleted_runs() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.metrics_marks (hour)
  select distinct date_trunc('hour', h.at, 'UTC')
  from old_runs o cross join lateral (values (o.created_at), (o.completed_at)) h(at)
  where h.at is not null;
  return null;
end;
$$;

create trigger mark_deleted_runs after delete on public.agent_executions
  referencing old table as old_runs
  for each statement execute function runhold.mark_deleted_runs();

-- A review of a run that has ended already. (What changes in its calls comes with a record, which changes the run.)
create function runhold.mark_late_review() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.metrics_marks (hour)
  select date_trunc('hour', x.completed_at, 'UTC') from public.agent_executions x
  where x.id = new.execution_id
    and date_bin('10 minutes', x.completed_at, '2000-01-01 00:00:00+00')
      <> date_bin('10 minutes', clock_timestamp(), '2000-01-01 00:00:00+00');
  return null;
end;
$$;

create trigger mark_new_review after insert on public.agent_reviews
  for each row execute function runhold.mark_late_review();
create trigger mark_decided_review after update on public.agent_reviews
  for each row when (old.status is distinct from new.status) execute function runhold.mark_late_review();

-- The roll-up ---------------------------------------------------------------------------------------------------------

-- Adds up the hours from p_from on, p_hours of them, into one row per measure; under p_agent_type, or each type under its own. 0: the
-- head of an hour.
create function runhold.add_up_metrics(p_from timestamptz, p_hours integer, p_agent_type text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.agent_metrics_hourly (hour, hours, agent_type, measure, label, n, total, buckets, counts)
  with part as materialized (
    select coalesce(p_agent_type, m.agent_type) as agent_type, m.measure, m.label, m.n, m.total, m.buckets, m.counts
    from public.agent_metrics_hourly m
    where m.hours = least(p_hours, 1) and m.hour >= p_from and m.hour < p_from + greatest(p_hours, 1) * interval '1 hour'
  ), bucket as (
    select p.agent_type, p.measure, p.label, u.number, sum(u.n)::bigint as n
    from part p cross join lateral unnest(p.buckets, p.counts) u(number, n)
    group by 1, 2, 3, 4
  ), histogram as (
    select b.agent_type, b.measure, b.label, array_agg(b.number order by b.number) as buckets, array_agg(b.n order by b.number) as counts
    from bucket b group by 1, 2, 3
  )
  select p_from, p_hours, s.agent_type, s.measure, s.label, s.n, s.total, h.buckets, h.counts
  from (select p.agent_type, p.measure, p.label, sum(p.n)::bigint as n, sum(p.total) as total from part p group by 1, 2, 3) s
  left join histogram h using (agent_type, measure, label);
end;
$$;

-- The marks go first, in a statement of their own: who marks the hour from now on is not seen by the reading that follows,
-- and their mark stays.
create function runhold.roll_up_hour(p_hour timestamptz) returns void
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
begin
  delete from runhold.metrics_marks k where k.hour = p_hour;
  delete from public.agent_metrics_hourly m where m.hour = p_hour and m.hours = 1;
  insert into public.agent_metrics_hourly
  select m.* from runhold.metrics_of(p_hour, p_hour + interval '1 hour', null) m;
  perform runhold.add_up_metrics(p_hour, 1, '*');
end;
$$;

create function runhold.roll_up_head(p_hour timestamptz, p_until timestamptz) returns void
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
begin
  delete from runhold.metrics_marks k where k.hour = p_hour;
  delete from public.agent_metrics_hourly m where m.hours = 0;
  insert into public.agent_metrics_hourly (hour, hours, agent_type, measure, label, n, total, buckets, counts)
  select p_hour, 0, m.agent_type, m.measure, m.label, m.n, m.total, m.buckets, m.counts
  from runhold.metrics_of(p_hour, p_until, null) m;
  perform runhold.add_up_metrics(p_hour, 0, '*');
end;
$$;

create function runhold.roll_up_day(p_day timestamptz) returns void
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
begin
  delete from public.agent_metrics_hourly m where m.hour = p_day and m.hours = 24;
  perform runhold.add_up_metrics(p_day, 24, null);
end;
$$;

-- Ten minutes are closed when every transaction is over that began in them. One that writes in them later began then, too, and
-- marks their hour: its triggers compare the clock. What did not mark wrote before the ten minutes were over, so before this
-- transaction began, and has a lower number than it.
create function runhold.close_slots(p_state runhold.metrics_state) returns runhold.metrics_state
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_now timestamptz := date_bin('10 minutes', runhold.now(), '2000-01-01 00:00:00+00');
begin
  if runhold.clock() < p_state.closed_until then  -- the clock was set back: these hours come again
    p_state.closed_until := v_now;
    p_state.rolled_until := least(p_state.rolled_until, date_trunc('hour', v_now, 'UTC'));
    p_state.head_until := null;
    p_state.barrier := null;
  end if;
  if p_state.barrier is null and (p_state.closed_until is null or v_now > p_state.closed_until) then
    p_state.closing := v_now;
    p_state.barrier := pg_current_xact_id();
  end if;
  if p_state.barrier is not null and pg_snapshot_xmin(pg_current_snapshot()) >= p_state.barrier then
    p_state.closed_until := p_state.closing;
    p_state.barrier := null;
  end if;
  return p_state;
end;
$$;

-- The first hour, from p_from on, in which a run was submitted or ended; null if there is none.
create function runhold.next_hour(p_from timestamptz) returns timestamptz
language sql stable security definer set search_path = ''
return date_trunc('hour', least(
  (select min(x.completed_at) from public.agent_executions x where x.completed_at >= p_from),
  (select min(f.created_at) from public.agent_types t
   cross join lateral (select x.created_at from public.agent_executions x where x.agent_type = t.name and x.created_at >= p_from
                       order by x.created_at limit 1) f)), 'UTC');

-- Rolls up at most p_hours hours, changed ones first, the newest of them first, and stops early after half a second: the sweep
-- calls this. How many it did. A day is added up when the hour after it is reached, and whenever one of its hours was. When there
-- is no hour left to do, the head of the open one is rolled up if it grew or changed.
create function runhold.roll_up_metrics(p_hours integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_state runhold.metrics_state;
  v_closed timestamptz;  -- hours
  v_hour timestamptz;
  v_before timestamptz;
  v_count integer := 0;
  v_begin constant timestamptz := clock_timestamp();
begin
  select s.* into v_state from runhold.metrics_state s for update skip locked;
  if not found then
    return 0;
  end if;
  v_state := runhold.close_slots(v_state);
  v_closed := date_trunc('hour', v_state.closed_until, 'UTC');
  while v_count < p_hours and (v_count = 0 or clock_timestamp() < v_begin + interval '500 ms') loop
    -- only closed hours: where the clock was set back, some that were rolled up are open again
    select max(k.hour) into v_hour from runhold.metrics_marks k where k.hour < least(v_state.rolled_until, v_closed);
    v_before := v_hour;
    if v_hour is null then
      exit when v_closed is null or v_state.rolled_until >= v_closed;
      v_hour := runhold.next_hour(coalesce(v_state.rolled_until, '-infinity'));
      v_before := coalesce(v_state.rolled_until, v_hour);
      v_state.rolled_until := least(v_hour + interval '1 hour', v_closed);
    end if;
    if v_hour < v_closed then
      perform runhold.roll_up_hour(v_hour);
      v_count := v_count + 1;
    end if;
    if date_trunc('day', v_before, 'UTC') < date_trunc('day', v_state.rolled_until, 'UTC') then
      perform runhold.roll_up_day(date_trunc('day', v_before, 'UTC'));
    end if;
  end loop;
  if v_state.rolled_until = v_closed and v_closed < v_state.closed_until
     and not exists (select from runhold.metrics_marks k where k.hour < v_closed)
     and (v_state.head_until is distinct from v_state.closed_until
          or (v_state.head_at < runhold.clock() - interval '1 minute'  -- what changes again and again is read from rows
              and exists (select from runhold.metrics_marks k where k.hour = v_closed))) then
    perform runhold.roll_up_head(v_closed, v_state.closed_until);
    v_state.head_until := v_state.closed_until;
    v_state.head_at := runhold.clock();
  end if;
  update runhold.metrics_state s
  set rolled_until = v_state.rolled_until, head_until = v_state.head_until, head_at = v_state.head_at,
      closed_until = v_state.closed_until, closing = v_state.closing, barrier = v_state.barrier
  where true;
  return v_count;
end;
$$;

-- Starts anew, from the rows: for whoever changed them with the triggers off.
create function runhold.forget_metrics() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update runhold.metrics_state s
  set rolled_until = null, head_until = null, head_at = null, closed_until = null, closing = null, barrier = null
  where true;
  delete from runhold.metrics_marks where true;
  delete from public.agent_metrics_hourly where true;
end;
$$;

-- Reading --------------------------------------------------------------------------------------------------------------

-- The end of the open hour's head, if an answer about this span may use it: all of it is within, and nothing in it has changed.
create function runhold.head_within(p_since timestamptz, p_until timestamptz) returns timestamptz
language sql stable security definer set search_path = ''
return (
  select s.head_until from runhold.metrics_state s
  where runhold.caller_is_service() and s.rolled_until = date_trunc('hour', s.head_until, 'UTC')
    and p_since <= s.rolled_until and p_until >= s.head_until
    and not exists (select from runhold.metrics_marks k where k.hour = s.rolled_until));

-- From where to read p_since until p_until: what is not rolled up is in rows, hour by hour where it was marked. Users read
-- the rows that they may see.
create function runhold.spans_of_rows(p_since timestamptz, p_until timestamptz) returns table (since timestamptz, until timestamptz)
language sql stable security definer rows 1 set search_path = ''
begin atomic
  with rolled as (
    select case when runhold.caller_is_service() then least(coalesce(s.rolled_until, '-infinity'), date_trunc('hour', p_until, 'UTC')) end as until
    from runhold.metrics_state s
  )
  select f.since, p_until
  from rolled r cross join lateral (select greatest(p_since, r.until, runhold.head_within(p_since, p_until)) as since) f
  where f.since < p_until
  union all
  select distinct k.hour, k.hour + interval '1 hour'
  from rolled r join runhold.metrics_marks k on k.hour >= p_since and k.hour < r.until;
end;

-- The rest, for the service: whole days as such, unless one of their hours was marked; what is left of the span by hours.
create function runhold.rolled_metrics(p_since timestamptz, p_until timestamptz, p_agent_type text)
returns setof public.agent_metrics_hourly
language sql stable security definer rows 2000 set search_path = ''
begin atomic
  with rolled as (
    select p_since as since, least(coalesce(s.rolled_until, '-infinity'), date_trunc('hour', p_until, 'UTC')) as until
    from runhold.metrics_state s where runhold.caller_is_service()
  ), marked as materialized (
    select distinct k.hour, date_trunc('day', k.hour, 'UTC') as day
    from rolled r join runhold.metrics_marks k on k.hour >= r.since and k.hour < r.until
  ), days as (
    -- without a whole day in it, both are its end: all is read by hours
    select least(date_trunc('day', r.since + interval '24 hours' - interval '1 microsecond', 'UTC'), r.until) as since,
           greatest(date_trunc('day', r.until, 'UTC'), least(date_trunc('day', r.since + interval '24 hours' - interval '1 microsecond', 'UTC'), r.until)) as until,
           r.since as hours_since, r.until as hours_until
    from rolled r
  ), by_hours(since, until) as (
    select d.hours_since, d.since from days d
    union all
    select d.until, d.hours_until from days d
    union all
    select distinct k.day, k.day + interval '24 hours' from days d join marked k on k.day >= d.since and k.day < d.until
  )
  select m.* from days d
  join public.agent_metrics_hourly m
    on m.agent_type = coalesce(p_agent_type, '*') and m.hours = 24 and m.hour >= d.since and m.hour < d.until
  where m.hour not in (select k.day from marked k)
  union all
  select m.* from by_hours h
  join public.agent_metrics_hourly m
    on m.agent_type = coalesce(p_agent_type, '*') and m.hours = 1 and m.hour >= h.since and m.hour < h.until
  where m.hour not in (select k.hour from marked k)
  union all
  select m.* from public.agent_metrics_hourly m
  where m.agent_type = coalesce(p_agent_type, '*') and m.hours = 0 and runhold.head_within(p_since, p_until) is not null
    and m.hour = date_trunc('hour', runhold.head_within(p_since, p_until), 'UTC');
end;

-- Both together, added up: the measures of a span with their percentiles.
create function runhold.metrics(p_since timestamptz, p_until timestamptz, p_agent_type text)
returns table (measure text, label text, n bigint, total numeric, p50 numeric, p95 numeric)
language sql stable security invoker rows 100 set search_path = ''
begin atomic
  with part as materialized (
    select m.* from runhold.rolled_metrics(p_since, p_until, p_agent_type) m
    union all
    select m.* from runhold.spans_of_rows(p_since, p_until) s cross join lateral runhold.metrics_of(s.since, s.until, p_agent_type) m
  ), bucket as (
    select p.measure, p.label, u.bucket, sum(u.n) as n
    from part p cross join lateral unnest(p.buckets, p.counts) u(bucket, n)
    group by 1, 2, 3
  ), ranked as (
    -- within the order of all values, those of this bucket end at rank up_to
    select b.measure, b.label,
           -- of the values of a bucket none is further from this than 4.8 %
           case when b.bucket < 32 then b.bucket else round((32 * power(1.1::float8, b.bucket - 32) * 2.2 / 2.1)::numeric, 2) end as value,
           sum(b.n) over (partition by b.measure, b.label order by b.bucket) as up_to,
           (sum(b.n) over (partition by b.measure, b.label) - 1) * 0.5 as at_50,
           (sum(b.n) over (partition by b.measure, b.label) - 1) * 0.95 as at_95
    from bucket b
  ), percentile as (
    -- between two neighbours, as percentile_cont does
    select r.measure, r.label, max(r.at_50) as at_50, max(r.at_95) as at_95,
           min(r.value) filter (where r.up_to > floor(r.at_50)) as below_50, min(r.value) filter (where r.up_to > ceil(r.at_50)) as above_50,
           min(r.value) filter (where r.up_to > floor(r.at_95)) as below_95, min(r.value) filter (where r.up_to > ceil(r.at_95)) as above_95
    from ranked r group by 1, 2
  )
  select s.measure, s.label, s.n, s.total,
         trim_scale(q.below_50 + (q.above_50 - q.below_50) * (q.at_50 - floor(q.at_50))),
         trim_scale(q.below_95 + (q.above_95 - q.below_95) * (q.at_95 - floor(q.at_95)))
  from (select p.measure, p.label, sum(p.n)::bigint as n, sum(p.total) as total from part p group by 1, 2) s
  left join percentile q using (measure, label);
end;

-- How many runs are queued: what came in, less what ended, is held or waits for people. Counting them would take as long as the
-- queue is. For the service.
create function runhold.queue_depth(p_agent_type text) returns bigint
language sql stable security definer set search_path = ''
begin atomic
  with rolled as (
    select coalesce(s.rolled_until, '-infinity') as until, runhold.head_within(s.rolled_until, 'infinity') as head from runhold.metrics_state s
  ), marked as (
    select distinct k.hour from rolled r join runhold.metrics_marks k on k.hour < r.until
  ), span(since, until) as (
    select coalesce(r.head, r.until), 'infinity'::timestamptz from rolled r
    union all
    select k.hour, k.hour + interval '1 hour' from marked k
  ), flow(n) as (
    select sum(case m.measure when 'submitted' then m.n else -m.n end)
    from public.agent_metrics_hourly m
    where m.agent_type = coalesce(p_agent_type, '*') and m.measure in ('submitted', 'ended') and m.hours = 1
      and m.hour < (select r.until from rolled r) and m.hour not in (select k.hour from marked k)
    union all
    select sum(case m.measure when 'submitted' then m.n else -m.n end)
    from rolled r join public.agent_metrics_hourly m
      on m.agent_type = coalesce(p_agent_type, '*') and m.measure in ('submitted', 'ended') and m.hours = 0 and m.hour = r.until
    where r.head is not null
    union all
    select (select count(*) from public.agent_executions x where x.agent_type = t.name and x.created_at >= s.since and x.created_at < s.until)
    from span s cross join public.agent_types t
    where p_agent_type is null or t.name = p_agent_type
    union all
    select -(select count(*) from public.agent_executions x
             where x.completed_at >= s.since and x.completed_at < s.until and (p_agent_type is null or x.agent_type = p_agent_type))
    from span s
    union all
    select -count(*) from public.agent_executions x
    where x.status = 'running' and (p_agent_type is null or x.agent_type = p_agent_type)
    union all
    select -count(*) from public.agent_executions x
    where x.status = 'awaiting_review' and (p_agent_type is null or x.agent_type = p_agent_type)
  )
  select greatest(sum(f.n), 0)::bigint from flow f where runhold.caller_is_service();
end;

revoke execute on all functions in schema runhold from public;
-- agent_health_metrics runs as its caller, and so do these; what is only the service's they give to nobody else
grant execute on function runhold.metrics_of(timestamptz, timestamptz, text), runhold.spans_of_rows(timestamptz, timestamptz),
  runhold.rolled_metrics(timestamptz, timestamptz, text), runhold.metrics(timestamptz, timestamptz, text), runhold.caller_is_service()
  to authenticated, service_role;
