-- Telling reviewers outside of Supabase: an outbox, filled in the transaction that asks, delivered by the workers.
--
-- agent_types.notify = {"webhook": {"url": "https://…", "secret_name": "RUNHOLD_WEBHOOK_SECRET"}, "email": {"to": ["a@example.org"]}}:
-- where to; secrets and the mail server are in the environment of the workers. There is one row per channel, each with its own
-- backoff. A message says that somebody is asked, not what: who may see that looks it up. It is sent at least once, always
-- with the same id and the same bytes; its claim is a lease, so that a worker that died has it sent again by another. At
-- most a few of an endpoint are under way at once: one that hangs delays nothing else. Heartbeats tell workers when to look.

create table runhold.outbox (
  id uuid primary key default gen_random_uuid(),
  review_id uuid not null references public.agent_reviews on delete cascade,
  agent_type text not null,
  channel text not null check (channel in ('webhook', 'email')),
  target jsonb not null,
  endpoint text not null,
  body text not null,
  created_at timestamptz not null default now(),
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  claimed_by uuid,
  closed_at timestamptz,
  outcome text check (outcome in ('delivered', 'given_up', 'not_needed')),
  last_error text,
  constraint outcome_set_iff_closed check ((outcome is not null) = (closed_at is not null))
);

comment on column runhold.outbox.target is 'As the agent type named it: {url, secret_name} or {to}.';
comment on column runhold.outbox.endpoint is 'What may hang: the address of the webhook; for e-mail, the mail server of the workers.';
comment on column runhold.outbox.next_attempt_at is 'While claimed_by is set: when the claim ends.';
comment on column runhold.outbox.outcome is 'not_needed: the review was decided before.';

create index outbox_of_review_idx on runhold.outbox (review_id);
create index outbox_open_idx on runhold.outbox (endpoint, next_attempt_at) where closed_at is null;
create index outbox_due_idx on runhold.outbox (agent_type, next_attempt_at) where closed_at is null;
revoke all on runhold.outbox from public, anon, authenticated, service_role;

create function runhold.queue_notification() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into runhold.outbox (review_id, agent_type, channel, target, endpoint, body, created_at, next_attempt_at)
  select new.id, new.agent_type, c.channel, c.target, coalesce(c.target ->> 'url', c.channel),
         jsonb_build_object(
           'type', case tg_op when 'INSERT' then 'review.requested' else 'review.escalated' end,
           'timestamp', runhold.now(),
           'data', jsonb_build_object(
             'review_id', new.id, 'execution_id', new.execution_id, 'agent_type', new.agent_type, 'tenant_id', new.tenant_id,
             'kind', new.kind, 'tool_name', new.tool_name, 'requested_at', new.requested_at, 'expires_at', new.expires_at))::text,
         runhold.now(), runhold.now()
  from public.agent_types t cross join lateral jsonb_each(t.notify) c(channel, target)
  where t.name = new.agent_type;
  return null;
end;
$$;

create trigger queue_notification_of_request after insert on public.agent_reviews
  for each row when (new.status = 'pending') execute function runhold.queue_notification();
create trigger queue_notification_of_escalation after update on public.agent_reviews
  for each row when (old.escalated_at is null and new.escalated_at is not null) execute function runhold.queue_notification();

-- Milliseconds until a message of these types is due, 0 if one is; null: none is open. Part of every heartbeat's answer.
create function runhold.notification_due_ms(p_types text[]) returns bigint
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select ceil(1000 * extract(epoch from greatest(min(d.next_attempt_at), runhold.now()) - runhold.now()))::bigint
    from unnest(p_types) t(name)
    cross join lateral (
      select o.next_attempt_at from runhold.outbox o
      where o.closed_at is null and o.agent_type = t.name order by o.next_attempt_at limit 1) d
    having count(*) > 0);
end;
$$;

-- Up to p_n messages that are due on channels that the worker serves, for a living worker, for a minute.
create function runhold.worker_notifications(p_worker_id uuid, p_n integer, p_channels text[]) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_claim constant interval := interval '60 seconds';
  c_per_endpoint constant integer := 4;
  v_types text[];
  v_ids uuid[];
