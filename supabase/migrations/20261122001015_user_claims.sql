-- What stands in a token that a worker signs for a run's user (ctx.supabase): what the user's own token would carry now.
--
--   from auth.users, when it is signed     sub, aud, role, email, phone, app_metadata, user_metadata, is_anonymous
--   from the token that submitted the run  the claims that the setting keep_claims names, and a tenant from a hook's claim
--   always                                 aal1: nobody proved a second factor to the worker
--
-- A worker signs with the database's time, which comes with the answer: its own clock may be wrong.

insert into runhold.settings (name, value, description) values
  ('keep_claims', null, 'custom claims of the submitting user''s token that ctx.supabase carries, like {org_id,plan}');

-- Claims that are never kept from an old token: read anew, or set by whoever signs.
create function runhold.signed_claims() returns text[]
language sql immutable parallel safe set search_path = ''
return array['sub', 'aud', 'role', 'email', 'phone', 'app_metadata', 'user_metadata', 'is_anonymous', 'aal', 'amr', 'session_id',
             'iss', 'iat', 'exp', 'nbf', 'jti'];

create table runhold.kept_claims (
  execution_id uuid primary key references public.agent_executions on delete cascade,
  claims jsonb not null
);

comment on table runhold.kept_claims is
  'Custom claims of the token that submitted a run, as the setting keep_claims names them. No row: the service submitted it, or there were none.';
revoke all on runhold.kept_claims from public, anon, authenticated, service_role;

-- A fork by its user keeps the claims of the token that forks; a fork by somebody else those of its source.
create function runhold.keep_claims() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
  v_names text[] := runhold.setting('keep_claims')::text[];
  v_claims jsonb;
begin
  if v_names is null then
    return null;
  elsif new.user_id = auth.uid() and not runhold.caller_is_service() then
    v_claims := (
      select jsonb_object_agg(c.key, c.value) from jsonb_each(auth.jwt()) c
      where c.key = any (v_names) and c.key <> all (runhold.signed_claims()));
  elsif new.forked_from is not null then
    v_claims := (select k.claims from runhold.kept_claims k where k.execution_id = new.forked_from);
  end if;
  if v_claims is not null then
    insert into runhold.kept_claims (execution_id, claims) values (new.id, v_claims);
  end if;
  return null;
end;
$$;

create trigger keep_claims after insert on public.agent_executions
  for each row execute function runhold.keep_claims();

-- p_value at p_path of an object, with the objects on the way.
create function runhold.at_path(p_path text[], p_value jsonb) returns jsonb
language plpgsql immutable parallel safe set search_path = ''
as $$
begin
  for i in reverse cardinality(p_path) .. 1 loop
    p_value := jsonb_build_object(p_path[i], p_value);
  end loop;
  return p_value;
end;
$$;

-- {"claims", "now"} for a run that this worker holds under this fence; null: it does not.
create function runhold.worker_user_claims(p_worker_id uuid, p_execution_id uuid, p_fence bigint) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_run record;
  v_claims jsonb;
  v_path text[] := runhold.setting('tenant_claim')::text[];
begin
  select x.user_id, x.tenant_id into v_run from public.agent_executions x
  where x.id = p_execution_id and x.worker_id = p_worker_id and x.fence = p_fence and x.status = 'running';
  if not found then
    return null;
  end if;
  perform runhold.require_may_act(v_run.user_id, v_run.tenant_id);

  v_claims := coalesce((select k.claims from runhold.kept_claims k where k.execution_id = p_execution_id), '{}');
  if v_run.tenant_id is not null and v_claims #>> v_path is distinct from v_run.tenant_id
     and v_path[1] <> all (runhold.signed_claims()) then
    v_claims := v_claims || runhold.at_path(v_path, to_jsonb(v_run.tenant_id));
  end if;
  return (
    select jsonb_build_object('now', runhold.clock(), 'claims', v_claims || jsonb_build_object(
      'sub', u.id, 'aud', coalesce(nullif(u.aud, ''), 'authenticated'), 'role', coalesce(nullif(u.role, ''), 'authenticated'),
      'email', coalesce(u.email, ''), 'phone', coalesce(u.phone, ''), 'is_anonymous', u.is_anonymous, 'aal', 'aal1',
      'app_metadata', coalesce(u.raw_app_meta_data, '{}'), 'user_metadata', coalesce(u.raw_user_meta_data, '{}')))
    from auth.users u where u.id = v_run.user_id);
end;
$$;

create function public.agent_worker_user_claims(worker_id uuid, execution_id uuid, fence bigint) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.worker_user_claims(worker_id, execution_id, fence);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_worker_user_claims(uuid, uuid, bigint) from public, anon, authenticated;
grant execute on function runhold.worker_user_claims(uuid, uuid, bigint) to service_role;
grant execute on function public.agent_worker_user_claims(uuid, uuid, bigint) to service_role;
