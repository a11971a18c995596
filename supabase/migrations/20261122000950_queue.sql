-- The queue: which pending runs a claim takes.
--
-- Priority comes first. Among equals the runs of one type and one user are a *lane*, and lanes take turns: the one that has
-- waited longest goes first. It waits since its last turn, or since its run was created if that is later; whoever comes
-- later can't overtake it, so nobody starves, and ten thousand runs of one user delay nobody else's first.
--
-- A claim looks at the head of the queue. Where that is full of lanes that had their turn, it also goes through the users
-- who have runs, a bounded number of them each time, on from where the last claim stopped.

-- When a lane had its last turn. Written by claims alone, where not all that waited was taken, and only for the order: a row
-- that is missing costs a turn, nothing else. So there is no foreign key: its check would wait for whoever erases the user.
create table runhold.lanes (
  agent_type text not null,
  user_id uuid not null,
  served_at timestamptz not null,
  primary key (agent_type, user_id)
) with (fillfactor = 50);

comment on table runhold.lanes is 'When the runs of one type and user had their last turn at a claim. A hint for the order; pruned after a day.';

-- Where the next claim goes on through the users of a type.
create table runhold.lane_scans (
  agent_type text primary key,
  last_user_id uuid not null
) with (fillfactor = 50);

comment on table runhold.lane_scans is 'The last user whom a claim looked at, behind a long head of the queue.';

create type runhold.queued_run as (id uuid, user_id uuid, priority smallint, created_at timestamptz);

create type runhold.candidate as (
  id uuid, agent_type text, user_id uuid, priority smallint, created_at timestamptz,
  nth integer,               -- of its lane, from 1
  waits_since timestamptz);

-- Runs whose time has come join the queue, where priority and age decide. So the queue's index holds only what may be
-- claimed now, however many runs wait for later.
create function runhold.queue_due(p_types text[], p_n integer) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select d.id from unnest(p_types) t(name)
    cross join lateral (
      select e.id from public.agent_executions e
      where e.status = 'pending' and e.agent_type = t.name and e.wake_at <= runhold.now()
      order by e.wake_at limit p_n for update skip locked) d);
  if v_ids <> '{}' then
    update public.agent_executions x set wake_at = null where x.id = any (v_ids);
  end if;
end;
$$;

-- The earliest time ahead at which a run of these types may be claimed.
create function runhold.next_due(p_types text[]) returns timestamptz
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select min(d.wake_at) from unnest(p_types) t(name)
    cross join lateral (
      select x.wake_at from public.agent_executions x
      where x.status = 'pending' and x.agent_type = t.name and x.wake_at > runhold.now()
      order by x.wake_at limit 1) d);
end;
$$;

-- Looking -----------------------------------------------------------------------------------------------------------

create function runhold.queue_head(p_type text, p_n integer) returns runhold.queued_run[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    select (x.id, x.user_id, x.priority, x.created_at)::runhold.queued_run from public.agent_executions x
    where x.status = 'pending' and x.agent_type = p_type and x.wake_at is null
    order by x.priority desc, x.created_at, x.id limit p_n);
end;
$$;

-- The next p_n users after p_after with runs in the queue, in order of their ids: one look into the index for each. The
-- whole order is asked for, here and below, as no other index has it.
create function runhold.queued_users(p_type text, p_after uuid, p_n integer) returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    with recursive queued as (
      select 0 as nth, p_after as user_id
      union all
      select u.nth + 1, (select x.user_id from public.agent_executions x
                         where x.status = 'pending' and x.agent_type = p_type and x.wake_at is null and x.user_id > u.user_id
                         order by x.user_id, x.priority desc, x.created_at, x.id limit 1)
      from queued u where u.user_id is not null and u.nth < p_n)
    select u.user_id from queued u where u.nth > 0 and u.user_id is not null);
end;
$$;

