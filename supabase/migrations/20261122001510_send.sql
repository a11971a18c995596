-- agent_send: what people say to a living run. The model reads it at its next step; a final answer that was given before is
-- answered "continue" (20261122001100_record.sql).
--
-- Locks: the run's row, as the completing record does. Either the sender finds the run ended, or the record the message.

create function runhold.send(p_execution_id uuid, p_content text) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  c_max_bytes constant integer := 65536;
  c_max_waiting constant integer := 100;
  v_run public.agent_executions;
  v_message public.agent_messages;
begin
  v_run := runhold.lock_steered(p_execution_id);
  perform runhold.require_both_may_act(v_run);
  if runhold.is_final(v_run.status) then
    perform runhold.refuse('RH014', format('This run has already ended (%s).', v_run.status),
      case v_run.status when 'failed' then 'agent_retry takes it up again; send the message then.'
                        else 'Start a new run, or fork this one.' end);
  elsif v_run.cancel_requested_at is not null then
    perform runhold.refuse('RH014', 'This run is being cancelled.', 'Start a new run, or fork this one.');
  elsif coalesce(btrim(p_content, E' \t\r\n'), '') = '' then
    perform runhold.refuse('RH016', 'The message is empty.', 'Send some text as content.');
  elsif octet_length(p_content) > c_max_bytes then
    perform runhold.refuse('RH016', format('The message has %s bytes; at most %s (64 KiB) are allowed.', octet_length(p_content), c_max_bytes),
      'Put large content into Storage and send a reference.');
  elsif (select count(*) from public.agent_messages m where m.execution_id = v_run.id and m.delivered_step is null) >= c_max_waiting then
    perform runhold.refuse('RH017', format('%s messages are waiting for this run already.', c_max_waiting),
      'Wait until the model has read them.');
  end if;

  insert into public.agent_messages (execution_id, user_id, sender_id, content, created_at)
  values (v_run.id, v_run.user_id, auth.uid(), p_content, runhold.now())
  returning * into v_message;
  return jsonb_build_object('id', v_message.id, 'execution_id', v_message.execution_id, 'created_at', v_message.created_at);
end;
$$;

create function public.agent_send(execution_id uuid, content text) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.send(execution_id, content);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_send(uuid, text) from public, anon, authenticated;
grant execute on function runhold.send(uuid, text) to authenticated, service_role;
grant execute on function public.agent_send(uuid, text) to authenticated, service_role;
