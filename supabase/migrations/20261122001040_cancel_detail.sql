-- What is told of a cancelled run, from its rows: what the calls of its last step came to, before and after the request.
-- Calls that can be repeated and had begun are cut off; who ran them may still finish them (a thread can't be stopped).
-- Asked before the run leaves: calls that run are still "running". null members are left out.
create function runhold.cancel_detail(p_execution public.agent_executions) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select runhold.compact(jsonb_build_object(
      'requested_at', coalesce(p_execution.cancel_requested_at, runhold.now()),
      'reason', case when p_execution.cancel_requested_at is null then runhold.reason_of(p_execution.id) else (
        select e.data ->> 'reason' from public.agent_events e
        where e.execution_id = p_execution.id and e.kind = 'cancel_requested' order by e.id desc limit 1) end,
      'step', coalesce(max(s.last), 0),
      'finished', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'succeeded' and (p_execution.cancel_requested_at is null or c.finished_at < p_execution.cancel_requested_at)), '[]'),
      'finished_after_request', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'succeeded' and c.finished_at >= p_execution.cancel_requested_at), '[]'),
      'cut_off', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.effect <> 'unsafe' and (c.status = 'running' or (c.status = 'pending' and c.attempt > 0))), '[]'),
      'unknown', coalesce(jsonb_agg(c.tool_name order by c.position) filter (
        where c.status = 'unknown' or (c.status = 'running' and c.effect = 'unsafe')), '[]')))
    from (select max(t.step_number) as last from public.agent_steps t where t.execution_id = p_execution.id) s
    left join public.agent_tool_calls c on c.execution_id = p_execution.id and c.step_number = s.last);
end;
$$;

revoke execute on all functions in schema runhold from public;
