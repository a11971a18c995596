-- The heartbeat renews a worker's lease and tells it what it can't know; release and stop give runs back.

create function runhold.worker_heartbeat(p_worker_id uuid, p_held uuid[], p_last_seq bigint) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_worker public.agent_workers;
  v_held uuid[] := coalesce(array_remove(p_held, null), '{}');
  v_forgotten uuid[];
begin
  perform runhold.set_actor('worker', p_worker_id);
  v_worker := runhold.lock_worker(p_worker_id);

  update public.agent_workers w
  set last_seen_at = runhold.now(), lease_expires_at = runhold.now() + w.lease, in_flight = cardinality(v_held)
  where w.id = p_worker_id;
  perform runhold.note_beat();

  -- claimed, but the worker does not know: an answer that was lost, or a task that died
  v_forgotten := array(
    select x.id from public.agent_executions x
    where x.worker_id = p_worker_id and x.status = 'running' and x.claim_seq <= p_last_seq and not x.id = any (v_held));
  if v_forgotten <> '{}' then
    perform runhold.requeue_held(p_worker_id, v_forgotten, 'forgotten', true);
  end if;
  perform runhold.send_probe(p_worker_id);

  return jsonb_build_object(
    'lease_ms', (extract(epoch from v_worker.lease) * 1000)::bigint,
    'cancelled', coalesce((select jsonb_agg(x.id) from public.agent_executions x
                           where x.worker_id = p_worker_id and x.status = 'running' and x.cancel_requested_at is not null), '[]'),
    'lost', coalesce((select jsonb_agg(h.id) from unnest(v_held) h(id)
                      where not exists (select from public.agent_executions x
                                        where x.id = h.id and x.worker_id = p_worker_id and x.status = 'running')), '[]'),
    'types_version', runhold.types_version(),
    'types', runhold.types_json(v_worker.agent_types),
    'notification_due_ms', runhold.notification_due_ms(v_worker.agent_types));
end;
$$;

create function public.agent_worker_heartbeat(worker_id uuid, held uuid[], last_seq bigint) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_heartbeat(worker_id, held, last_seq);
end;

-- p_counted: the attempt was used up, as by a run that gets stuck and would do so everywhere, for ever.
create function runhold.worker_release(p_worker_id uuid, p_execution_ids uuid[], p_reason text, p_counted boolean) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.set_actor('worker', p_worker_id);
  return jsonb_build_object('released', runhold.requeue_held(p_worker_id, coalesce(p_execution_ids, '{}'), coalesce(p_reason, 'released'),
    coalesce(p_counted, false)));
end;
$$;

create function public.agent_worker_release(worker_id uuid, executions uuid[], reason text default null, counted boolean default false) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_release(worker_id, executions, reason, counted);
end;

-- draining: claims nothing more. Not draining: goodbye; whatever it still held is requeued.
create function runhold.worker_stop(p_worker_id uuid, p_draining boolean) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_released integer := 0;
  v_types text[];
begin
  perform runhold.set_actor('worker', p_worker_id);
  select w.agent_types into v_types from public.agent_workers w where w.id = p_worker_id for update;
  if p_draining is null then
    perform runhold.refuse('RH013', 'draining must be true or false.');
  elsif p_draining then
    update public.agent_workers w set draining = true where w.id = p_worker_id;
  else
    v_released := runhold.requeue_held(p_worker_id, null, 'shutdown', false);
    update public.agent_workers w set draining = true, dead_at = coalesce(w.dead_at, runhold.now()) where w.id = p_worker_id;
  end if;
  perform runhold.adopt_definitions(v_types);
  return jsonb_build_object('released', v_released);
end;
$$;

create function public.agent_worker_stop(worker_id uuid, draining boolean) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_stop(worker_id, draining);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_heartbeat(uuid, uuid[], bigint), public.agent_worker_release(uuid, uuid[], text, boolean),
  public.agent_worker_stop(uuid, boolean) from public, anon, authenticated;
grant execute on function runhold.worker_heartbeat(uuid, uuid[], bigint), runhold.worker_release(uuid, uuid[], text, boolean),
  runhold.worker_stop(uuid, boolean) to service_role;
grant execute on function public.agent_worker_heartbeat(uuid, uuid[], bigint), public.agent_worker_release(uuid, uuid[], text, boolean),
  public.agent_worker_stop(uuid, boolean) to service_role;
