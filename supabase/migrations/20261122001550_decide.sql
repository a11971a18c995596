-- One decision about many reviews, each decided or refused on its own: what a console's "approve all" calls.
--
-- Every row goes through the same UPDATE that a single decision is, with the caller's own rights, so policies and triggers
-- say who may and whether it still can. Locks first: the person, all reviews in order of their ids, then all runs in order of
-- theirs. Two of these calls can't wait for each other crosswise, and nobody waits for a review while holding a run.

create function runhold.check_decide(p_ids uuid[]) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  if p_ids is null or cardinality(p_ids) not between 1 and 500 or array_ndims(p_ids) <> 1 then
    perform runhold.refuse('RH011', 'ids must name 1 to 500 reviews.', 'Decide about more in several calls.');
  end if;
  perform runhold.hold_people(array[runhold.require_person()]);  -- before the reviews, as for any decision
end;
$$;

-- Of the caller's: schema runhold can't be named in here.
create function runhold.decide(p_ids uuid[], p_status text, p_edited_input jsonb, p_answer jsonb, p_comment text) returns jsonb
language plpgsql volatile security invoker set search_path = ''
as $$
declare
  v_id uuid;
  v_status text;
  v_message text;
  v_verdicts jsonb := '{}';
begin
  for v_id in select distinct i.id from unnest(p_ids) i(id) order by i.id loop
    begin
      v_status := null;
      if p_edited_input is null then  -- naming the column would say: I saw what somebody changed
        update public.agent_reviews r set status = p_status, answer = p_answer, comment = p_comment
        where r.id = v_id returning r.status into v_status;
      else
        update public.agent_reviews r
        set status = p_status, edited_input = p_edited_input, answer = p_answer, comment = p_comment
        where r.id = v_id returning r.status into v_status;
      end if;
      v_verdicts := v_verdicts || jsonb_build_object(v_id, case
        when v_status is null then jsonb_build_object('verdict', 'refused', 'code', 'RH015',
          'message', 'There is no such review, or it is not yours to decide.')
        else jsonb_build_object('verdict', case v_status when 'pending' then 'counted' else v_status end) end);
    exception when others then
      if sqlstate not like 'RH%' and sqlstate <> '23514' then
        raise;  -- no refusal of this row: all or nothing, and the caller may repeat
      end if;
      get stacked diagnostics v_message = message_text;
      v_verdicts := v_verdicts || jsonb_build_object(v_id,
        jsonb_build_object('verdict', 'refused', 'code', sqlstate, 'message', v_message));
    end;
  end loop;
  return (select jsonb_agg('{"code": null, "message": null}' || (v_verdicts -> i.id::text) || jsonb_build_object('id', i.id)
                           order by i.n)
          from (select u.id, min(u.n) as n from unnest(p_ids) with ordinality u(id, n) group by u.id) i);
end;
$$;

create function public.agent_decide(
  ids uuid[], status text, edited_input jsonb default null, answer jsonb default null, comment text default null) returns jsonb
language sql volatile security invoker set search_path = ''
begin atomic
  select runhold.check_decide(agent_decide.ids);
  select from public.agent_reviews r where r.id = any (agent_decide.ids) order by r.id for no key update;
  select runhold.lock_executions(array(select r.execution_id from public.agent_reviews r where r.id = any (agent_decide.ids)));
  select runhold.decide(agent_decide.ids, agent_decide.status, agent_decide.edited_input, agent_decide.answer, agent_decide.comment);
end;

revoke execute on all functions in schema runhold from public;
revoke execute on function public.agent_decide(uuid[], text, jsonb, jsonb, text) from public, anon, authenticated, service_role;
grant execute on function runhold.check_decide(uuid[]), runhold.lock_executions(uuid[]),
  runhold.decide(uuid[], text, jsonb, jsonb, text) to authenticated;
grant execute on function public.agent_decide(uuid[], text, jsonb, jsonb, text) to authenticated;