-- The first p_n runs of each of these users.
create function runhold.queued_runs_of(p_type text, p_users uuid[], p_n integer) returns runhold.queued_run[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    select (f.id, f.user_id, f.priority, f.created_at)::runhold.queued_run from unnest(p_users) u(id)
    cross join lateral (
      select x.id, x.user_id, x.priority, x.created_at from public.agent_executions x
      where x.status = 'pending' and x.agent_type = p_type and x.wake_at is null and x.user_id >= u.id and x.user_id <= u.id
      order by x.user_id, x.priority desc, x.created_at, x.id limit p_n) f);
end;
$$;

-- These runs as candidates, but for those whose users have no room under p_per_user (null: everybody has).
create function runhold.in_lanes(p_type text, p_runs runhold.queued_run[], p_per_user integer) returns runhold.candidate[]
language plpgsql stable security definer set search_path = ''
as $$
begin
  return array(
    select (r.id, p_type, r.user_id, r.priority, r.created_at, r.nth, greatest(l.served_at, r.created_at))::runhold.candidate
    from (
      select d.*, (row_number() over (partition by d.user_id order by d.priority desc, d.created_at, d.id))::integer as nth
      from (select distinct u.id, u.user_id, u.priority, u.created_at from unnest(p_runs) u) d) r
    join (
      select u.user_id,
             (select k.served_at from runhold.lanes k where k.agent_type = p_type and k.user_id = u.user_id) as served_at,
             case when p_per_user is not null then
               (select count(*) from public.agent_executions x
                where x.status = 'running' and x.agent_type = p_type and x.user_id = u.user_id) end as busy
      from (select distinct v.user_id from unnest(p_runs) v) u) l using (user_id)
    where p_per_user is null or r.nth + l.busy <= p_per_user);
end;
$$;

-- Among whom p_n runs of a type are chosen. is_long: the queue has more than these.
create function runhold.candidates(
  p_type text, p_n integer, p_per_user integer, out runs runhold.candidate[], out is_long boolean)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_first constant uuid := '00000000-0000-0000-0000-000000000000';
  v_window integer := greatest(200, 4 * p_n);
  v_look integer := greatest(100, 2 * p_n);  -- users, each time
  v_head runhold.queued_run[] := runhold.queue_head(p_type, v_window);
  v_last runhold.queued_run := v_head[v_window];
  v_is_head_placed boolean := false;
  v_users uuid[];
begin
  is_long := cardinality(v_head) = v_window;
  runs := '{}';
  if not is_long or p_n <= (
    -- as many as could be certain to come first
    select count(distinct h.user_id) + count(*) filter (where h.priority > v_last.priority) from unnest(v_head) h) then
    runs := runhold.in_lanes(p_type, v_head, p_per_user);
    v_is_head_placed := true;
    -- what comes behind the head is later, so whoever waits since before its end can't be overtaken from there
    if not is_long or p_n <= (
      select count(*) from unnest(runs) c
      where c.priority > v_last.priority or (c.nth = 1 and c.waits_since <= v_last.created_at)) then
      return;
    end if;
  end if;

  v_users := runhold.queued_users(p_type,
    coalesce((select s.last_user_id from runhold.lane_scans s where s.agent_type = p_type), c_first), v_look);
  if cardinality(v_users) < v_look then
    v_users := v_users || runhold.queued_users(p_type, c_first, v_look - cardinality(v_users));
  end if;
  if v_users <> '{}' then  -- others may have taken everything since we looked
    perform runhold.note_scan(p_type, v_users[cardinality(v_users)]);
  end if;
  v_users := array(select distinct u.id from unnest(v_users) u(id));
  -- of users who were looked at now, all their runs in one go, those of the head too: it is their number in the lane that counts
  v_head := array(
    select h from unnest(v_head) h
    where not v_is_head_placed or h.user_id in (select u.id from unnest(v_users) u(id)));
  runs := array(select c from unnest(runs) c where c.user_id not in (select u.id from unnest(v_users) u(id)))
    || runhold.in_lanes(p_type,
         v_head || runhold.queued_runs_of(p_type, v_users, least(p_n, 1 + v_window / greatest(cardinality(v_users), 1))), p_per_user);
