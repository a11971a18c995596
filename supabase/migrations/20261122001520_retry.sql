-- agent_retry: a failed run goes on where it ended. Its log stands; what its end left open is taken up again:
--
--   cut off while it ran (read, idempotent)   pending: runs again, an idempotent one under the same key
--   cut off before a person decided           awaiting_review: an approval that was not used holds, else it is asked again
--   unknown, also where a person said "stop"  unknown, and asked about; the worker that claims the run pauses it at once

-- The limit that ended this run and would at once end it again: {"limit", "allowed", "used"}.
create function runhold.used_up_limit(p_execution public.agent_executions) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_limits jsonb := p_execution.effective_limits;
begin
  return (
    select jsonb_build_object('limit', l.name, 'allowed', v_limits -> l.name, 'used', trim_scale(l.used))
    from (values
      ('max_steps', 'MAX_STEPS_EXCEEDED', p_execution.step_count::numeric),
      ('max_tokens', 'MAX_TOKENS_EXCEEDED', p_execution.token_count),
      ('max_cost_usd', 'MAX_COST_EXCEEDED', p_execution.cost_usd),
      ('max_tool_calls', 'MAX_TOOL_CALLS_EXCEEDED', p_execution.tool_call_count),
      ('total_timeout_s', 'TOTAL_TIMEOUT', p_execution.active_ms / 1000.0)
    ) l(name, code, used)
    where l.code = p_execution.error
      -- nothing is left, or what is left was too little for the next call and is no more now
      and (l.used >= (v_limits ->> l.name)::numeric
        or (jsonb_typeof(p_execution.error_detail -> 'allowed') = 'number'
            and (v_limits ->> l.name)::numeric <= (p_execution.error_detail ->> 'allowed')::numeric)));
end;
$$;

-- p_limits put over the run's own, and what holds for it then by the type's current definition: whoever claims it computes it anew.
-- Beyond what operators set only by operators, as an allowance of this run; it goes beyond the definition, too.
create function runhold.with_limits(p_execution public.agent_executions, p_limits jsonb) returns public.agent_executions
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_definition jsonb;
  v_operator jsonb;
  v_allowed jsonb;
begin
  select d.limits, t.limits into v_definition, v_operator
  from public.agent_types t left join public.agent_definitions d on d.id = t.definition_id where t.name = p_execution.agent_type;
  p_limits := coalesce(p_limits, 'null');
  if p_limits = 'null' then
    p_limits := '{}';
  elsif jsonb_typeof(p_limits) <> 'object' then
    perform runhold.refuse('RH004', 'limits must be a JSON object.', 'Send {"max_steps": 50}.');
  end if;
  if not runhold.may_operate(p_execution.tenant_id, p_execution.agent_type) then
    perform runhold.check_run_limits(p_limits, coalesce(v_operator, '{}') || coalesce(p_execution.allowance, '{}'), p_execution.agent_type);
  else
    perform runhold.check_run_limits(p_limits, '{}', p_execution.agent_type);
    v_allowed := runhold.effective_limits(v_definition, v_operator, null, null);
    p_execution.allowance := nullif(coalesce(p_execution.allowance, '{}') || coalesce((
      select jsonb_object_agg(l.key, l.value) from jsonb_each(p_limits) l
      where l.value::numeric > (v_allowed ->> l.key)::numeric), '{}'), '{}');
  end if;
  p_execution.limits := nullif(coalesce(p_execution.limits, '{}') || p_limits, '{}');
  p_execution.effective_limits := runhold.effective_limits(v_definition, v_operator, p_execution.allowance, p_execution.limits);
  return p_execution;
end;
$$;

-- Takes up the calls that the run's end left open. The caller holds the run.
create function runhold.reopen_calls(p_execution_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_tool_calls c
  set status = case c.cut_off when 'awaiting_review' then 'awaiting_review' else 'pending' end, cut_off = null, error = null, finished_at = null
  where c.execution_id = p_execution_id and c.cut_off is not null;

  perform runhold.open_review(c.id, asked.kind, asked.summary)
  from public.agent_tool_calls c
  cross join lateral (
    select r.* from public.agent_reviews r where r.tool_call_id = c.id
    order by r.requested_at desc, r.decided_at desc nulls first, r.id limit 1) asked
  where c.execution_id = p_execution_id and c.status = 'awaiting_review'
    and not (asked.status = 'approved' and asked.used_at is null)
  order by c.step_number, c.position;

  perform runhold.open_review(c.id, 'unknown_outcome', format('Did %s happen? %s', c.tool_name, coalesce(c.error, '')))
  from public.agent_tool_calls c
  where c.execution_id = p_execution_id and c.status = 'unknown'
  order by c.step_number, c.position;
end;
$$;

-- The row as its steerer may read it: operators steer runs whose content they can not read.
create function runhold.run_for_caller(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select case when x.user_id = auth.uid() or runhold.caller_is_service() then to_jsonb(x)
                else to_jsonb(x) - array['input_data', 'state', 'result', 'metadata', 'error_detail'] end
    from public.agent_executions x where x.id = p_execution_id);
end;
$$;

create function runhold.retry(p_execution_id uuid, p_limits jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_run public.agent_executions := runhold.lock_steered(p_execution_id);
  v_used_up jsonb;
begin
  perform runhold.require_both_may_act(v_run);
  if v_run.status <> 'failed' then
    perform runhold.refuse('RH018', format('Only a failed run can be retried; this one is %s.', v_run.status),
      case when runhold.is_final(v_run.status) then 'agent_fork starts a new run from any of its steps.' else 'It is under way already.' end);
  end if;
  perform runhold.require_enabled(v_run.agent_type);
  v_run := runhold.with_limits(v_run, p_limits);
  v_used_up := runhold.used_up_limit(v_run);
  if v_used_up is not null then
    perform runhold.refuse('RH019',
      format('The run would fail again at once: %s is used up (%s of %s).', v_used_up ->> 'limit', v_used_up ->> 'used', v_used_up ->> 'allowed'),
      format('Retry with limits {"%s": …} above %s.', v_used_up ->> 'limit', v_used_up ->> 'allowed'));
  end if;

  update public.agent_executions x
  set status = 'pending', attempt = 0, wake_at = null, outage_since = null, error = null, error_detail = null, result = null,
      cancel_requested_at = null, resumed_after_step = x.step_count, limits = v_run.limits, allowance = v_run.allowance,
      effective_limits = v_run.effective_limits
  where x.id = p_execution_id;
  perform runhold.reopen_calls(p_execution_id);
  return runhold.run_for_caller(p_execution_id);
end;
$$;

create function public.agent_retry(execution_id uuid, limits jsonb default null) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.retry(execution_id, limits);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_retry(uuid, jsonb) from public, anon, authenticated;
grant execute on function runhold.retry(uuid, jsonb) to authenticated, service_role;
grant execute on function public.agent_retry(uuid, jsonb) to authenticated, service_role;
