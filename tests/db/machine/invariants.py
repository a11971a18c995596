"""What must hold of the rows at every moment between two transactions, asked in SQL; and: does everything come to an end?"""

from __future__ import annotations

from collections.abc import Callable

from world import DEFINITION, Row, Worker, World, result

BROKEN = """
with call as (
  select c.*, x.status as run_status, x.completed_at is not null as run_ended,
         (select count(*) from agent_reviews r where r.tool_call_id = c.id and r.used_at is not null
          and (r.kind = 'approval' or r.answer ->> 'outcome' = 'again')) as used,
         -- asked before it ever ran
         coalesce((select r.kind = 'approval' from agent_reviews r where r.tool_call_id = c.id
                   order by r.requested_at limit 1), false) as gated
  from agent_tool_calls c join agent_executions x on x.id = c.execution_id
  where c.step_number > coalesce(x.copied_steps, 0)  -- what a fork copied was decided and done at its source
), change as (
  select e.execution_id, e.id, case e.kind
           when 'submitted' then 'pending' when 'forked' then 'pending' when 'requeued' then 'pending'
           when 'resumed' then 'pending' when 'retried' then 'pending' when 'claimed' then 'running'
           when 'paused' then 'awaiting_review' else e.kind end as status
  from agent_events e
  where e.kind in ('submitted', 'forked', 'requeued', 'resumed', 'retried', 'claimed', 'paused', 'completed', 'failed', 'cancelled')
), chain as (
  select c.*, lag(c.status) over w as before, lead(c.id) over w is null as last
  from change c window w as (partition by c.execution_id order by c.id)
), summed as (
  select x.id, x.step_count, x.token_count, x.cost_usd, x.tool_call_count, x.tool_error_count, x.review_count,
         (select count(*) from agent_steps s where s.execution_id = x.id) as steps,
         (select coalesce(sum(s.input_tokens + s.output_tokens), 0) from agent_steps s where s.execution_id = x.id) as tokens,
         (select coalesce(sum(s.cost_usd), 0) from agent_steps s where s.execution_id = x.id) as usd,
         (select count(*) from agent_tool_calls c where c.execution_id = x.id) as calls,
         (select count(*) from agent_tool_calls c where c.execution_id = x.id and c.status = 'failed' and c.cut_off is null) as errors,
         (select count(*) from agent_reviews r where r.execution_id = x.id) as reviews
  from agent_executions x
)
select 'paused without an open review' as what, x.id, null::text as detail from agent_executions x
where x.status = 'awaiting_review'
  and not exists (select from agent_reviews r where r.execution_id = x.id and r.status = 'pending')
union all
select 'open review of an ended run', x.id, r.kind from agent_reviews r join agent_executions x on x.id = r.execution_id
where r.status = 'pending' and x.completed_at is not null
union all
select 'held by a dead worker after a sweep', x.id, null
from agent_executions x left join agent_workers w on w.id = x.worker_id
where x.status = 'running' and (w.id is null or w.dead_at < (select l.last_sweep_at from runhold.liveness l))
union all
select 'a claim that its worker never made', x.id, x.claim_seq::text
from agent_executions x join agent_workers w on w.id = x.worker_id where x.claim_seq > w.claim_seq
union all
select 'more attempts than allowed', x.id, x.attempt::text from agent_executions x
where x.attempt > runhold.max_attempts(x)
union all
select 'limits that are not the smallest of those that count', x.id, x.effective_limits::text from agent_executions x
where x.id in (select o from agent_types t, runhold.runs_with_old_limits(array[t.name]) o)
union all
select 'a cancel that was requested and forgotten', x.id, x.status from agent_executions x
where x.cancel_requested_at is not null and x.status not in ('running', 'cancelled')
union all
select 'what is reserved in a budget is not what running runs hold', null, to_jsonb(g)::text from agent_usage g
where (g.reserved_tokens, g.reserved_usd) <> (
  select coalesce(sum(x.reserved_tokens), 0), coalesce(sum(x.reserved_usd), 0) from agent_executions x
  where x.status = 'running' and g.id = any (x.reserved_in))
union all
select 'a call runs and no worker holds its run', c.execution_id, c.tool_name from call c
where c.status = 'running' and c.run_status <> 'running'
union all
select 'a call of an ended run waits', c.execution_id, c.tool_name from call c
where c.status = 'awaiting_review' and c.run_ended
union all
select 'nobody is asked what happened', c.execution_id, c.tool_name from call c
where c.status = 'unknown' and c.run_status = 'awaiting_review'
  and not exists (select from agent_reviews r where r.tool_call_id = c.id and r.kind = 'unknown_outcome' and r.status in ('pending', 'rejected'))
union all
select 'queued, and nobody said what happened', c.execution_id, c.tool_name from call c
where c.status = 'unknown' and c.run_status = 'pending' and not runhold.is_answered_stop(c.id)
  and not exists (select from agent_reviews r where r.tool_call_id = c.id and r.status = 'pending')
union all
select 'an unsafe call was started without leave', c.execution_id, c.attempt || ' starts, ' || c.used || ' approvals' from call c
where c.effect = 'unsafe' and c.attempt > c.used + case when c.gated then 0 else 1 end
union all
select 'an approval was used for something else', r.execution_id, r.tool_name
from agent_reviews r join agent_tool_calls c on c.id = r.tool_call_id
where r.used_at is not null and r.kind = 'approval'
  and r.used_at = (select max(u.used_at) from agent_reviews u where u.tool_call_id = c.id and u.kind = 'approval')
  and c.tool_input <> coalesce(r.edited_input, r.proposed_input)
  and not exists (select from agent_reviews u where u.tool_call_id = c.id and u.requested_at > r.requested_at)
union all
select 'an illegal change of state', c.execution_id, c.before || ' → ' || c.status from chain c
where c.before is not null and not runhold.is_legal_transition(c.before, c.status)
union all
select 'the last event tells another state', x.id, c.status || ', but is ' || x.status
from chain c join agent_executions x on x.id = c.execution_id where c.last and c.status <> x.status
union all
select 'counters differ from the rows', s.id, to_jsonb(s)::text from summed s
where (s.step_count, s.token_count, s.cost_usd, s.tool_call_count, s.tool_error_count, s.review_count)
   <> (s.steps, s.tokens, s.usd, s.calls, s.errors, s.reviews)
"""


