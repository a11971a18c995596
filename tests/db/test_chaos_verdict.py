"""The verdict of the chaos kit finds what must not be, and says nothing about a run that is as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import pytest
from world import Row, Worker, World, result, step

from runhold.local.stack import LocalStack
from runhold.testing.chaos import Effects, assert_nothing_lost, judge
from runhold.testing.chaos.rules import RULES


@dataclass
class Story:
    """A run that was gated, approved, and completed; what it did outside is in ``effects``."""

    run: str
    effects: Effects
    url: str
    superuser_url: str

    def break_it(self, statement: str) -> None:
        """Write what no function and no trigger would let anybody write."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute(statement.replace("RUN", f"'{self.run}'"))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def happen(self, kind: str = "send", *, step_number: int = 1, key: str = "hash") -> None:
        effect = {"run": self.run, "kind": kind, "key": f"{self.run}:{step_number}:0:{key}"}
        self.effects.add(effect)

    def problems(self, *, ended: bool = True) -> set[str]:
        return {problem.rule for problem in judge(self.url, [self.run], self.effects, ended=ended).problems}


def take(worker: Worker, run_id: str) -> Row:
    """Claim a run and take up its approved call."""
    run = next(run for run in worker.claim() if run["id"] == run_id)
    assert worker.record(run, starts=[{"step_number": 1, "position": 0}])["started"][0]["taken"]
    return run


@pytest.fixture
def story(world: World, postgres: LocalStack) -> Story:
    worker = world.worker()
    run, (review,) = world.paused(worker, world.person())
    world.decide(world.reviewer(), review["id"])
    run = take(worker, run["id"])
    worker.record(run, results=[result(1, 0)])
    worker.record(run, steps=[step(2, worker.definition)], transition={"to": "completed", "result": "x"})
    superuser_url = urlsplit(postgres.superuser_url)._replace(path=urlsplit(world.url).path).geturl()
    made = Story(run["id"], Effects(), world.url, superuser_url)
    call_id = world.calls(run["id"])[0]["call_id"]
    message = f'{{"role": "assistant", "tool_calls": [{{"id": "{call_id}"}}]}}'
    made.break_it(
        f"update agent_steps set message = '{message}' where step_number = 1 and execution_id = RUN"
    )
    made.happen()
    return made


def test_run_as_it_should_be_has_no_problem(story: Story) -> None:
    verdict = assert_nothing_lost(story.url, [story.run], story.effects, thrown={"kill after step": 3})
    assert verdict.statuses == {"completed": 1}
    lines = str(verdict).splitlines()
    assert lines[0].split() == ["thrown:", "kill", "after", "step", "3"]
    assert lines[-1].split() == ["lost,", "doubled", "or", "stuck", "0"]


BROKEN = {
    "a run that is not there any more": """
        delete from agent_tool_calls where execution_id = RUN; delete from agent_steps where execution_id = RUN;
        delete from agent_review_decisions where execution_id = RUN; delete from agent_reviews where execution_id = RUN;
        delete from agent_events where execution_id = RUN; delete from agent_executions where id = RUN""",
    "a run that ended twice": """
        insert into agent_events (execution_id, user_id, actor_kind, kind)
        select id, user_id, 'worker', 'completed' from agent_executions where id = RUN""",
    "a run that nothing will ever change": """
        update agent_executions set status = 'awaiting_review', completed_at = null, result = null where id = RUN""",
    "steps with a gap": "update agent_steps set step_number = 3 where step_number = 2 and execution_id = RUN",
    "a decision whose calls are not those recorded": """
        update agent_tool_calls set call_id = 'other' where execution_id = RUN""",
    "a call without its step": "delete from agent_steps where step_number = 1 and execution_id = RUN",
    "a call that an ended run left open": """
        update agent_tool_calls set status = 'running', finished_at = null where execution_id = RUN""",
    "a completed run with a call of unknown outcome": """
        update agent_tool_calls set status = 'unknown', finished_at = null where execution_id = RUN""",
    "a question about an ended run": """
        update agent_reviews set status = 'pending', decided_at = null, used_at = null where execution_id = RUN""",
    "counters that do not add up": "update agent_executions set token_count = token_count + 1 where id = RUN",
}


