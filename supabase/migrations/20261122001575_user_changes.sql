-- What the sweep does when Supabase Auth changes a user: bans that end early, and soft deletions that erase.
--
-- A trigger on auth.users only notes the user's id. It never raises: nobody must be kept from signing in or from being banned
-- by Runhold. The sweep does the rest, a bounded part each time, and never waits for a lock.

insert into runhold.settings (name, value, description) values
  ('erase_on_soft_delete', null, 'on: a user who is deleted softly is erased like one whose row is deleted');

create table runhold.user_changes (
  id bigint generated always as identity primary key,
  user_id uuid not null,
  at timestamptz not null default now()
);

comment on table runhold.user_changes is
  'Users whose ban ended early, who were deleted softly, or for whom runs began to wait, until the sweep has seen to it. '
  'No key on user_id: noting never waits.';
revoke all on runhold.user_changes from public, anon, authenticated, service_role;
revoke all on sequence runhold.user_changes_id_seq from public, anon, authenticated, service_role;

create function runhold.after_user_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.user_changes (user_id) values (new.id);
  return null;
exception when others then
  raise warning 'runhold: the change of user % was not noted: %', new.id, sqlerrm;
  return null;
end;
$$;

create trigger runhold_after_user_change after update on auth.users
  for each row when (
    old.deleted_at is distinct from new.deleted_at
    or (old.banned_until is not null and (new.banned_until is null or new.banned_until < old.banned_until)))
  execute function runhold.after_user_change();

create index user_changes_user_idx on runhold.user_changes (user_id);

