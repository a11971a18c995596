-- Wake-ups and hints. A message says when to look, never what is true: everything works without them, only slower.
--
--   runhold:workers       wake     workers: a run became pending, or a cancel was requested
--   runhold:worker:<id>   probe    that worker's heartbeat, sent through the database to see that messages arrive
--   execution:<id>        status   the run's owner
--   reviews:<user id>     review   a reviewer

-- Does this database have Supabase Realtime? Looked at when called: it may come later.
create function runhold.send_hint(p_payload jsonb, p_event text, p_topic text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if to_regprocedure('realtime.send(jsonb,text,text,boolean)') is not null then
    perform realtime.send(p_payload, p_event, p_topic, true);
  end if;
end;
$$;

-- At most ten wake-ups a second, however many runs come in. A sequence remembers when the last one was sent: it takes
-- no lock, so inserting runs never wait for each other. The trailing edge is the workers': after a wake-up they look
-- once more when the window has passed.
create sequence runhold.last_wake minvalue 0 start 0;

create function runhold.wake_workers() returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_window_ms constant bigint := 100;
  v_now bigint := (extract(epoch from runhold.clock()) * 1000)::bigint;
  v_last bigint;
begin
  select s.last_value into v_last from runhold.last_wake s;
  if v_now - v_last >= c_window_ms or v_now < v_last then
    perform setval('runhold.last_wake', v_now);
    perform runhold.send_hint('{}', 'wake', 'runhold:workers');
  end if;
end;
$$;

create function runhold.send_probe(p_worker_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.send_hint('{}', 'probe', 'runhold:worker:' || p_worker_id);
end;
$$;

create function runhold.hint_new_executions() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.wake_workers();
  return null;
end;
$$;

create trigger hint_new_executions after insert on public.agent_executions
  for each statement execute function runhold.hint_new_executions();

-- A type that is enabled again, or may run more at once, has waiting runs.
create trigger hint_type_change after update on public.agent_types
  for each statement execute function runhold.hint_new_executions();

create function runhold.hint_execution_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if new.status = 'pending' or (new.cancel_requested_at is not null and old.cancel_requested_at is null) then
    perform runhold.wake_workers();
  end if;
  perform runhold.send_hint(
    jsonb_build_object('id', new.id, 'status', new.status, 'step_count', new.step_count), 'status', 'execution:' || new.id);
  return null;
end;
$$;

create trigger hint_execution_change after update on public.agent_executions
  for each row when (old.status is distinct from new.status or old.cancel_requested_at is distinct from new.cancel_requested_at)
  execute function runhold.hint_execution_change();

create function runhold.hint_review() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.send_hint(jsonb_build_object('id', new.id, 'status', new.status, 'escalated', new.escalated_at is not null),
                            'review', 'reviews:' || p.user_id)
  from (
    select distinct r.user_id from runhold.reviewers r
    where (r.tenant_id is null or r.tenant_id = new.tenant_id)
      and (r.agent_type is null or r.agent_type = new.agent_type)
      and (r.tool_name is null or r.tool_name = new.tool_name)) p;
  return null;
end;
$$;

create trigger hint_new_review after insert on public.agent_reviews
  for each row execute function runhold.hint_review();
create trigger hint_decided_review after update on public.agent_reviews
  for each row when (old.status is distinct from new.status or old.escalated_at is distinct from new.escalated_at)
  execute function runhold.hint_review();

-- Who may listen. Paid once, at the join: one index lookup.
create function runhold.may_listen(p_topic text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_kind text := split_part(p_topic, ':', 1);
  v_id text := split_part(p_topic, ':', 2);
begin
  if v_id !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' or p_topic <> v_kind || ':' || v_id then
    return false;
  end if;
  return case v_kind
    when 'execution' then exists (select from public.agent_executions x where x.id = v_id::uuid and x.user_id = auth.uid())
    when 'reviews' then v_id::uuid = auth.uid() and runhold.is_reviewer()
    else false
  end;
end;
$$;

revoke execute on all functions in schema runhold from public;
grant execute on function runhold.may_listen(text) to authenticated;

do $$
begin
  if to_regclass('realtime.messages') is null then
    raise notice 'runhold: no Supabase Realtime here; workers will poll';
    return;
  end if;
  create policy "runhold: owners and reviewers listen" on realtime.messages
    for select to authenticated
    using (realtime.messages.extension = 'broadcast' and (select runhold.may_listen(realtime.topic())));
end;
$$;
