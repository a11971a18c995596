-- agent_fork: a new run that shares the beginning of another one. Steps before from_step are copied with their calls'
-- results and never run again; from_step and all after it are decided anew. The source is only read. What every insert must
-- fulfil (the type is enabled) holds for forks, too.

-- The copied part of the log. Tokens count against the new run's limits, as the request that follows says it all again;
-- costs were paid by the source and are 0 here, or spending would be counted twice. Reviews stay with the source.
create function runhold.copy_log(p_source_id uuid, p_fork_id uuid, p_steps integer) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into public.agent_steps (
    execution_id, step_number, user_id, definition_id, message, injected, finish_reason, input_tokens, output_tokens,
    cached_tokens, usage_estimated, streamed, cost_usd, latency_ms, attempt, worker_id, max_output_tokens, landing, created_at)
  select p_fork_id, s.step_number, s.user_id, s.definition_id, s.message, s.injected, s.finish_reason, s.input_tokens, s.output_tokens,
         s.cached_tokens, s.usage_estimated, s.streamed, 0, s.latency_ms, s.attempt, s.worker_id, s.max_output_tokens, s.landing, s.created_at
  from public.agent_steps s where s.execution_id = p_source_id and s.step_number <= p_steps;

  insert into public.agent_tool_calls (
    execution_id, step_number, position, call_id, user_id, tool_name, tool_input, effect, status, tool_output, shown, error,
    latency_ms, attempt, edited, called_at, finished_at)
  select p_fork_id, c.step_number, c.position, c.call_id, c.user_id, c.tool_name, c.tool_input, c.effect, c.status, c.tool_output,
         c.shown, c.error, c.latency_ms, c.attempt, c.edited, c.called_at, c.finished_at
  from public.agent_tool_calls c where c.execution_id = p_source_id and c.step_number <= p_steps;
end;
$$;

-- The counters of a run that has just been copied, as the loop counts them from the log.
create function runhold.count_copied(p_fork_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_executions x
  set step_count = s.steps, token_count = s.input_tokens + s.output_tokens, copied_tokens = s.input_tokens + s.output_tokens,
      input_tokens = s.input_tokens, output_tokens = s.output_tokens, cached_tokens = s.cached_tokens,
      tool_call_count = c.calls, tool_error_count = runhold.failed_calls(p_fork_id)
  from (select count(*) as steps, coalesce(sum(t.input_tokens), 0) as input_tokens, coalesce(sum(t.output_tokens), 0) as output_tokens,
               coalesce(sum(t.cached_tokens), 0) as cached_tokens
        from public.agent_steps t where t.execution_id = p_fork_id) s,
       (select count(*) as calls from public.agent_tool_calls t where t.execution_id = p_fork_id) c
  where x.id = p_fork_id;
end;
$$;

create function runhold.fork(p_execution_id uuid, p_from_step integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_source public.agent_executions := runhold.lock_steered(p_execution_id);
  v_limits jsonb;
  v_open record;
  v_fork_id uuid;
begin
  perform runhold.require_both_may_act(v_source);
  if p_from_step is null or p_from_step not between 1 and v_source.step_count + 1 then
    perform runhold.refuse('RH020', format('This run has %s steps: from_step must be between 1 and %s.', v_source.step_count, v_source.step_count + 1),
      '1 starts from the beginning.');
  end if;
  select c.step_number, c.tool_name, case when c.cut_off is null then c.status else 'cut off' end as status into v_open
  from public.agent_tool_calls c
  where c.execution_id = p_execution_id and c.step_number < p_from_step
    and (c.status not in ('succeeded', 'failed', 'rejected') or c.cut_off is not null)
  order by c.step_number, c.position limit 1;
  if found then
    perform runhold.refuse('RH020', format('The call of %s in step %s has no result to copy (%s).', v_open.tool_name, v_open.step_number, v_open.status),
      format('Fork from step %s or an earlier one, or wait for the result.', v_open.step_number));
  end if;

  -- what an operator allowed the source beyond the type's limits, or the type allowed then, is not handed on
  v_limits := runhold.effective_limits(null, runhold.operator_limits(v_source.agent_type), null, v_source.limits);
  insert into public.agent_executions (user_id, tenant_id, agent_type, input_data, limits, metadata, priority, forked_from, copied_steps, resumed_after_step)
  values (v_source.user_id, v_source.tenant_id, v_source.agent_type, v_source.input_data,
          (select jsonb_object_agg(l.key, v_limits -> l.key) from jsonb_each(v_source.limits) l),
          v_source.metadata, v_source.priority, v_source.id, p_from_step - 1, p_from_step - 1)
  returning id into v_fork_id;
  perform runhold.copy_log(v_source.id, v_fork_id, p_from_step - 1);
  perform runhold.count_copied(v_fork_id);
  return runhold.run_for_caller(v_fork_id);
end;
$$;

create function public.agent_fork(execution_id uuid, from_step integer) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.fork(execution_id, from_step);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_fork(uuid, integer) from public, anon, authenticated;
grant execute on function runhold.fork(uuid, integer) to authenticated, service_role;
grant execute on function public.agent_fork(uuid, integer) to authenticated, service_role;
