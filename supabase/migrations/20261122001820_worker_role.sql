-- A worker without the key to everything: role runhold_worker may do what a worker does, and nothing else. All its rights
-- stand here, and tests compare them with what there is. The secret key goes on working.
--
-- A worker presents a JWT {"role": "runhold_worker"}, signed with a key of the project, beside the publishable key
-- (`runhold worker-token` makes one). To shut all such workers out at once:  revoke runhold_worker from authenticator;

do $$
begin
  -- roles belong to the cluster: another of its databases may have this one already, or be making it right now
  if to_regrole('runhold_worker') is null then
    create role runhold_worker nologin;
    comment on role runhold_worker is 'Runhold''s workers: may call agent_worker_* and agent_sweep.';
  end if;
exception when duplicate_object or unique_violation then
  null;
end;
$$;

do $$
begin
  if to_regrole('authenticator') is null then
    raise notice 'runhold: no role authenticator here; grant runhold_worker to whom PostgREST logs in as';
  else
    grant runhold_worker to authenticator;
  end if;
end;
$$;

grant usage on schema public to runhold_worker;

grant execute on function
  public.agent_worker_register, public.agent_worker_definitions, public.agent_worker_claim, public.agent_worker_log,
  public.agent_worker_record, public.agent_worker_heartbeat, public.agent_worker_release, public.agent_worker_stop,
  public.agent_worker_notifications, public.agent_worker_notified, public.agent_worker_prices, public.agent_worker_user_claims,
  public.agent_sweep
  to runhold_worker;

-- their bodies, which the API does not reach
grant execute on function
  runhold.worker_register, runhold.worker_definitions, runhold.worker_claim, runhold.worker_log, runhold.worker_record,
  runhold.worker_heartbeat, runhold.worker_release, runhold.worker_stop, runhold.worker_notifications,
  runhold.worker_notified, runhold.worker_prices, runhold.worker_user_claims, runhold.sweep
  to runhold_worker;

-- Realtime. Wake-ups and probes come in, progress goes out: hints without a word of what runs are about, except progress,
-- which can be sent and not read. Whose probe topic it is can't be told from a token that all workers share.
--
-- On hosted projects postgres may make policies on realtime.messages and can't grant rights on it, so the role gets them
-- by way of anon: no more than anybody has who knows the publishable key. And the server takes on the role that a token
-- names, for which it may have to be a member. Where either is refused, workers poll.
do $$
declare
  v_grant text;
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  create policy "runhold: workers listen" on realtime.messages
    for select to runhold_worker
    using (realtime.messages.extension = 'broadcast'
           and (select realtime.topic()) ~ '^runhold:(workers|worker:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$');
  create policy "runhold: workers tell progress" on realtime.messages
    for insert to runhold_worker
    with check (realtime.messages.extension = 'broadcast'
                and (select realtime.topic()) ~ '^execution:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$');
  foreach v_grant in array array['grant anon to runhold_worker', 'grant runhold_worker to supabase_realtime_admin'] loop
    begin
      execute v_grant;
    exception when others then
      raise notice 'runhold: workers with the small role may have to poll: % (%)', sqlerrm, v_grant;
    end;
  end loop;
end;
$$;