-- A claim has let runs of these users wait. A ban may have ended since the claim read it, and a sweep that follows the end
-- of the ban finds nothing that waits yet. A note of the claim itself appears together with the runs. A note that is there
-- already does the same, if no sweep is at it: held until the claim commits, it is left to a later sweep.
create function runhold.note_waiting(p_user_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_noted uuid[] := array(
    select c.user_id from runhold.user_changes c
    where c.user_id = any (p_user_ids) order by c.id for share skip locked);
begin
  insert into runhold.user_changes (user_id) select u.id from unnest(p_user_ids) u(id) where u.id <> all (v_noted);
end;
$$;

create index agent_executions_waiting_for_user_idx on public.agent_executions (user_id, wake_at)
  where status = 'pending' and wake_at is not null and error_detail ->> 'waiting_for' = 'user';

-- At most p_n of the runs that wait for this user and need not wait any more, or not as long. A claim decides what becomes
-- of them. Whether the user may act is asked once per tenant, however many runs wait. No other index has this order, and
-- sorting is off: else old statistics make the planner read everybody's waiting runs for each user.
create function runhold.runs_to_wake(p_user_id uuid, p_n integer) returns uuid[]
language plpgsql stable security definer set search_path = ''
  set enable_sort = off set enable_incremental_sort = off set enable_seqscan = off set enable_bitmapscan = off
  set plan_cache_mode = force_generic_plan set jit = off
as $$
begin
  return array(
    with waiting as materialized (
      select w.id, w.tenant_id, w.wake_at from public.agent_executions w
      where w.user_id = p_user_id and w.status = 'pending' and w.wake_at is not null
        and w.error_detail ->> 'waiting_for' = 'user'
      order by w.user_id, w.wake_at
    ), tenant as materialized (
      select t.tenant_id, m.allowed, m.wait_until
      from (select distinct d.tenant_id from waiting d) t
      cross join lateral runhold.may_act(p_user_id, t.tenant_id) m
    )
    select w.id from waiting w join tenant t on w.tenant_id is not distinct from t.tenant_id
    where w.wake_at > runhold.now()
      and (t.allowed or t.wait_until is null or (t.wait_until > runhold.now() and t.wait_until < w.wake_at))
    limit p_n);
end;
$$;

-- Lets p_n of them be claimed now. Answers how many.
create function runhold.wake_runs_of_user(p_user_id uuid, p_n integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[] := runhold.runs_to_wake(p_user_id, p_n);
  v_count integer := 0;
begin
  if v_ids <> '{}' then
    update public.agent_executions x set wake_at = runhold.now()
    where x.id in (
      select l.id from public.agent_executions l where l.id = any (v_ids) and l.status = 'pending'
      order by l.id for no key update skip locked);
    get diagnostics v_count = row_count;
  end if;
  return v_count;
end;
$$;

-- Erases at most p_n runs of this user, and when none is left, the user's traces in the runs of others. The user's row in
-- auth.users stays. Locks as a deletion takes them: reviews first, then runs; what others hold is left for the next sweep.
create function runhold.erase_some(p_user_id uuid, p_n integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_runs uuid[] := array(
    select x.id from public.agent_executions x where x.user_id = p_user_id order by x.created_at limit p_n);
  v_reviews uuid[];
  v_count integer;
begin
  delete from runhold.reviewers r where r.user_id = p_user_id;
  v_reviews := array(
    select r.id from public.agent_reviews r where r.execution_id = any (v_runs) order by r.id for update skip locked);
  v_runs := array(
    select x.id from public.agent_executions x
    where x.id = any (v_runs) and not exists (
      select from public.agent_reviews r where r.execution_id = x.id and r.id <> all (v_reviews))
    order by x.id for update skip locked);
  delete from public.agent_executions x where x.id = any (v_runs);
  get diagnostics v_count = row_count;
  if exists (select from public.agent_executions x where x.user_id = p_user_id) then
    return v_count;
  end if;

  update public.agent_reviews r set reviewer_id = null where r.id in (
    select t.id from public.agent_reviews t where t.reviewer_id = p_user_id order by t.id limit p_n for update skip locked);
  update public.agent_review_decisions d set reviewer_id = null where d.id in (
    select t.id from public.agent_review_decisions t where t.reviewer_id = p_user_id limit p_n for update skip locked);
  update public.agent_messages m set sender_id = null where m.id in (
    select t.id from public.agent_messages t where t.sender_id = p_user_id limit p_n for update skip locked);
  update public.agent_events e set actor_id = null where (e.execution_id, e.id) in (
    select t.execution_id, t.id from public.agent_events t
    where t.actor_id = p_user_id and t.actor_kind = 'reviewer' limit p_n for update skip locked);
  delete from public.agent_budgets b where b.user_id = p_user_id;
  delete from public.agent_usage g where g.scope = 'user' and g.scope_key = p_user_id::text;
  delete from runhold.lanes l where l.user_id = p_user_id;
  delete from runhold.lane_scans s where s.last_user_id = p_user_id;
  return v_count;
end;
$$;

-- Is there nothing left of this user but their row in auth.users?
create function runhold.is_erased(p_user_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return not (
    exists (select from public.agent_executions x where x.user_id = p_user_id)
    or exists (select from public.agent_reviews r where r.reviewer_id = p_user_id)
    or exists (select from public.agent_review_decisions d where d.reviewer_id = p_user_id)
    or exists (select from public.agent_messages m where m.sender_id = p_user_id)
    or exists (select from public.agent_events e where e.actor_id = p_user_id and e.actor_kind = 'reviewer'));
end;
$$;

-- Sees to users whom Auth changed. Answers how many runs were woken or erased.
create function runhold.sweep_users() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_batch constant integer := 500;
  v_erases boolean := runhold.is_on('erase_on_soft_delete');
  v_change runhold.user_changes;
  v_woken integer := 0;
  v_erased integer := 0;
  v_is_done boolean;
begin
  for v_change in
    select c.* from runhold.user_changes c order by c.at, c.id limit c_batch for update skip locked
  loop
    exit when v_woken >= c_batch or v_erased >= c_batch;
    v_woken := v_woken + runhold.wake_runs_of_user(v_change.user_id, c_batch);
    v_is_done := runhold.runs_to_wake(v_change.user_id, 1) = '{}';
    if v_erases and exists (
         select from auth.users u where u.id = v_change.user_id and u.deleted_at is not null) then
      v_erased := v_erased + runhold.erase_some(v_change.user_id, c_batch - v_erased);
      v_is_done := runhold.is_erased(v_change.user_id);
    end if;
    if v_is_done then
      delete from runhold.user_changes c where c.id = v_change.id;
    else
      update runhold.user_changes c set at = runhold.clock() where c.id = v_change.id;  -- behind the others
    end if;
  end loop;
  if v_woken > 0 then
    perform runhold.wake_workers();
  end if;
  return v_woken + v_erased;
end;
$$;

revoke execute on all functions in schema runhold from public;
