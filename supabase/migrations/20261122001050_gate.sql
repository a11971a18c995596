-- agent_types.approval_tools gates a tool without a deploy. Workers hear of a change by their heartbeats, running runs follow;
-- here is the last word: nothing that a worker records starts a gated call that nobody approved.
--
-- A new call, or the start of a stored one, is put to awaiting_review instead, with a review, and the verdict is "continue":
-- the worker takes the run's present calls and reviews, and runs what still runs. A call of a read tool may have started before
-- its record came here; it is stored as it is, and the gate holds from the worker's next heartbeat on.

-- Must a person agree to this stored call first, and nobody has? An approval that was used covers every attempt of its call: what
-- the person agreed to is that this happens, under one idempotency key. ask_person asks a person anyway.
create function runhold.is_gated(p_call public.agent_tool_calls) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return p_call.tool_name <> 'ask_person'
    and exists (select from public.agent_executions x join public.agent_types t on t.name = x.agent_type
                where x.id = p_call.execution_id and p_call.tool_name = any (t.approval_tools))
    and not exists (select from public.agent_reviews r
                    where r.tool_call_id = p_call.id and r.kind in ('approval', 'unknown_outcome') and r.used_at is not null);
end;
$$;

-- What the person reads in a list: the arguments stand in proposed_input.
create function runhold.gate_summary(p_call public.agent_tool_calls) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_said text := format('%s(%s)', p_call.tool_name, (
    select string_agg(format('%s=%s', a.key, case
             when a.value ? '$redacted' then '[redacted]'
             when length(a.value::text) > 60 then left(a.value::text, 59) || '…'
             else a.value::text end), ', ')
    from jsonb_each(case when jsonb_typeof(p_call.tool_input) = 'object' then p_call.tool_input else '{}' end) a));
begin
  v_said := case when p_call.attempt > 0 then 'It was begun before approval was needed, and cut off. ' else '' end || v_said;
  return case when length(v_said) > 200 then left(v_said, 199) || '…' else v_said end;
end;
$$;

-- Asks about the new calls among these entries that are gated. Answers their runs.
create function runhold.gate_calls(p_entries runhold.judged_entry[]) returns uuid[]
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_call public.agent_tool_calls;
  v_runs uuid[] := '{}';
begin
  if not exists (select from public.agent_types t where t.approval_tools <> '{}') then
    return v_runs;
  end if;
  for v_call in
    select c.* from unnest(p_entries) e
    cross join lateral jsonb_array_elements(e.body -> 'calls') n
    join public.agent_tool_calls c
      on c.execution_id = e.execution_id and c.step_number = (n ->> 'step_number')::integer and c.position = (n ->> 'position')::integer
    where e.verdict = 'ok' and (c.status = 'pending' or (c.status = 'running' and c.effect <> 'read')) and runhold.is_gated(c)
    order by c.execution_id, c.step_number, c.position
  loop
    update public.agent_tool_calls c set attempt = 0 where c.id = v_call.id returning c.* into v_call;
    perform runhold.open_review(v_call.id, 'approval', runhold.gate_summary(v_call));
    v_runs := v_runs || v_call.execution_id;
  end loop;
  return v_runs;
end;
$$;

-- An entry that is told again: did a call of it, meant to run, come to wait for a person instead? The answer is the same then.
create function runhold.is_held_back(p_entry runhold.judged_entry) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
  return exists (
    select from jsonb_array_elements(coalesce(p_entry.body -> 'calls', '[]') || coalesce(p_entry.body -> 'starts', '[]')) i
    join public.agent_tool_calls c
      on c.execution_id = p_entry.execution_id and c.step_number = (i ->> 'step_number')::integer and c.position = (i ->> 'position')::integer
    where coalesce(i ->> 'status', 'pending') in ('pending', 'running')  -- the item of a start has none
      and c.status in ('awaiting_review', 'rejected')
      and exists (select from public.agent_reviews r where r.tool_call_id = c.id and r.kind = 'approval'));
end;
$$;

revoke execute on all functions in schema runhold from public;
