-- What happened in this run, who did it, and who allowed it?
--
-- Put the run's id in the first line. Columns: at, what, who, and the particulars: changes of state, steps of the model,
-- tool calls, and every decision with what was asked, what the reviewer changed and said. Oldest first.
-- Cost: one run's rows by index; milliseconds. For programs: agent_timeline(execution_id), as JSON.
-- Bad answer: no rows → the id is wrong, or the run was pruned or erased with its user. A call of an unsafe tool without a
-- decision → the tool was not gated then: see agent_definitions of the step, and agent_types.approval_tools.

with asked(id) as (values ('00000000-0000-0000-0000-000000000000'::uuid))
select e.at, e.kind as what, coalesce(e.actor_kind || ' ' || coalesce(u.email, e.actor_id::text), e.actor_kind) as who, e.data as particulars
from asked join public.agent_events e on e.execution_id = asked.id left join auth.users u on u.id = e.actor_id
union all
select s.created_at, 'step ' || s.step_number, 'model ' || d.model || ', ' || d.agent_type || ' version ' || d.version,
       jsonb_build_object('message', s.message, 'tokens', s.input_tokens + s.output_tokens, 'cost_usd', s.cost_usd)
from asked join public.agent_steps s on s.execution_id = asked.id join public.agent_definitions d on d.id = s.definition_id
union all
select c.called_at, 'call ' || c.step_number || '.' || c.position || ' ' || c.tool_name, 'agent',
       jsonb_build_object('effect', c.effect, 'input', c.tool_input, 'edited', c.edited, 'status', c.status, 'output', c.tool_output, 'error', c.error)
from asked join public.agent_tool_calls c on c.execution_id = asked.id
union all
select n.decided_at, 'decision: ' || n.decision, coalesce(u.email, n.reviewer_id::text, 'a person who was erased'),
       jsonb_build_object('kind', r.kind, 'tool', r.tool_name, 'asked', r.proposed_input, 'hash', r.input_hash,
                          'changed_to', n.edited_input, 'answer', n.answer, 'comment', n.comment, 'used_at', r.used_at)
from asked join public.agent_review_decisions n on n.execution_id = asked.id
join public.agent_reviews r on r.id = n.review_id left join auth.users u on u.id = n.reviewer_id
order by 1;
