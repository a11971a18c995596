-- The states of a run, who may change them, and the trail that every change leaves.
--
--   (insert) ──▶ pending ──claim──▶ running ──record──▶ completed
--                  ▲ ▲ │               │ │ ├─record────▶ failed ──agent_retry──▶ pending
--                  │ │ │ cancel        │ │ └─record────▶ cancelled
--                  │ │ └──▶ cancelled  │ └─record, sweep (unknown outcome)─▶ awaiting_review
--                  │ └──release, sweep─┘                                       │ │ └─cancel──▶ cancelled
--                  └─────────the last open review is decided───────────────────┘ └─expired, stop──▶ failed
--
-- The trigger holds against everybody, service_role included.

create function runhold.is_final(p_status text) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return p_status in ('completed', 'failed', 'cancelled');
end;
$$;

create function runhold.is_legal_transition(p_from text, p_to text) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return case p_from
    when 'pending' then p_to in ('running', 'cancelled', 'failed')
    when 'running' then p_to in ('completed', 'failed', 'cancelled', 'awaiting_review', 'pending')
    when 'awaiting_review' then p_to in ('pending', 'failed', 'cancelled')
    when 'failed' then p_to = 'pending'
    else false
  end;
end;
$$;

create function runhold.before_status_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_ms bigint;
begin
  if not runhold.is_legal_transition(old.status, new.status) then
    perform runhold.refuse('RH005', format('A run can not go from %s to %s.', old.status, new.status),
      'Use agent_cancel, agent_retry or a review; states are changed by functions alone.');
  end if;

  v_ms := greatest(0, extract(epoch from runhold.now() - old.state_since) * 1000)::bigint;
  if old.status = 'pending' then
    new.queued_ms := old.queued_ms + v_ms;
  elsif old.status = 'awaiting_review' then
    new.review_ms := old.review_ms + v_ms;
  end if;

  new.state_since := runhold.now();
  new.updated_at := runhold.now();
  new.completed_at := case when runhold.is_final(new.status) then runhold.now() end;
  if new.status <> 'running' then
    new.worker_id := null;
  end if;
  if new.status not in ('pending', 'running') then
    new.release_count := 0;
    new.waiting_since := null;
    new.waiting_told_at := null;
  end if;
  return new;
end;
$$;

create trigger before_status_change before update of status on public.agent_executions
  for each row when (old.status is distinct from new.status)
  execute function runhold.before_status_change();

-- The audit ---------------------------------------------------------------------------------------------------------

create table public.agent_events (
  id bigint generated always as identity,
  execution_id uuid not null references public.agent_executions on delete cascade,
  user_id uuid not null,
  tenant_id text,
  at timestamptz not null default now(),
  actor_kind text not null check (actor_kind in ('user', 'reviewer', 'worker', 'system')),
  actor_id uuid,
  kind text not null,
  data jsonb,
  primary key (execution_id, id)  -- ids are unique and ever growing; nobody asks for one alone
) with (autovacuum_vacuum_insert_scale_factor = 0.05);

comment on table public.agent_events is 'Append-only, written by triggers: who changed what, and when.';

alter table public.agent_events enable row level security;
revoke all on public.agent_events from public, anon, authenticated, service_role;
revoke all on sequence public.agent_events_id_seq from public, anon, authenticated, service_role;
grant select on public.agent_events to authenticated, service_role;
create policy "users see the events of their own runs" on public.agent_events
  for select to authenticated using (user_id = (select auth.uid()));

-- Who is acting: whom set_actor named, else the JWT's user, else the system. kind is null for a user: whether they act as
-- themselves or as a reviewer, the run tells.
create function runhold.actor(out kind text, out id uuid)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_actor text := nullif(current_setting('runhold.actor', true), '');
begin
  if v_actor is not null then
    kind := split_part(v_actor, ':', 1);
    id := nullif(split_part(v_actor, ':', 2), '')::uuid;
  else
    id := auth.uid();
    kind := case when id is null then 'system' end;
  end if;
end;
$$;

create function runhold.write_event(
  p_execution_id uuid, p_user_id uuid, p_tenant_id text, p_kind text, p_data jsonb default null) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_actor record := runhold.actor();
