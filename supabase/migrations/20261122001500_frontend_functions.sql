-- What frontends call: submit, cancel, and reading a run's story.

create function runhold.submit(
  p_agent_type text, p_input_data jsonb, p_limits jsonb, p_wake_at timestamptz, p_idempotency_key text, p_metadata jsonb,
  p_user_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_user_id uuid := coalesce(p_user_id, auth.uid());
  v_run public.agent_executions;
begin
  if v_user_id is null then
    perform runhold.refuse('RH006', 'A run needs a user.', 'Sign in, or give user_id when calling with a secret key.');
  elsif not runhold.caller_is_service() and v_user_id is distinct from auth.uid() then
    raise exception using errcode = '42501', message = 'You can only start runs of your own.', hint = 'Leave user_id out.';
  end if;

  -- looked for first: the repeated key gets its run, also when the same row would be refused today
  select x.* into v_run from public.agent_executions x
  where x.user_id = v_user_id and x.idempotency_key = p_idempotency_key;
  if found then
    return to_jsonb(v_run);
  end if;

  insert into public.agent_executions (user_id, agent_type, input_data, limits, wake_at, idempotency_key, metadata)
  values (v_user_id, p_agent_type, p_input_data, p_limits, p_wake_at, p_idempotency_key, p_metadata)
  on conflict (user_id, idempotency_key) where idempotency_key is not null do nothing
  returning * into v_run;
  if v_run.id is null then
    select x.* into v_run from public.agent_executions x
    where x.user_id = v_user_id and x.idempotency_key = p_idempotency_key;
  end if;
  return to_jsonb(v_run);
end;
$$;

create function public.agent_submit(
  agent_type text, input_data jsonb, limits jsonb default null, wake_at timestamptz default null,
  idempotency_key text default null, metadata jsonb default null, user_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.submit(agent_type, input_data, limits, wake_at, idempotency_key, metadata, user_id);
end;

-- Is the caller an operator for this tenant and type, or the service?
create function runhold.may_operate(p_tenant_id text, p_agent_type text) returns boolean
language sql stable security definer set search_path = ''
return runhold.caller_is_service() or exists (
  select from runhold.reviewers r
  where r.user_id = auth.uid() and r.role = 'operator'
    and (r.tenant_id is null or r.tenant_id = p_tenant_id) and (r.agent_type is null or r.agent_type = p_agent_type));

-- May the caller steer this run? Its owner, its operators and the service may.
create function runhold.may_steer(p_user_id uuid, p_tenant_id text, p_agent_type text) returns boolean
language sql stable security definer set search_path = ''
return coalesce(p_user_id = auth.uid(), false) or runhold.may_operate(p_tenant_id, p_agent_type);

-- The run, if the caller may steer it. Looked at before it is locked: strangers must not be able to hold a run's row, or
-- learn that it exists.
create function runhold.steered(p_execution_id uuid) returns public.agent_executions
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_run public.agent_executions;
begin
  select x.* into v_run from public.agent_executions x where x.id = p_execution_id;
  if not found or not runhold.may_steer(v_run.user_id, v_run.tenant_id, v_run.agent_type) then
    perform runhold.refuse('RH006', 'There is no such run, or it is not yours.', 'Check the id and who is signed in.');
  end if;
  return v_run;
end;
$$;

-- The same, locked, as it is under the lock. The people come first, as for whoever erases one of them: what follows may
-- refer to the owner or the caller.
create function runhold.lock_steered(p_execution_id uuid) returns public.agent_executions
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_run public.agent_executions := runhold.steered(p_execution_id);
begin
  perform runhold.hold_people(array[v_run.user_id, auth.uid()]);
  select x.* into v_run from public.agent_executions x where x.id = p_execution_id for no key update;
  if not found or not runhold.may_steer(v_run.user_id, v_run.tenant_id, v_run.agent_type) then
    perform runhold.refuse('RH006', 'There is no such run, or it is not yours.', 'It, or your account, was deleted at this instant.');
  end if;
  return v_run;
end;
$$;

create function runhold.cancel(p_execution_id uuid, p_reason text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_run public.agent_executions := runhold.lock_steered(p_execution_id);
begin
  if auth.uid() is distinct from v_run.user_id then  -- one's own run may always be cancelled
    perform runhold.require_caller_may_act();
  end if;
  p_reason := left(p_reason, 2000);
  perform runhold.set_reasons(jsonb_build_object(p_execution_id, p_reason));

  if v_run.status = 'running' and v_run.cancel_requested_at is null then
    update public.agent_executions x set cancel_requested_at = runhold.now() where x.id = p_execution_id;
  elsif v_run.status in ('pending', 'awaiting_review') then
    update public.agent_executions x
    set status = 'cancelled', cancel_requested_at = runhold.now(),
        error_detail = runhold.cancel_detail(x)
    where x.id = p_execution_id;
    perform runhold.close_reviews(array[p_execution_id]);
  end if;
  return (select runhold.compact(jsonb_build_object(
            'id', x.id, 'status', x.status, 'cancel_requested', x.cancel_requested_at is not null,
            'detail', case when x.status = 'cancelled' then x.error_detail end))
          from public.agent_executions x where x.id = p_execution_id);
end;
$$;

create function public.agent_cancel(execution_id uuid, reason text default null) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.cancel(execution_id, reason);
end;

-- The whole story of a run, oldest first, over what the caller may see.
create function public.agent_timeline(execution_id uuid) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select coalesce(jsonb_agg(jsonb_build_object('at', t.at, 'kind', t.kind) || t.what order by t.at, t.rank, t.n), '[]')
  from (
    select e.at, 'event' as kind, 0 as rank, e.id as n, jsonb_build_object(
      'event', e.kind, 'actor_kind', e.actor_kind, 'actor_id', e.actor_id, 'data', e.data) as what
    from public.agent_events e where e.execution_id = agent_timeline.execution_id
    union all
    select s.created_at, 'step', 1, s.step_number, jsonb_build_object(
      'step_number', s.step_number, 'message', s.message, 'injected', s.injected, 'finish_reason', s.finish_reason,
      'definition_id', s.definition_id, 'input_tokens', s.input_tokens, 'output_tokens', s.output_tokens,
      'cached_tokens', s.cached_tokens, 'usage_estimated', s.usage_estimated, 'cost_usd', s.cost_usd,
      'latency_ms', s.latency_ms, 'attempt', s.attempt, 'worker_id', s.worker_id)
    from public.agent_steps s where s.execution_id = agent_timeline.execution_id
    union all
    select c.called_at, 'tool_call', 2, c.step_number * 1000 + c.position, jsonb_build_object(
      'id', c.id, 'step_number', c.step_number, 'position', c.position, 'tool_name', c.tool_name, 'tool_input', c.tool_input,
      'tool_output', c.tool_output, 'status', c.status, 'cut_off', c.cut_off, 'error', c.error, 'effect', c.effect, 'edited', c.edited,
      'attempt', c.attempt, 'latency_ms', c.latency_ms, 'finished_at', c.finished_at)
    from public.agent_tool_calls c where c.execution_id = agent_timeline.execution_id
    union all
    select r.requested_at, 'review', 3, c.step_number * 1000 + c.position, jsonb_build_object(
      'id', r.id, 'tool_call_id', r.tool_call_id, 'review_kind', r.kind, 'tool_name', r.tool_name, 'summary', r.summary, 'status', r.status,
      'proposed_input', r.proposed_input, 'edited_input', r.edited_input, 'answer', r.answer, 'comment', r.comment,
      'decided_at', r.decided_at, 'reviewer_id', r.reviewer_id, 'expires_at', r.expires_at, 'escalated_at', r.escalated_at,
      'used_at', r.used_at)
    from public.agent_reviews r left join public.agent_tool_calls c on c.id = r.tool_call_id
    where r.execution_id = agent_timeline.execution_id
    union all
    select m.created_at, 'message', 4, 0, jsonb_build_object(
      'id', m.id, 'sender_id', m.sender_id, 'content', m.content, 'delivered_step', m.delivered_step)
    from public.agent_messages m where m.execution_id = agent_timeline.execution_id
  ) t;
end;

-- What a reviewer must see to decide: the run behind the review. Tables keep the owner's policy only.
create function runhold.review_context(p_review_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_review public.agent_reviews;
begin
  select r.* into v_review from public.agent_reviews r where r.id = p_review_id;
  if not found or not (runhold.caller_is_service() or coalesce(v_review.user_id = auth.uid(), false)
                       or runhold.may_review(v_review.tenant_id, v_review.agent_type, v_review.tool_name)) then
    perform runhold.refuse('RH015', 'There is no such review, or it is not yours to see.', 'Check the id and who is signed in.');
  end if;
  return jsonb_build_object(
    'review', to_jsonb(v_review),
    'run', (select jsonb_build_object(
              'id', x.id, 'user_id', x.user_id, 'agent_type', x.agent_type, 'status', x.status, 'input_data', x.input_data,
              'created_at', x.created_at, 'step_count', x.step_count, 'token_count', x.token_count, 'cost_usd', x.cost_usd)
            from public.agent_executions x where x.id = v_review.execution_id),
    'steps', runhold.steps_json(v_review.execution_id),
    'tool_calls', runhold.calls_json(v_review.execution_id),
    'decisions', (select coalesce(jsonb_agg(to_jsonb(d) order by d.id), '[]')
                  from public.agent_review_decisions d where d.execution_id = v_review.execution_id));
end;
$$;

create function public.agent_review_context(review_id uuid) returns jsonb
language sql stable security invoker set search_path = ''
begin atomic
  select runhold.review_context(review_id);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_submit(text, jsonb, jsonb, timestamptz, text, jsonb, uuid), public.agent_cancel(uuid, text),
  public.agent_timeline(uuid), public.agent_review_context(uuid) from public, anon, authenticated;
grant execute on function runhold.submit(text, jsonb, jsonb, timestamptz, text, jsonb, uuid), runhold.cancel(uuid, text),
  runhold.review_context(uuid) to authenticated, service_role;
grant execute on function public.agent_submit(text, jsonb, jsonb, timestamptz, text, jsonb, uuid), public.agent_cancel(uuid, text),
  public.agent_timeline(uuid), public.agent_review_context(uuid) to authenticated, service_role;
