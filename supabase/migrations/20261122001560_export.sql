-- agent_export: everything that is stored of one run, for an auditor. The CLI seals it with a chain of hashes
-- (docs/reference/export.md); nothing here depends on how.
--
-- Each record is a JSON *text*: numbers that no float can hold, and texts in any script, pass clients unchanged. Rows are
-- whole, so that a new column is in the export from the first day.

-- What the agent was, for this caller: instructions, tools and parameters are the service's alone, as in the tables. The
-- hash, which everybody gets, says which definition it was.
create function runhold.exported_definition(p_definition public.agent_definitions, p_whole boolean) returns jsonb
language sql stable set search_path = ''
return case when p_whole then to_jsonb(p_definition) else
  to_jsonb(p_definition) - array['instructions', 'tools', 'params'] || '{"withheld": ["instructions", "params", "tools"]}' end;

-- One statement, so one instant: what is recorded meanwhile is in it altogether or not at all. Times are in UTC.
create function runhold.export(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = '' set timezone = 'UTC'
as $$
declare
  v_run public.agent_executions := runhold.steered(p_execution_id);
  v_service boolean := runhold.caller_is_service();
begin
  if not v_service and v_run.user_id is distinct from auth.uid() then  -- operators steer runs whose content they can not read
    perform runhold.refuse('RH006', 'There is no such run, or it is not yours.', 'Its user, or the service, may export it.');
  end if;
  return (
    select jsonb_build_object(
      'execution_id', v_run.id, 'exported_at', runhold.now(),
      'exported_by', runhold.compact(jsonb_build_object(
        'kind', case when v_service then 'service' else 'owner' end,
        'id', case when not v_service then auth.uid() end)),
      'records', jsonb_agg(jsonb_build_object('kind', r.kind, 'row', r.content)::text order by r.rank, r.at, r.n, r.position, r.id))
    from (
      select 1 as rank, 'execution' as kind, to_jsonb(x) as content, null::timestamptz as at, null::bigint as n, null::integer as position, x.id
      from public.agent_executions x where x.id = p_execution_id
      union all
      select 2, 'definition', runhold.exported_definition(d, v_service), d.created_at, null, null, d.id
      from public.agent_definitions d
      where d.id in (select s.definition_id from public.agent_steps s where s.execution_id = p_execution_id)
      union all
      select 3, 'step', to_jsonb(s), null, s.step_number, null, null
      from public.agent_steps s where s.execution_id = p_execution_id
      union all
      select 4, 'tool_call', to_jsonb(c), null, c.step_number, c.position, c.id
      from public.agent_tool_calls c where c.execution_id = p_execution_id
      union all
      select 5, 'review', to_jsonb(r), r.requested_at, null, null, r.id
      from public.agent_reviews r where r.execution_id = p_execution_id
      union all
      select 6, 'decision', to_jsonb(d), null, d.id, null, null
      from public.agent_review_decisions d where d.execution_id = p_execution_id
      union all
      select 7, 'message', to_jsonb(m), m.created_at, null, null, m.id
      from public.agent_messages m where m.execution_id = p_execution_id
      union all
      select 8, 'event', to_jsonb(e), null, e.id, null, null
      from public.agent_events e where e.execution_id = p_execution_id
    ) r);
end;
$$;

create function public.agent_export(execution_id uuid) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.export(execution_id);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_export(uuid) from public, anon, authenticated;
grant execute on function runhold.export(uuid) to authenticated, service_role;
grant execute on function public.agent_export(uuid) to authenticated, service_role;
