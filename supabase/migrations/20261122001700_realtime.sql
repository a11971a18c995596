-- Wake-ups and hints. A message says when to look, never what is true: everything works without them, only slower.
--
--   runhold:workers       wake     workers: a run became pending, or a cancel was requested
--   runhold:worker:<id>   probe    that worker's heartbeat, sent through the database to see that messages arrive
--   execution:<id>        status   the run's owner
--   reviews:<user id>     review   a reviewer

create type runhold.hint as (topic text, event text, payload jsonb);

-- Does this database have Supabase Realtime? Looked at when called: it may come later.
create function runhold.send_hints(p_hints runhold.hint[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if to_regprocedure('realtime.send(jsonb,text,text,boolean)') is null then
    return;
  elsif cardinality(p_hints) > 1 then
    -- what realtime.send does, for all of them at once: it costs a subtransaction each time
    begin
      insert into realtime.messages (topic, event, payload, private, extension)
      select h.topic, h.event, h.payload, true, 'broadcast' from unnest(p_hints) h;
      return;
    exception when others then null;  -- a Realtime that keeps its messages in another way: it knows how
    end;
  end if;
  perform realtime.send(h.payload, h.event, h.topic, true) from unnest(p_hints) h;
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
    perform runhold.send_hints(array[('runhold:workers', 'wake', '{}')::runhold.hint]);
  end if;
end;
$$;

create function runhold.send_probe(p_worker_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.send_hints(array[('runhold:worker:' || p_worker_id, 'probe', '{}')::runhold.hint]);
end;
$$;

-- A type that is enabled again, or may run more at once, has waiting runs.
create function runhold.hint_type_change() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.wake_workers();
  return null;
end;
$$;

create trigger hint_type_change after update on public.agent_types
  for each statement execute function runhold.hint_type_change();

-- What is told of runs is what their audit says of them.
create function runhold.hint_events() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_queued boolean;
  v_changed uuid[];
begin
  select bool_or(n.kind in ('submitted', 'forked', 'requeued', 'resumed', 'retried', 'cancel_requested')),
         array_agg(n.execution_id) filter (
           where n.kind in ('claimed', 'requeued', 'resumed', 'retried', 'paused', 'completed', 'failed', 'cancelled', 'cancel_requested'))
  into v_queued, v_changed from new_events n;
  if v_queued then
    perform runhold.wake_workers();
  end if;
  if v_changed is not null then
    perform runhold.send_hints(array(
      select ('execution:' || x.id, 'status', jsonb_build_object('id', x.id, 'status', x.status, 'step_count', x.step_count))::runhold.hint
      from public.agent_executions x where x.id = any (v_changed)));
  end if;
  return null;
end;
$$;

create trigger hint_events after insert on public.agent_events
  referencing new table as new_events
  for each statement execute function runhold.hint_events();

create function runhold.hint_review() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform runhold.send_hints(array(
    select ('reviews:' || p.user_id, 'review', jsonb_build_object(
      'id', new.id, 'status', new.status, 'escalated', new.escalated_at is not null))::runhold.hint
    from (
      select distinct r.user_id from runhold.reviewers r
      where (r.tenant_id is null or r.tenant_id = new.tenant_id)
        and (r.agent_type is null or r.agent_type = new.agent_type)
        and (r.tool_name is null or r.tool_name = new.tool_name)) p));
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