@pytest.mark.parametrize("rule", RULES)
def test_broken_rule_is_found(story: Story, rule: str) -> None:
    story.break_it(BROKEN[rule])
    assert rule in story.problems()
    with pytest.raises(AssertionError, match=rule):
        assert_nothing_lost(story.url, [story.run], story.effects)


@pytest.mark.parametrize("status", ["running", "pending"])
def test_run_that_nobody_will_ever_take_up_is_stuck(story: Story, status: str) -> None:
    story.break_it(
        f"update agent_executions set status = '{status}', completed_at = null, result = null, agent_type = 'gone',"
        f" worker_id = {'gen_random_uuid()' if status == 'running' else 'null'} where id = RUN"
    )
    assert "a run that nothing will ever change" in story.problems(ended=False)


def test_run_that_waits_for_a_person_has_not_ended_and_is_not_lost(world: World) -> None:
    run, _ = world.paused(world.worker(), world.person())
    assert judge(world.url, [run["id"]], Effects(), ended=False).problems == []
    (problem,) = judge(world.url, [run["id"]], Effects()).problems
    assert (problem.rule, problem.what) == ("a run that has not ended", "awaiting_review")


# ------------------------------------------------------------------------------------------------ effects


def test_unsafe_effect_twice_is_found(story: Story) -> None:
    story.happen()
    assert story.problems() == {"an unsafe effect more often than people said"}


def test_call_with_two_keys_is_found(story: Story) -> None:
    story.happen(key="other")
    assert "a call with more than one key" in story.problems()


def test_effect_that_should_have_happened_and_did_not_is_found(story: Story) -> None:
    story.break_it("""
        insert into agent_tool_calls (execution_id, user_id, step_number, position, call_id, tool_name, tool_input, effect,
                                      status, finished_at)
        select execution_id, user_id, 2, 0, 'other', tool_name, tool_input, effect, status, finished_at
        from agent_tool_calls where execution_id = RUN""")
    assert "an effect that is said to have happened and did not" in story.problems()


def test_effects_that_nobody_counts_are_not_missed(story: Story) -> None:
    assert judge(story.url, [story.run], Effects()).problems == []


def test_effect_without_a_call_is_found(story: Story) -> None:
    story.happen(step_number=2)
    assert story.problems() == {"an effect without a call"}


def test_lost_run_is_missed_also_where_others_are_left(world: World, story: Story) -> None:
    world.submit(world.person())
    story.break_it(BROKEN["a run that is not there any more"])
    assert "a run that is not there any more" in story.problems()


def test_read_may_have_run_before_its_step_was_recorded(story: Story) -> None:
    story.happen("look", step_number=2)
    assert story.problems() == set()


def test_effect_without_an_approval_is_found(story: Story) -> None:
    story.break_it("update agent_reviews set used_at = null where execution_id = RUN")
    assert story.problems() == {"an effect without an approval"}


def test_effect_of_a_refused_call_is_found(story: Story) -> None:
    story.break_it("update agent_tool_calls set status = 'rejected' where execution_id = RUN")
    assert story.problems() == {"an effect of a call that was not made"}


@pytest.mark.parametrize(("answer", "more"), [("again", 1), ("happened", 0)])
def test_what_a_person_said_about_an_unknown_outcome_counts(world: World, answer: str, more: int) -> None:
    worker = world.worker()
    run_id, review = world.unknown(worker, world.person())
    world.decide(world.reviewer(), review["id"], answer={"outcome": answer})
    run = take(worker, run_id) if more else worker.claim()[0]
    worker.record(run, results=[result(1, 0)] if more else [])
    worker.record(run, steps=[step(2, worker.definition)], transition={"to": "completed", "result": "x"})
    effects = Effects()
    rules = {"a decision whose calls are not those recorded"}  # the world's steps name no calls

    def problems() -> set[str]:
        return {problem.rule for problem in judge(world.url, [run_id], effects).problems} - rules

    for _ in range(1 + more):
        effects.add({"run": run_id, "kind": "send", "key": f"{run_id}:1:0:hash"})
        assert problems() == set()
    effects.add({"run": run_id, "kind": "send", "key": f"{run_id}:1:0:hash"})
    assert problems() == {"an unsafe effect more often than people said"}
