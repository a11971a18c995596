-- Starting stored calls: at most once per approval, and exactly what was approved.

-- Sets a stored call to running, using its approval up if it needed one. Answers what to run.
create function runhold.start_call(p_execution_id uuid, p_step_number integer, p_position integer) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_call public.agent_tool_calls;
  v_review public.agent_reviews;
  v_reason text;
begin
  select c.* into v_call from public.agent_tool_calls c
  where c.execution_id = p_execution_id and c.step_number = p_step_number and c.position = p_position;

  if v_call.status = 'awaiting_review' then
    -- whoever holds a run never waits for a review: one that is being changed at this instant is not approved yet
    select r.* into v_review from public.agent_reviews r
    where r.tool_call_id = v_call.id and r.status = 'approved' and r.used_at is null
      and r.kind in ('approval', 'unknown_outcome')
      and not exists (select from public.agent_reviews a where a.tool_call_id = v_call.id and a.status = 'pending')
    order by r.decided_at desc limit 1 for update skip locked;
    if not found then
      v_reason := 'not_approved';
    elsif v_review.input_hash is distinct from runhold.input_hash(v_call) then
      v_reason := 'changed_since_review';
    else
      update public.agent_reviews r set used_at = runhold.now() where r.id = v_review.id;
      if v_review.edited_input is not null then
        v_call.edited := v_call.edited or v_review.edited_input <> v_call.tool_input;
        v_call.tool_input := v_review.edited_input;
      end if;
    end if;
  elsif v_call.status is null or v_call.status <> 'pending' then
    v_reason := 'not_pending';
  elsif runhold.is_gated(v_call) then
    perform runhold.open_review(v_call.id, 'approval', runhold.gate_summary(v_call));
    v_reason := 'not_approved';
  end if;

  if v_reason is null then
    update public.agent_tool_calls c
    set status = 'running', attempt = c.attempt + 1, tool_input = v_call.tool_input, edited = v_call.edited
    where c.id = v_call.id;
  end if;
  return runhold.started_json(p_execution_id, p_step_number, p_position, v_reason);
end;
$$;

create function runhold.started_json(p_execution_id uuid, p_step_number integer, p_position integer, p_reason text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  return jsonb_build_object('step_number', p_step_number, 'position', p_position) || coalesce((
    select jsonb_build_object('taken', c.status = 'running' and p_reason is null, 'input', c.tool_input, 'edited', c.edited,
                              'attempt', c.attempt, 'reason', coalesce(p_reason, case
                                when c.status = 'awaiting_review' then 'not_approved' when c.status <> 'running' then 'not_pending' end))
    from public.agent_tool_calls c
    where c.execution_id = p_execution_id and c.step_number = p_step_number and c.position = p_position),
    jsonb_build_object('taken', false, 'reason', 'no_such_call'));
end;
$$;

create function runhold.store_starts(p_entry runhold.judged_entry) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_start record;
  v_started jsonb := '[]';
begin
  for v_start in select * from jsonb_to_recordset(coalesce(p_entry.body -> 'starts', '[]')) s(step_number integer, position integer) loop
    v_started := v_started || case
      when p_entry.verdict = 'duplicate'
        then runhold.started_json(p_entry.execution_id, v_start.step_number, v_start.position, null)
      else runhold.start_call(p_entry.execution_id, v_start.step_number, v_start.position) end;
  end loop;
  return v_started;
end;
$$;

revoke execute on all functions in schema runhold from public;
