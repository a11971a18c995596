-- Runs that workers give back because something is missing: a tool, a key, an answer of the model's provider. Such a
-- release is not counted as an attempt, so nothing but these rules keeps the run from going in circles:
--
--   error_detail      names what is missing: {"waiting_for", "message", …}
--   the pause         doubles with each release in a row, up to 5 minutes; a step begins anew
--   agent_events      tells of it once an hour
--   who counts them   sql/stuck.sql, agent_health_metrics, the workers' log

-- How long a run waits that is given back for the p_releases-th time in a row. Where the asker knows better, as for a
-- budget's next period or an outage, whose pauses grow by themselves, it is as they say.
create function runhold.release_pause(p_releases integer, p_reason text, p_asked interval) returns interval
language plpgsql immutable parallel safe set search_path = ''
as $$
declare
  c_first constant interval := '5 seconds';
  c_longest constant interval := '5 minutes';
begin
  if p_releases <= 1 or p_reason in ('budget', 'model_outage') then
    return p_asked;
  end if;
  return greatest(p_asked, least(c_first * power(2, least(p_releases, 20) - 2), c_longest));
end;
$$;

-- error_detail of a run that is given back: as its worker says, else, when it happens again and again, how often.
create function runhold.release_detail(p_releases integer, p_reason text, p_detail jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  if p_releases < 3 or p_detail ? 'waiting_for' then
    return p_detail;
  end if;
  return coalesce(p_detail, '{}') || jsonb_build_object(
    'waiting_for', 'worker', 'message', coalesce(p_detail ->> 'message',
    format('Workers gave the run back %s times in a row before a step was done (%s).', p_releases, p_reason)));
end;
$$;

-- The new waiting_told_at of a run that is released now: its old value for an hour, then now. Null: write an event for
-- each release, because nothing is missing (the first shutdown of its worker, say).
create function runhold.release_told_at(p_releases integer, p_detail jsonb, p_told_at timestamptz) returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  return case
    when p_told_at > runhold.now() - interval '1 hour' then p_told_at
    when p_releases >= 2 or p_detail ? 'waiting_for' then runhold.now()
  end;
end;
$$;

-- What a run waits for, in a word or two: 'tool send', 'redact_key', 'budget'.
create function runhold.waits_for(p_detail jsonb) returns text
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  return concat_ws(' ', p_detail ->> 'waiting_for', coalesce(p_detail ->> 'tool', p_detail ->> 'model'));
end;
$$;

-- A worker has come that may have what these runs wait for: they need not sit out their pause. Runs that no worker
-- kept do: a worker that starts and stops in circles must not take them along.
create function runhold.wake_for_worker(p_types text[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_executions x set wake_at = runhold.now() + random() * interval '2 seconds'
  where x.id in (
    select w.id from unnest(p_types) t(name) cross join lateral (
      select e.id from public.agent_executions e
      where e.status = 'pending' and e.wake_at is not null and e.waiting_since is not null and e.agent_type = t.name
        and e.wake_at > runhold.now() + interval '3 seconds'
        and e.error_detail ->> 'waiting_for' in ('tool', 'redact_key', 'user_access')
      order by e.waiting_since limit 1000 for no key update skip locked) w);
end;
$$;

revoke execute on all functions in schema runhold from public;