def broken(world: World) -> list[Row]:
    """Every row that should be impossible, with the sentence that it breaks."""
    return world.sql(BROKEN)


def assert_sound(world: World) -> None:
    found = broken(world)
    assert not found, found


def assert_everything_ends(world: World, advance: Callable[[float], None]) -> None:
    """Nothing is stuck: with time, one more worker and people who decide, every run comes to its end.

    ``advance`` moves the database's clock on by so many seconds.
    """
    types = [row["name"] for row in world.sql("select name from agent_types")]
    janitor = world.worker(*({**DEFINITION, "agent_type": name} for name in types))
    left: list[Row] = []
    for _ in range(6):
        # All others are silent while the janitor beats: their leases end, and the sweep may trust that they are dead.
        for _ in range(4):
            advance(20)
            janitor.heartbeat()
            world.sweep()
        left = world.sql("select id, status, error from agent_executions where completed_at is null")
        if not left:
            assert_sound(world)
            return
        _decide_all(world)
        for run in janitor.claim(1000):
            _finish(janitor, run)
    raise AssertionError(f"nothing will ever end these: {left}")


def _decide_all(world: World) -> None:
    answers = {
        "approval": {},
        "question": {"answer": {"text": "Yes."}},
        "unknown_outcome": {"answer": {"outcome": "happened"}},
    }
    for review in world.sql(
        "select * from agent_reviews where status = 'pending' and (expires_at is null or expires_at > runhold.now())"
    ):
        seen = {"edited_input": review["edited_input"]} if review["edited_input"] is not None else {}
        while world.review(review["id"])["status"] == "pending":
            world.decide(world.reviewer(), review["id"], **answers[review["kind"]], **seen)


def _finish(worker: Worker, run: Row) -> None:
    """Run what may be run, then complete."""
    waiting = [c for c in run["calls"] if c["status"] in ("pending", "awaiting_review")]
    starts = [{"step_number": c["step_number"], "position": c["position"]} for c in waiting]
    verdict = worker.record(run, starts=starts)
    taken = [result(s["step_number"], s["position"]) for s in verdict.get("started") or () if s["taken"]]
    assert (
        worker.record(run, results=taken, transition={"to": "completed", "result": {}, "final": True})[
            "verdict"
        ]
        == "ok"
    )
