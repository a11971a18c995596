"""Runs that a person takes up again after they failed, or forked: the model gets another chance, not the old end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from loop_support import FakeClock, Row, ScriptedModel, asks, says, work

from runhold import Agent, Limits, ToolFailed, tool
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
