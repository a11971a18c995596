-- The kill switch. A disabled type starts nothing: inserts, retries and forks are refused and nothing of it is claimed. What
-- runs goes on until its workers, told by their next heartbeat, or a person stop it; what is pending waits, or is failed here.

-- Operators of the whole type, of all tenants, and the service.
create function runhold.switch_type(p_agent_type text, p_enabled boolean) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.require_caller_may_act();
  if not (runhold.caller_is_service() or exists (
       select from runhold.reviewers r
       where r.user_id = auth.uid() and r.role = 'operator' and r.tenant_id is null and r.tool_name is null
         and (r.agent_type is null or r.agent_type = p_agent_type))) then
    perform runhold.refuse('RH021', 'Only operators of an agent type, for all tenants, may switch it.',
      'Ask one, or have yourself appointed in runhold.reviewers.');
  end if;
  update public.agent_types t set enabled = p_enabled where t.name = p_agent_type;
  if not found then
    perform runhold.refuse('RH001', format('There is no agent type %s.', quote_literal(p_agent_type)), 'Table agent_types lists those known.');
  end if;
end;
$$;

-- At most p_limit runs per call, so that no call takes long and none holds many rows: repeat it while there are more.
create function runhold.fail_pending(p_agent_type text, p_limit integer) returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_ids uuid[] := array(
    select x.id from public.agent_executions x where x.status = 'pending' and x.agent_type = p_agent_type
    order by x.id limit p_limit for no key update skip locked);
begin
  update public.agent_executions x
  set status = 'failed', error = 'AGENT_DISABLED',
      error_detail = jsonb_build_object('message', 'An operator disabled this agent and ended what was waiting for it.', 'step', x.step_count)
  where x.id = any (v_ids);
  perform runhold.close_reviews(v_ids);
  return cardinality(v_ids);
end;
$$;

create function runhold.disable(p_agent_type text, p_fail_pending boolean) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_batch constant integer := 1000;
  v_failed integer := 0;
begin
  perform runhold.switch_type(p_agent_type, false);
  if p_fail_pending then
    v_failed := runhold.fail_pending(p_agent_type, c_batch);
  end if;
  return jsonb_build_object('agent_type', p_agent_type, 'enabled', false, 'failed', v_failed, 'pending', (
    select count(*) from public.agent_executions x where x.status = 'pending' and x.agent_type = p_agent_type));
end;
$$;

create function runhold.enable(p_agent_type text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.switch_type(p_agent_type, true);
  return jsonb_build_object('agent_type', p_agent_type, 'enabled', true);
end;
$$;

create function public.agent_disable(agent_type text, fail_pending boolean default false) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.disable(agent_type, fail_pending);
end;

create function public.agent_enable(agent_type text) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.enable(agent_type);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_disable(text, boolean), public.agent_enable(text) from public, anon, authenticated;
grant execute on function runhold.disable(text, boolean), runhold.enable(text) to authenticated, service_role;
grant execute on function public.agent_disable(text, boolean), public.agent_enable(text) to authenticated, service_role;