end;
$$;

-- Remembering -------------------------------------------------------------------------------------------------------

-- Claims never wait for each other here, nor for an erasure: a row that is held is left as it is, and of two claims that would
-- insert the same one, the second does not.
create function runhold.may_insert(p_key text) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- a thousand locks for all keys, as a claim may have as many and the table of locks is small
  return pg_try_advisory_xact_lock(hashtext('runhold.lanes'), hashtext(p_key) & 1023);
end;
$$;

create function runhold.note_scan(p_type text, p_user_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform from runhold.lane_scans s where s.agent_type = p_type for update skip locked;
  if found then
    update runhold.lane_scans s set last_user_id = p_user_id where s.agent_type = p_type;
  elsif not exists (select from runhold.lane_scans s where s.agent_type = p_type) and runhold.may_insert(p_type) then
    insert into runhold.lane_scans (agent_type, last_user_id) values (p_type, p_user_id) on conflict do nothing;
  end if;
end;
$$;

-- The lanes of these runs, held by the caller, have had their turn. Of two turns at the same instant one is the later.
create function runhold.note_turns(p_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_types text[];
  v_users uuid[];
begin
  select array_agg(l.agent_type), array_agg(l.user_id) into v_types, v_users
  from (select distinct x.agent_type, x.user_id from public.agent_executions x where x.id = any (p_ids)) l;

  update runhold.lanes l set served_at = greatest(runhold.now(), l.served_at + interval '1 microsecond')
  from (select k.agent_type, k.user_id from unnest(v_types, v_users) u(agent_type, user_id)
        join runhold.lanes k using (agent_type, user_id)
        order by k.agent_type, k.user_id for update of k skip locked) h
  where l.agent_type = h.agent_type and l.user_id = h.user_id;

  select array_agg(u.agent_type), array_agg(u.user_id) into v_types, v_users
  from unnest(v_types, v_users) u(agent_type, user_id)
  where not exists (select from runhold.lanes k where k.agent_type = u.agent_type and k.user_id = u.user_id);
  insert into runhold.lanes (agent_type, user_id, served_at)
  select u.agent_type, u.user_id, runhold.now() from unnest(v_types, v_users) u(agent_type, user_id)
  where runhold.may_insert(u.agent_type || u.user_id)
  on conflict do nothing;
end;
$$;

-- Lanes that had no turn for a day: either nothing waits there, or the order by age will do. Called by the sweep.
create function runhold.prune_lanes() returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  delete from runhold.lanes l
  using (select k.agent_type, k.user_id from runhold.lanes k
         where k.served_at < runhold.now() - interval '1 day' limit 1000 for update skip locked) o
  where l.agent_type = o.agent_type and l.user_id = o.user_id;
end;
$$;

-- Taking ------------------------------------------------------------------------------------------------------------

-- How many runs of a type may start now, p_n at most, and how many of each user. With a cap on its runs in flight, its row is
-- the lock under which we count: room is null if another worker is counting.
create function runhold.room_of(p_type text, p_n integer, out room integer, out per_user integer, out is_capped boolean)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_max integer;
begin
  select t.max_concurrent, t.max_concurrent_per_user into v_max, per_user from public.agent_types t where t.name = p_type;
  is_capped := v_max is not null or per_user is not null;
  if is_capped then
    select t.max_concurrent, t.max_concurrent_per_user into v_max, per_user
    from public.agent_types t where t.name = p_type for no key update skip locked;
    if not found then
      return;
    end if;
  end if;
  room := p_n;
  if v_max is not null then
    room := greatest(0, least(p_n, v_max - (
      select count(*) from public.agent_executions x where x.status = 'running' and x.agent_type = p_type)));
  end if;
end;
$$;

-- The first p_n of the candidates that nobody holds, locked; of each type as many as p_room, {"type": n}, has for it.
create function runhold.take(p_candidates runhold.candidate[], p_n integer, p_room jsonb) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_candidate runhold.candidate;
  v_left integer;
  v_is_queued boolean;
  v_ids uuid[] := '{}';
begin
  for v_candidate in
    select c.* from unnest(p_candidates) c order by c.priority desc, c.nth, c.waits_since, c.created_at, c.id
  loop
    exit when cardinality(v_ids) >= p_n;
    v_left := p_room -> v_candidate.agent_type;
    continue when v_left <= 0;
    -- by its id alone, so that no index of the queue can seem to serve this
    select x.status = 'pending' and x.wake_at is null into v_is_queued
    from public.agent_executions x where x.id = v_candidate.id for update skip locked;
    if v_is_queued then
      v_ids := v_ids || v_candidate.id;
      p_room := p_room || jsonb_build_object(v_candidate.agent_type, v_left - 1);
    end if;
  end loop;
  return v_ids;
end;
$$;

-- More runs of types without caps, locked, the oldest first: where claims at the same instant hold all the candidates.
create function runhold.take_behind(p_types text[], p_taken uuid[], p_n integer) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
begin
  return array(
    select c.id from unnest(p_types) t(name)
    cross join lateral (
      select x.id from public.agent_executions x
      where x.status = 'pending' and x.agent_type = t.name and x.wake_at is null and x.id <> all (p_taken)
      order by x.priority desc, x.created_at, x.id limit p_n for update skip locked) c
    limit p_n);
end;
$$;

-- The p_n runs of these types that are next, locked. more: another claim at once may find more.
create function runhold.pick(p_types text[], p_n integer, out ids uuid[], out more boolean)
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_type text;
  v_here record;
  v_some record;
  v_room jsonb := '{}';
  v_candidates runhold.candidate[] := '{}';
  v_open text[] := '{}';  -- without caps, and with more runs than the candidates
  v_all_seen boolean := true;
begin
  more := false;
  perform runhold.queue_due(p_types, greatest(2 * p_n, 20));  -- more than are claimed, so that a backlog shrinks
  for v_type in select t.name from public.agent_types t where t.name = any (p_types) and t.enabled order by t.name loop
    v_here := runhold.room_of(v_type, p_n);
    more := more or v_here.room is null;
    continue when coalesce(v_here.room, 0) = 0;
    v_some := runhold.candidates(v_type, v_here.room, v_here.per_user);
    v_candidates := v_candidates || v_some.runs;
    v_room := v_room || jsonb_build_object(v_type, v_here.room);
    v_all_seen := v_all_seen and not v_some.is_long;
    if v_some.is_long and not v_here.is_capped then
      v_open := v_open || v_type;
    end if;
  end loop;

  ids := runhold.take(v_candidates, p_n, v_room);
  if cardinality(ids) < p_n and v_open <> '{}' then
    ids := ids || runhold.take_behind(v_open, ids, p_n - cardinality(ids));
  end if;
  more := more or cardinality(ids) >= p_n;
  if not v_all_seen or cardinality(ids) < cardinality(v_candidates) then  -- else nobody had to wait
    perform runhold.note_turns(ids);
  end if;
  ids := array(select x.id from public.agent_executions x where x.id = any (ids)
               order by x.priority desc, x.created_at, x.id);
end;
$$;

-- Plans ---------------------------------------------------------------------------------------------------------------

-- Each of these asks for a few rows in the order of one index. With sorting switched off there is no other plan, whatever the
-- statistics say, or if there are none; so one plan does for all values, and compiling it would only cost.
alter function runhold.queue_due(text[], integer)
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;
alter function runhold.next_due(text[])
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;
alter function runhold.queue_head(text, integer)
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;
alter function runhold.queued_users(text, uuid, integer)
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;
alter function runhold.queued_runs_of(text, uuid[], integer)
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;
alter function runhold.take_behind(text[], uuid[], integer)
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off;

revoke execute on all functions in schema runhold from public;