begin
  select w.agent_types into v_types from public.agent_workers w where w.id = p_worker_id and w.dead_at is null;
  if not found then
    perform runhold.refuse('RH012', format('Worker %s is dead or not registered.', p_worker_id), 'Register anew.');
  end if;

  update runhold.outbox o set closed_at = runhold.now(), outcome = 'not_needed', claimed_by = null
  where o.id in (
    select n.id from runhold.outbox n join public.agent_reviews r on r.id = n.review_id
    where n.closed_at is null and n.next_attempt_at <= runhold.now() and n.agent_type = any (v_types) and r.status <> 'pending'
    for update of n skip locked);

  v_ids := array(
    select d.id
    from (select distinct o.endpoint from runhold.outbox o 
          where o.closed_at is null and o.next_attempt_at <= runhold.now() and o.channel = any (p_channels)) e
    cross join lateral (
      select o.id, o.next_attempt_at from runhold.outbox o
      where o.endpoint = e.endpoint and o.closed_at is null and o.next_attempt_at <= runhold.now()
        and o.agent_type = any (v_types) and o.channel = any (p_channels)
        and (select count(*) from runhold.outbox u
             where u.endpoint = e.endpoint and u.closed_at is null and u.claimed_by is not null
               and u.next_attempt_at > runhold.now()) < c_per_endpoint
      order by o.next_attempt_at limit c_per_endpoint
      for update skip locked) d
    order by d.next_attempt_at limit least(greatest(p_n, 0), 256));
  update runhold.outbox o
  set claimed_by = p_worker_id, attempts = o.attempts + 1, next_attempt_at = runhold.now() + c_claim
  where o.id = any (v_ids);
  return (select coalesce(jsonb_agg(jsonb_build_object(
            'id', o.id, 'channel', o.channel, 'target', o.target, 'body', o.body, 'attempt', o.attempts)), '[]')
          from runhold.outbox o where o.id = any (v_ids));
end;
$$;

create function public.agent_worker_notifications(worker_id uuid, n integer, channels text[]) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_notifications(worker_id, n, channels);
end;

-- What became of one: null is delivered; anything else is why not, and it is tried again, 5 s later, then twice as long
-- each time up to an hour, for three days. A delivery counts whoever says so, a failure only under a claim that lasts.
create function runhold.worker_notified(p_worker_id uuid, p_id uuid, p_error text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_give_up_after constant interval := interval '3 days';
  v_message runhold.outbox;
  v_review public.agent_reviews;
begin
  perform runhold.set_actor('worker', p_worker_id);
  -- the run before its message, as for whoever deletes it
  select r.* into v_review from public.agent_reviews r where r.id = (select o.review_id from runhold.outbox o where o.id = p_id);
  perform from public.agent_executions x where x.id = v_review.execution_id for key share;
  select o.* into v_message from runhold.outbox o where o.id = p_id and o.closed_at is null for update;
  if not found or (p_error is not null and v_message.claimed_by is distinct from p_worker_id) then
    return jsonb_build_object('outcome', null);
  end if;
  v_message.last_error := left(p_error, 500);
  if p_error is null then
    v_message.outcome := 'delivered';
  elsif v_message.created_at <= runhold.now() - c_give_up_after then
    v_message.outcome := 'given_up';
    perform runhold.write_event(v_review.execution_id, v_review.user_id, v_review.tenant_id, 'notification_given_up',
      jsonb_build_object('review_id', v_review.id, 'attempts', v_message.attempts, 'error', v_message.last_error));
  end if;
  update runhold.outbox o
  set outcome = v_message.outcome, closed_at = case when v_message.outcome is not null then runhold.now() end, claimed_by = null,
      last_error = v_message.last_error,
      next_attempt_at = runhold.now()
        + least(interval '1 hour', interval '5 seconds' * 2 ^ least(o.attempts - 1, 20)) * (0.75 + random() / 2)
  where o.id = p_id;
  return jsonb_build_object('outcome', v_message.outcome);
end;
$$;

create function public.agent_worker_notified(worker_id uuid, id uuid, error text default null) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.worker_notified(worker_id, id, error);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_notifications(uuid, integer, text[]), public.agent_worker_notified(uuid, uuid, text)
  from public, anon, authenticated;
grant execute on function runhold.worker_notifications(uuid, integer, text[]), runhold.worker_notified(uuid, uuid, text) to service_role;
grant execute on function public.agent_worker_notifications(uuid, integer, text[]), public.agent_worker_notified(uuid, uuid, text)
  to service_role;
