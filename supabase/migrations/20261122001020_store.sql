-- Storing what entries tell: steps, calls, results, questions. Set-based: a statement per kind, whatever the number of runs.

create function runhold.store_steps(p_worker_id uuid, p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_now timestamptz := runhold.now();
begin
  insert into public.agent_steps (
    execution_id, step_number, user_id, definition_id, message, injected, finish_reason, input_tokens, output_tokens,
    cached_tokens, usage_estimated, streamed, cost_usd, latency_ms, attempt, worker_id, max_output_tokens, landing, created_at)
  select e.execution_id, s.step_number, e.user_id, s.definition_id, s.message, nullif(s.injected, '[]'), s.finish_reason,
         s.input_tokens, s.output_tokens, coalesce(s.cached_tokens, 0), coalesce(s.usage_estimated, false), coalesce(s.streamed, false),
         coalesce(s.cost_usd, 0), s.latency_ms, e.attempt, p_worker_id, s.max_output_tokens, s.landing, v_now
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'steps') s(
    step_number integer, definition_id uuid, message jsonb, injected jsonb, finish_reason text, input_tokens integer,
    output_tokens integer, cached_tokens integer, usage_estimated boolean, streamed boolean, cost_usd numeric, latency_ms integer,
    max_output_tokens bigint, landing text)
  where e.verdict in ('ok', 'stop', 'late');
end;
$$;

create function runhold.mark_delivered(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_messages m set delivered_step = (s ->> 'step_number')::integer
  from unnest(p_entries) e cross join lateral jsonb_array_elements(e.body -> 'steps') s
  where e.verdict in ('ok', 'stop', 'late') and m.execution_id = e.execution_id and m.delivered_step is null
    and m.id in (select d::uuid from jsonb_array_elements_text(nullif(s -> 'delivered', 'null')) d);
end;
$$;

create function runhold.store_calls(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_now timestamptz := runhold.now();
begin
  insert into public.agent_tool_calls (
    execution_id, step_number, position, call_id, user_id, tool_name, tool_input, effect, status, tool_output, shown, error,
    latency_ms, attempt, called_at, finished_at)
  select e.execution_id, c.step_number, c.position, c.call_id, e.user_id, c.tool_name, coalesce(c.input, '{}'), c.effect, c.status,
         c.output, c.shown, c.error, c.latency_ms, case when c.status in ('pending', 'awaiting_review') then 0 else 1 end,
         v_now, case when c.status in ('succeeded', 'failed', 'rejected') then v_now end
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'calls') c(
    step_number integer, position integer, call_id text, tool_name text, input jsonb, effect text, status text, output jsonb,
    shown text, error text, latency_ms integer)
  where e.verdict = 'ok' or (e.verdict in ('stop', 'late') and c.status not in ('pending', 'awaiting_review', 'running'));
end;
$$;

create function runhold.store_results(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  update public.agent_tool_calls c
  set status = r.status, tool_output = r.output, shown = r.shown, error = r.error, latency_ms = r.latency_ms, cut_off = null,
      finished_at = case when r.status <> 'unknown' then runhold.now() end
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'results') r(
    step_number integer, position integer, status text, output jsonb, shown text, error text, latency_ms integer)
  where e.verdict in ('ok', 'stop', 'late')
    and c.execution_id = e.execution_id and c.step_number = r.step_number and c.position = r.position
    -- a late result may also settle what was unknown, or cut off, when the run ended
    and (c.status in ('pending', 'running') or (e.verdict = 'late' and (c.status = 'unknown' or c.cut_off in ('pending', 'running'))));
end;
$$;

-- What exactly is asked: the same bytes when the question is put and when its approval is used.
create function runhold.input_hash(p_call public.agent_tool_calls) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
  return (
    select encode(sha256(convert_to(jsonb_build_array(
             p_call.tool_name, p_call.tool_input, p_call.step_number, p_call.position,
             (select t -> 'parameters' from jsonb_array_elements(d.tools) t where t ->> 'name' = p_call.tool_name limit 1))::text, 'UTF8')), 'hex')
    from public.agent_steps s join public.agent_definitions d on d.id = s.definition_id
    where s.execution_id = p_call.execution_id and s.step_number = p_call.step_number);
end;
$$;

-- Puts a question about a call, unless one is open already. Used by record, by the sweep and by retries, which hold the run.
create function runhold.open_review(p_call_id uuid, p_kind text, p_summary text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_call public.agent_tool_calls;
begin
  if exists (select from public.agent_reviews r where r.tool_call_id = p_call_id and r.status = 'pending') then
    return;
  end if;
  if p_kind <> 'unknown_outcome' then
    update public.agent_tool_calls c set status = 'awaiting_review' where c.id = p_call_id and c.status in ('pending', 'running');
  end if;
  select c.* into v_call from public.agent_tool_calls c where c.id = p_call_id;
  insert into public.agent_reviews (
    execution_id, tool_call_id, user_id, tenant_id, kind, agent_type, tool_name, summary, proposed_input, input_hash,
    approvals_needed, requested_at, expires_at)
  select x.id, v_call.id, x.user_id, x.tenant_id, p_kind, x.agent_type, v_call.tool_name, p_summary, v_call.tool_input,
         runhold.input_hash(v_call), case when p_kind = 'approval' then t.approvals_needed else 1 end, runhold.now(), runhold.now() + coalesce(t.review_ttl, d.review_ttl)
  from public.agent_executions x
  join public.agent_types t on t.name = x.agent_type
  left join public.agent_definitions d on d.id = coalesce(x.definition_id, t.definition_id)
  where x.id = v_call.execution_id;
  update public.agent_executions x set review_count = x.review_count + 1 where x.id = v_call.execution_id;
end;
$$;

create function runhold.store_reviews(p_entries runhold.judged_entry[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform runhold.open_review(c.id, r.kind, coalesce(r.summary, ''))
  from unnest(p_entries) e
  cross join lateral jsonb_to_recordset(e.body -> 'reviews') r(step_number integer, position integer, kind text, summary text)
  join public.agent_tool_calls c
    on c.execution_id = e.execution_id and c.step_number = r.step_number and c.position = r.position
  where e.verdict = 'ok'
  order by e.execution_id, r.step_number, r.position;

  -- every call that became unknown asks a person; where one said "stop" before, that stands
  perform runhold.open_review(c.id, 'unknown_outcome', format('Did %s happen? %s', c.tool_name, coalesce(c.error, '')))
  from unnest(p_entries) e
  join public.agent_tool_calls c on c.execution_id = e.execution_id and c.status = 'unknown'
  where e.verdict = 'ok' and not runhold.is_answered_stop(c.id)
    and (exists (select from jsonb_array_elements(e.body -> 'results') r where r ->> 'status' = 'unknown')
      or exists (select from jsonb_array_elements(e.body -> 'calls') r where r ->> 'status' = 'unknown'))
  order by e.execution_id, c.step_number, c.position;
end;
$$;

revoke execute on all functions in schema runhold from public;
