"""Runs that a person takes up again after they failed, or forked: the model gets another chance, not the old end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from loop_support import FakeClock, Row, ScriptedModel, asks, says, work
from msgspec.structs import replace

from runhold import Agent, Limits, RunContext, ToolFailed, tool
from runhold.agents import Effect
from runhold.errors import ModelRejected, ModelUnavailable


@tool(effect="read")
async def find(query: str) -> str:
    if query.startswith("bad"):
        raise ToolFailed("no luck")
    return query


def agent(**options: Any) -> Agent:
    return Agent(type="helper", model="m", instructions="i", tools=[find], **options)


STRICT = agent(output_type=dict[str, int])
GOOD = says('{"a": 1}')


def same() -> Any:
    return asks(("find", {"query": "tea"}))


def bad(name: str) -> Any:
    return asks(("find", {"query": f"bad {name}"}))


FAILURES: dict[str, list[Any]] = {
    "LOOP_DETECTED": [same(), same(), same(), same()],
    "TOOL_FAILED": [bad("a"), bad("b"), bad("c")],
    "INVALID_OUTPUT": [says("text"), says("text"), says("text")],
    "MODEL_REFUSED": [says(None, refusal="I won't.")],
    "CONTENT_FILTERED": [says("text", finish="content_filter")],
    "MODEL_ERROR": [ModelRejected("no such model", status=404)],
    "MAX_TOKENS_EXCEEDED": [asks(("find", {"query": "tea"}), usage=(60_000, 5))],
}


async def failed(code: str) -> Row:
    row = Row()
    await work(row, STRICT, ScriptedModel(*FAILURES[code]))
    assert row.error == code
    row.retry()
    return row


@pytest.mark.parametrize("code", FAILURES)
async def test_goes_on_from_its_log_and_completes(code: str) -> None:
    row = await failed(code)
    steps = len(row.steps)
    wider = STRICT if code != "MAX_TOKENS_EXCEEDED" else agent(
        output_type=dict[str, int], limits=Limits(max_tokens=200_000)
    )  # fmt: skip
    await work(row, wider, ScriptedModel(GOOD))
    assert (row.status, row.result, len(row.steps)) == ("completed", {"a": 1}, steps + 1)


@pytest.mark.parametrize("code", ["LOOP_DETECTED", "TOOL_FAILED", "INVALID_OUTPUT"])
async def test_bad_habits_are_counted_from_the_retry_on(code: str) -> None:
    row = await failed(code)
    bad_habit = FAILURES[code]
    await work(row, STRICT, ScriptedModel(*bad_habit[:-1], GOOD))
    assert row.status == "completed"


@pytest.mark.parametrize("code", ["LOOP_DETECTED", "TOOL_FAILED", "INVALID_OUTPUT"])
async def test_and_end_it_again_after_as_many_steps(code: str) -> None:
    row = await failed(code)
    steps = len(row.steps)
    await work(row, STRICT, ScriptedModel(*FAILURES[code]))
    assert (row.error, len(row.steps)) == (code, 2 * steps)


async def test_calls_that_were_not_run_are_told_as_such() -> None:
    row = await failed("LOOP_DETECTED")
    model = ScriptedModel(GOOD)
    await work(row, STRICT, model)
    assert model.last_messages[-1]["content"] == "Error: this call was not run."


async def test_an_outage_that_ended_the_run_is_over() -> None:
    row, clock = Row(), FakeClock()
    row.outage_since = clock.now() - timedelta(hours=2)
    await work(row, agent(), ScriptedModel(ModelUnavailable("503")), clock=clock)
    assert row.error == "MODEL_ERROR"
    row.retry()
    outcome = await work(row, agent(), ScriptedModel(ModelUnavailable("503")), clock=clock)
    assert (outcome.kind, outcome.code) == ("released", "model_outage")


async def test_a_used_up_limit_says_so_again() -> None:
    row = Row()
    strict = agent(limits=Limits(max_steps=1))
    await work(row, strict, ScriptedModel(same()))
    assert row.error == "MAX_STEPS_EXCEEDED"
    row.retry()
    await work(row, strict, ScriptedModel())
    assert (row.error, row.detail["used"]) == ("MAX_STEPS_EXCEEDED", 1)


async def test_a_fork_runs_on_from_copied_steps() -> None:
    source = Row()
    await work(source, agent(), ScriptedModel(same(), same(), same(), says("Done.")))
    fork = Row(
        steps=[replace(step, cost_usd=0.0) for step in source.steps[:3]],
        calls={key: call for key, call in source.calls.items() if key[0] <= 3},
        resumed_after_step=3,
        definitions=source.definitions,
        models=source.models,
    )
    model = ScriptedModel(same(), says("Forked."))
    await work(fork, agent(version="2"), model)
    assert (fork.status, fork.result, len(fork.steps)) == ("completed", {"text": "Forked."}, 5)
    assert not any(step.injected for step in fork.steps), "what was copied is not held against it"
    assert len([message for message in model.last_messages if message["role"] == "tool"]) == 4


class Slow:
    """A tool that at first takes longer than its run has time, or than it has itself, and then no time."""

    def __init__(self, effect: Effect, *, how: str = "async", timeout: float = 30) -> None:
        self.keys: list[str] = []

        async def waits(ctx: RunContext) -> str:
            self.keys.append(ctx.idempotency_key)
            await asyncio.sleep(5 if len(self.keys) == 1 else 0)
            return "did"

        def blocks(ctx: RunContext) -> str:
            self.keys.append(ctx.idempotency_key)
            time.sleep(0.3 if len(self.keys) == 1 else 0)
            return "did"

        async def hits_a_limit_of_its_own(ctx: RunContext) -> str:
            self.keys.append(ctx.idempotency_key)
            raise TimeoutError

        functions: dict[str, Callable[..., Any]] = {
            "async": waits,
            "blocking": blocks,
            "raising": hits_a_limit_of_its_own,
        }
        act = tool(effect=effect, timeout=timeout, name="act")(functions[how])
        self.agent = Agent(type="helper", model="m", instructions="i", tools=[act])


@pytest.mark.parametrize("how", ["async", "blocking"])
@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_what_the_end_of_the_runs_time_cut_off_runs_again_under_its_key(
    effect: Effect, how: str
) -> None:
    row, slow = Row(active_ms=299_900), Slow(effect, how=how)
    await work(row, slow.agent, ScriptedModel(asks(("act", {}))))
    assert (row.error, row.cut_off) == ("TOTAL_TIMEOUT", {(1, 0)})
    assert [result for entry in row.entries for result in entry.results] == []
    row.retry()
    row.active_ms = 0  # wider limits
    await work(row, slow.agent, ScriptedModel(says("Done.")))
    assert (row.status, row.call().status, row.call().attempt) == ("completed", "succeeded", 2)
    assert len(slow.keys) == 2
    assert len(set(slow.keys)) == 1


async def test_an_unsafe_call_that_it_cut_off_is_asked_about() -> None:
    row, slow = Row(active_ms=299_900), Slow("unsafe")
    await work(row, slow.agent, ScriptedModel(asks(("act", {}))))
    assert (row.status, row.call().status, row.cut_off) == ("awaiting_review", "unknown", set())


async def test_an_intent_for_which_no_time_was_left_runs_after_the_retry() -> None:
    clock, row, slow = FakeClock(), Row(), Slow("idempotent")
    model = ScriptedModel(lambda: clock.advance(301) or asks(("act", {})))
    await work(row, slow.agent, model, clock=clock)
    assert (row.error, row.cut_off, slow.keys) == ("TOTAL_TIMEOUT", {(1, 0)}, [])
    row.retry()
    row.active_ms = 0
    slow.keys.append("as if it were the second time")
    await work(row, slow.agent, ScriptedModel(says("Done.")))
    assert (row.status, row.call().status) == ("completed", "succeeded")


@pytest.mark.parametrize(("how", "timeout"), [("async", 0.02), ("blocking", 0.02), ("raising", 30)])
async def test_a_tools_own_time_out_is_a_failure_that_the_model_sees(how: str, timeout: float) -> None:
    """Also where the run has less time left than the tool may take."""
    row, slow = Row(active_ms=280_000), Slow("idempotent", how=how, timeout=timeout)
    await work(row, slow.agent, ScriptedModel(asks(("act", {})), says("Done.")))
    assert (row.status, row.call().status, row.cut_off) == ("completed", "failed", set())
    assert "time" in (row.call().error or "").lower()
