"""What must be true of runs in the database, as queries for what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, LiteralString

RULES: Final[Mapping[str, LiteralString]] = {
    "a run that is not there any more": """
        select s.id as run, 'it was submitted' as what from unnest(%(runs)s::uuid[]) s (id)
        where not exists (select from agent_executions x where x.id = s.id)""",
    "a run that ended twice": """
        select execution_id as run, string_agg(kind, ', ' order by id) as what from agent_events
        where execution_id = any (%(runs)s::uuid[]) and kind in ('completed', 'failed', 'cancelled', 'retried')
        group by execution_id
        having count(*) filter (where kind <> 'retried') > 1 + count(*) filter (where kind = 'retried')""",
    "a run that nothing will ever change": """
        select x.id as run, x.status || case x.status
            when 'running' then ', and its worker is dead'
            when 'awaiting_review' then ', and nobody is asked'
            else ', and no worker has its type' end as what
        from agent_executions x left join agent_workers w on w.id = x.worker_id
        where x.id = any (%(runs)s::uuid[]) and (
          x.status = 'running' and (w.id is null or w.dead_at is not null)
          or x.status = 'awaiting_review' and not exists (
            select from agent_reviews r where r.execution_id = x.id and r.status = 'pending')
          or x.status = 'pending' and not exists (
            select from agent_types t where t.name = x.agent_type and t.definition_id is not null))""",
    "steps with a gap": """
        select x.id as run, format('step_count is %%s, steps are %%s', x.step_count, s.numbers) as what
        from agent_executions x
        cross join lateral (
          select coalesce(array_agg(s.step_number order by s.step_number), '{}') as numbers
          from agent_steps s where s.execution_id = x.id) s
        where x.id = any (%(runs)s::uuid[]) and s.numbers <> array(select generate_series(1, x.step_count))""",
    "a decision whose calls are not those recorded": """
        select s.execution_id as run, format('step %%s', s.step_number) as what
        from agent_steps s join agent_executions x on x.id = s.execution_id
        where s.execution_id = any (%(runs)s::uuid[])
          and x.status = 'completed'
          and array(select c ->> 'id' from jsonb_array_elements(s.message -> 'tool_calls') c order by 1)
            <> array(select c.call_id from agent_tool_calls c
                     where c.execution_id = s.execution_id and c.step_number = s.step_number order by 1)""",
    "a call without its step": """
        select c.execution_id as run, format('%%s, step %%s', c.tool_name, c.step_number) as what
        from agent_tool_calls c
        where c.execution_id = any (%(runs)s::uuid[]) and not exists (
          select from agent_steps s where s.execution_id = c.execution_id and s.step_number = c.step_number)""",
    "a call that an ended run left open": """
        select c.execution_id as run, format('%%s is %%s', c.tool_name, c.status) as what
        from agent_tool_calls c join agent_executions x on x.id = c.execution_id
        where x.id = any (%(runs)s::uuid[]) and x.completed_at is not null
          and c.status in ('pending', 'awaiting_review', 'running')""",
    "a completed run with a call of unknown outcome": """
        select c.execution_id as run, c.tool_name as what
        from agent_tool_calls c join agent_executions x on x.id = c.execution_id
        where x.id = any (%(runs)s::uuid[]) and x.status = 'completed' and c.status = 'unknown'""",
    "a question about an ended run": """
        select r.execution_id as run, format('%%s about %%s', r.kind, r.tool_name) as what
        from agent_reviews r join agent_executions x on x.id = r.execution_id
        where x.id = any (%(runs)s::uuid[]) and x.completed_at is not null and r.status = 'pending'""",
    "counters that do not add up": """
        select x.id as run, format('tokens %%s of %%s, calls %%s of %%s, reviews %%s of %%s', x.token_count, s.tokens,
                                   x.tool_call_count, c.calls, x.review_count, r.reviews) as what
        from agent_executions x
        cross join lateral (select coalesce(sum(s.input_tokens + s.output_tokens), 0) as tokens
                            from agent_steps s where s.execution_id = x.id) s
        cross join lateral (select count(*) as calls from agent_tool_calls c where c.execution_id = x.id) c
        cross join lateral (select count(*) as reviews from agent_reviews r where r.execution_id = x.id) r
        where x.id = any (%(runs)s::uuid[])
          and (x.token_count, x.tool_call_count, x.review_count) <> (s.tokens, c.calls, r.reviews)""",
}
"""What is wrong → the rows that are: ``run``, and ``what`` exactly."""

CALLS: Final[LiteralString] = """
    select c.execution_id::text as run, c.step_number, c.position, c.tool_name, c.effect, c.status,
      (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.kind = 'unknown_outcome'
         and r.status = 'approved' and r.answer ->> 'outcome' = 'again' and r.used_at is not null) as again,
      (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.kind = 'unknown_outcome'
         and r.status = 'approved' and r.answer ->> 'outcome' = 'happened') as said_so,
      (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.kind = 'approval') as asked,
      (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.kind = 'approval'
         and r.used_at is not null) as used,
      (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.kind = 'unknown_outcome') as doubted
    from agent_tool_calls c join agent_executions x on x.id = c.execution_id
    where x.id = any (%(runs)s::uuid[]) and c.step_number > x.copied_steps"""
"""Every call that was not copied from another run, and what people said about it."""

READS: Final[LiteralString] = """
    select distinct t ->> 'name' as name
    from agent_definitions d cross join jsonb_array_elements(d.tools) t
    where t ->> 'effect' = 'read'
      and d.agent_type in (select x.agent_type from agent_executions x where x.id = any (%(runs)s::uuid[]))"""
"""The tools that may run while their step is being recorded: killed in between, they leave no call."""
