-- Users who may no longer act. One function decides, runhold.may_act, and a project may replace it.
--
--   insert, fork, send, retry, decisions   refused (RH022)
--   claim                                  banned: the run waits in the queue; gone, or left the tenant: it fails
--   record                                 the run ends at its next record; what happened is stored
--   ctx.supabase                           no token is signed
--
-- Cancelling one's own run stays possible.

insert into runhold.settings (name, value, description) values
  ('tenant_check', null, 'on: runs of users who left their tenant fail; counts only if tenant_claim begins with app_metadata');

alter table runhold.settings add constraint switches_are_on_or_off check (
  name not in ('tenant_check', 'erase_on_soft_delete') or value is null or value::boolean is not null);
alter table runhold.settings add constraint lists_are_arrays check (
  name not in ('tenant_claim', 'keep_claims') or value is null or value::text[] is not null);

create function runhold.is_on(p_setting text) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return coalesce(runhold.setting(p_setting)::boolean, false);
end;
$$;

-- The user exists, is not deleted and not banned now, and is still of the tenant, where that is checked. A tenant that comes
-- from a hook's claim is not in auth.users, so it can not be compared. Reads auth.users and locks nothing there.
create function runhold.may_act_by_default(
  p_user_id uuid, p_tenant_id text, out allowed boolean, out code text, out wait_until timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_user record;
  v_path text[];
begin
  select u.banned_until, u.deleted_at, u.raw_app_meta_data into v_user from auth.users u where u.id = p_user_id;
  if not found or v_user.deleted_at is not null then
    code := 'USER_GONE';
  elsif v_user.banned_until > runhold.now() then
    code := 'USER_BANNED';
    wait_until := v_user.banned_until;
  elsif p_tenant_id is not null and runhold.is_on('tenant_check') then
    v_path := runhold.setting('tenant_claim')::text[];
    if v_path[1] = 'app_metadata' and (v_user.raw_app_meta_data #>> v_path[2:]) is distinct from p_tenant_id then
      code := 'TENANT_LEFT';
    end if;
  end if;
  allowed := code is null;
end;
$$;

-- Replaceable: a project may put its own body here (docs/guides/security.md). No later migration of Runhold changes this
-- function; what changes is runhold.may_act_by_default, which a body of your own may call.
--
--   p_tenant_id   of the run; null: it has none, or the question is about a person and no run
--   allowed       null counts as false
--   code          becomes agent_executions.error of a run that fails for it: one of the default's, or one of your own
--   wait_until    a run in the queue waits until then instead of failing
create function runhold.may_act(
  p_user_id uuid, p_tenant_id text, out allowed boolean, out code text, out wait_until timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
begin
  select d.allowed, d.code, d.wait_until into allowed, code, wait_until
  from runhold.may_act_by_default(p_user_id, p_tenant_id) d;
end;
$$;

comment on function runhold.may_act(uuid, text) is 'May this user act, in this tenant? Replaceable: projects may define their own.';

-- In words: whose account, and what is wrong with it.
create function runhold.why_not_act(p_user_id uuid, p_code text, p_wait_until timestamptz) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
  return case when p_user_id = auth.uid() then 'Your account ' else 'The run''s user ' end || case p_code
    when 'USER_GONE' then 'was deleted.'
    when 'USER_BANNED' then format('is banned until %s.', p_wait_until)
    when 'TENANT_LEFT' then 'does not belong to the run''s tenant any more.'
    else format('may not act (%s).', p_code) end;
end;
$$;

create function runhold.require_may_act(p_user_id uuid, p_tenant_id text) returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_may record;
begin
  select m.* into v_may from runhold.may_act(p_user_id, p_tenant_id) m;
  if v_may.allowed is not true then
    perform runhold.refuse('RH022', runhold.why_not_act(p_user_id, v_may.code, v_may.wait_until),
      'An administrator can change that: look at the user in auth.users, and at runhold.may_act.');
  end if;
end;
$$;

-- Whoever calls, as a person; keys are no person. Nothing is said about a tenant: operators may be of another one.
create function runhold.require_caller_may_act() returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  if auth.uid() is not null and not runhold.caller_is_service() then
    perform runhold.require_may_act(auth.uid(), null);
  end if;
end;
$$;

-- More work for this run: neither its user nor whoever asks for it may be somebody who may not act.
create function runhold.require_both_may_act(p_execution public.agent_executions) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform runhold.require_may_act(p_execution.user_id, p_execution.tenant_id);
  if auth.uid() is distinct from p_execution.user_id then
    perform runhold.require_caller_may_act();
  end if;
end;
$$;

-- Why a run must stop because of its user: {"code", "detail"}; null: it need not.
create function runhold.stop_of_user(p_execution public.agent_executions) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_may record;
begin
  select m.* into v_may from runhold.may_act(p_execution.user_id, p_execution.tenant_id) m;
  if v_may.allowed then
    return null;
  end if;
  return jsonb_build_object('code', coalesce(v_may.code, 'USER_GONE'), 'detail', jsonb_build_object(
    'message', runhold.why_not_act(p_execution.user_id, v_may.code, v_may.wait_until), 'step', p_execution.step_count));
end;
$$;

-- Of these queued runs, held by the caller, those whose users may act. The others leave the queue: they wait, or fail. What
-- else these users have in the queue goes with them, and so does what others like them have at its head, up to a bound; so a
-- claim that meets somebody who was banned does not meet them again.
create function runhold.set_aside(p_types text[], p_ids uuid[]) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_window constant integer := 500;
  v_users uuid[];
  v_ids uuid[];
  v_failed uuid[];
  v_waiting uuid[];
begin
  v_users := array(
    select u.user_id from (
      select distinct x.user_id, x.tenant_id from public.agent_executions x where x.id = any (p_ids)) u
    cross join lateral runhold.may_act(u.user_id, u.tenant_id) m where m.allowed is not true);
  if v_users = '{}' then
    return p_ids;  -- as nearly always
  end if;

  v_ids := p_ids || array(
    select q.id from unnest(p_types) t(name) cross join lateral (
      select h.id from unnest(runhold.queue_head(t.name, c_window)) h
      union
      select o.id from unnest(runhold.queued_runs_of(t.name, v_users, 1 + c_window / cardinality(v_users))) o) q);
  v_ids := array(
    select x.id from public.agent_executions x
    where x.id = any (v_ids) and x.status = 'pending' and x.wake_at is null order by x.id for no key update skip locked);

  with refused as materialized (
    select u.user_id, u.tenant_id, m.code, m.wait_until, runhold.why_not_act(u.user_id, m.code, m.wait_until) as message
    from (select distinct x.user_id, x.tenant_id from public.agent_executions x where x.id = any (v_ids)) u
    cross join lateral runhold.may_act(u.user_id, u.tenant_id) m where m.allowed is not true
  ), changed as (
    update public.agent_executions x
    set status = case when r.wait_until is null then 'failed' else 'pending' end,
        error = case when r.wait_until is null then coalesce(r.code, 'USER_GONE') end,
        -- workers are told the earliest time, and can't read one beyond the year 9999
        wake_at = case when r.wait_until > runhold.now() then least(r.wait_until, '9000-01-01')
                       when r.wait_until is not null then runhold.now() + interval '1 minute' end,
        error_detail = case
          when r.wait_until is null then jsonb_build_object('message', r.message, 'step', x.step_count)
          else jsonb_build_object('waiting_for', 'user', 'code', r.code, 'message', r.message) end
    from refused r
    where x.id = any (v_ids) and x.user_id = r.user_id and x.tenant_id is not distinct from r.tenant_id
    returning x.id, x.status, x.user_id
  )
  select array_agg(c.id) filter (where c.status = 'failed'), array_agg(distinct c.user_id) filter (where c.status = 'pending')
  into v_failed, v_waiting from changed c;
  perform runhold.note_waiting(v_waiting);
  perform runhold.close_reviews(v_failed);

  return array(
    select i.id from unnest(p_ids) i(id) join public.agent_executions x on x.id = i.id
    where x.status = 'pending' and x.wake_at is null order by x.priority desc, x.created_at, x.id);
end;
$$;

revoke execute on all functions in schema runhold from public;