begin
  insert into public.agent_events (execution_id, user_id, tenant_id, at, actor_kind, actor_id, kind, data)
  values (p_execution_id, p_user_id, p_tenant_id, runhold.now(),
          coalesce(v_actor.kind, case when v_actor.id = p_user_id then 'user' else 'reviewer' end), v_actor.id, p_kind, p_data);
end;
$$;

create function runhold.after_execution_insert() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.write_event(new.id, new.user_id, new.tenant_id,
    case when new.forked_from is null then 'submitted' else 'forked' end,
    case when new.forked_from is not null then jsonb_build_object('from', new.forked_from, 'from_step', new.copied_steps + 1) end);
  return null;
end;
$$;

create trigger after_execution_insert after insert on public.agent_executions
  for each row execute function runhold.after_execution_insert();

create function runhold.status_event(p_from text, p_to text) returns text
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return case p_to
    when 'running' then 'claimed'
    when 'awaiting_review' then 'paused'
    when 'pending' then case p_from when 'running' then 'requeued' when 'failed' then 'retried' else 'resumed' end
    else p_to
  end;
end;
$$;

-- A run that waits gets one event an hour, not one for each claim and release.
create function runhold.is_untold(p_from text, p_to text, p_told_before timestamptz, p_told_now timestamptz) returns boolean
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return case
    when p_from = 'pending' and p_to = 'running' then p_told_before is not null
    when p_from = 'running' and p_to = 'pending' then p_told_now is not null and p_told_now is not distinct from p_told_before
    else false
  end;
end;
$$;

create function runhold.after_execution_changes() returns trigger
language plpgsql security definer set search_path = '' set enable_nestloop = off  -- its plan is kept, however few rows it was made for
as $$
declare
  v_actor record;
  v_now timestamptz := runhold.now();
begin
  if not exists (
       select from old_runs o join new_runs n using (id)
       where o.status <> n.status or (o.cancel_requested_at is null and n.cancel_requested_at is not null)
          or (o.waiting_told_at is not null and n.waiting_told_at is null)) then
    return null;  -- as for every step
  end if;
  v_actor := runhold.actor();
  insert into public.agent_events (execution_id, user_id, tenant_id, at, actor_kind, actor_id, kind, data)
  select n.id, n.user_id, n.tenant_id, coalesce(e.at, v_now),
         coalesce(v_actor.kind, case when v_actor.id = n.user_id then 'user' else 'reviewer' end), v_actor.id, e.kind,
         e.data
  from old_runs o join new_runs n using (id)
  cross join lateral (
    -- the claim that was not told of, as it might have come to nothing again
    select 'claimed' as kind, jsonb_build_object('attempt', o.attempt) as data, o.state_since as at
    where o.status = 'running' and o.waiting_told_at is not null and (n.waiting_told_at is null or n.release_count = 1)
    union all
    select runhold.status_event(o.status, n.status), case n.status
      when 'running' then jsonb_build_object('attempt', n.attempt)
      when 'completed' then '{}'
      else runhold.compact(jsonb_build_object(
        'error', n.error,
        'detail', case when runhold.is_final(n.status) then n.error_detail end,
        'wake_at', case when n.status = 'pending' then n.wake_at end,
        'limits', case when o.status = 'failed' then n.limits end,
        'reason', case when n.status = 'pending' then runhold.reason_of(n.id) end,
        'waiting_since', case when n.status = 'pending' and n.release_count > 1 then n.waiting_since end,
        'releases', case when n.status = 'pending' and n.release_count > 1 then n.release_count end)) end, null
    where o.status <> n.status and not runhold.is_untold(o.status, n.status, o.waiting_told_at, n.waiting_told_at)
    union all
    select 'cancel_requested', runhold.compact(jsonb_build_object('reason', runhold.reason_of(n.id))), null
    where o.cancel_requested_at is null and n.cancel_requested_at is not null) e;
  return null;
end;
$$;

-- One statement changes many runs, and most change nothing that is told here: a look at all of them at once is cheaper than
-- a call for each.
create trigger after_execution_changes after update on public.agent_executions
  referencing old table as old_runs new table as new_runs
  for each statement execute function runhold.after_execution_changes();

revoke execute on all functions in schema runhold from public;
