"""Answers that can't be used, input that can't be used, models that fail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from loop_support import FakeClock, Progress, Row, ScriptedModel, asks, says, work
from pydantic import BaseModel

from runhold import Agent, Limits, tool
from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable


class Report(BaseModel):
    title: str


@tool(effect="read")
async def find(query: str) -> str:
    return query


AGENT = Agent(type="helper", model="m", instructions="i", tools=[find], output_type=Report, input_type=Report)
INPUT = {"title": "x"}
GOOD = says('{"title": "T"}')
BAD = says('{"name": "T"}')


async def test_input_that_does_not_fit_costs_nothing() -> None:
    row = Row(input={"titel": "x"})
    model = ScriptedModel()
    await work(row, AGENT, model)
    assert (row.error, model.requests) == ("INVALID_INPUT", [])
    assert "title: Field required" in row.detail["message"]


async def test_a_bad_answer_goes_back_to_the_model_saying_why() -> None:
    row = Row(input=INPUT)
    model = ScriptedModel(BAD, says(""), GOOD)
    await work(row, AGENT, model)
    assert row.result == {"title": "T"}
    assert "title: Field required" in model.requests[1]["messages"][-1]["content"]
    assert "empty" in model.requests[2]["messages"][-1]["content"]
    assert len(row.steps[1].injected) == 1


async def test_a_third_bad_answer_in_a_row_fails_the_run() -> None:
    row = Row(input=INPUT)
    await work(row, AGENT, ScriptedModel(BAD, BAD, BAD))
    assert row.error == "INVALID_OUTPUT"
    assert len(row.steps) == 3


async def test_only_bad_answers_in_a_row_count() -> None:
    row = Row(input=INPUT)
    searching = asks(("find", {"query": "x"}))
    await work(row, AGENT, ScriptedModel(BAD, BAD, searching, BAD, BAD, GOOD))
    assert row.status == "completed"


async def test_an_answer_cut_off_by_its_length_is_asked_for_again() -> None:
    row = Row(input=INPUT)
    model = ScriptedModel(says('{"title": "T"}', finish="length"), GOOD)
    await work(row, AGENT, model)
    assert row.status == "completed"
    assert "too long" in model.last_messages[-1]["content"]


async def test_a_worker_that_dies_after_a_bad_answer_is_replaced_by_one_that_knows() -> None:
    row = Row(input=INPUT)
    crash = ModelUnavailable("gone")
    await work(row, AGENT, ScriptedModel(BAD, crash))
    model = ScriptedModel(BAD, BAD)
    await work(row, AGENT, model)
    assert "title: Field required" in model.requests[0]["messages"][-1]["content"]
    assert row.error == "INVALID_OUTPUT"


async def test_json_in_a_code_fence_is_json() -> None:
    row = Row(input=INPUT)
    await work(row, AGENT, ScriptedModel(says('```json\n{"title": "T"}\n```')))
    assert row.result == {"title": "T"}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (says(None, refusal="I can't."), "MODEL_REFUSED"),
        (says("Half", finish="content_filter"), "CONTENT_FILTERED"),
        (asks(("find", {"query": "x"}), finish="content_filter"), "CONTENT_FILTERED"),
        (ModelRejected("no such model", status=404), "MODEL_ERROR"),
        (ModelTimeout("too slow"), "STEP_TIMEOUT"),
        (RuntimeError("secret: hunter2"), "INTERNAL_ERROR"),
    ],
)
async def test_the_run_fails_with(reply: Any, code: str) -> None:
    row = Row(input=INPUT)
    outcome = await work(row, AGENT, ScriptedModel(reply))
    assert outcome.code == row.error == code
    assert "hunter2" not in str(row.detail)


async def test_what_the_model_said_when_it_refused_is_in_the_log() -> None:
    row = Row(input=INPUT)
    await work(row, AGENT, ScriptedModel(says(None, refusal="I can't.")))
    assert row.steps[0].message["refusal"] == "I can't."
    assert "I can't." in row.detail["message"]


async def test_a_run_that_was_refused_can_be_retried() -> None:
    row = Row(input=INPUT)
    await work(row, AGENT, ScriptedModel(says(None, refusal="I can't.")))
    row.status = "pending"
    await work(row, AGENT, ScriptedModel(GOOD))
    assert row.status == "completed"


async def test_usage_that_is_not_reported_is_estimated() -> None:
    row = Row(input=INPUT)
    await work(row, AGENT, ScriptedModel(says('{"title": "T"}', usage=None)))
    usage = row.steps[0].usage
    assert usage.estimated
    assert usage.input_tokens > 50
    assert usage.output_tokens > 5


class TestOutage:
    async def test_releases_the_run_uncounted(self) -> None:
        row = Row(input=INPUT)
        outcome = await work(row, AGENT, ScriptedModel(ModelUnavailable("503")))
        assert (outcome.kind, outcome.code) == ("released", "model_outage")
        assert (row.detail["waiting_for"], row.detail["model"]) == ("model", "m")
        assert row.status == "pending"
        assert 2000 <= row.transitions[0].delay_ms <= 2500
        assert not row.steps

    async def test_waits_as_long_as_the_provider_asks(self) -> None:
        row = Row(input=INPUT)
        await work(row, AGENT, ScriptedModel(ModelUnavailable("429", retry_after_s=40)))
        assert 40_000 <= row.transitions[0].delay_ms <= 50_000

    async def test_waits_longer_the_longer_it_lasts(self) -> None:
        row, clock = Row(input=INPUT), FakeClock()
        for advance in (0, 20, 3000):
            clock.advance(advance)
            await work(row, AGENT, ScriptedModel(ModelUnavailable("503")), clock=clock)
        delays = [transition.delay_ms for transition in row.transitions]
        assert delays == sorted(delays)
        assert delays[-1] <= 75_000

    async def test_ends_the_run_after_an_hour(self) -> None:
        row, clock = Row(input=INPUT), FakeClock()
        await work(row, AGENT, ScriptedModel(ModelUnavailable("503")), clock=clock)
        clock.today += timedelta(seconds=3600)
        await work(row, AGENT, ScriptedModel(ModelUnavailable("503")), clock=clock)
        assert row.error == "MODEL_ERROR"
        assert row.detail["limit"] == "model_outage_max_s"

    async def test_ends_it_sooner_if_the_agent_says_so(self) -> None:
        impatient = Agent(type="helper", model="m", instructions="i", limits=Limits(model_outage_max_s=0))
        row = Row()
        await work(row, impatient, ScriptedModel(ModelUnavailable("503")))
        assert row.error == "MODEL_ERROR"


async def test_a_sink_that_wants_text_gets_it() -> None:
    progress = Progress(wants_text=True)
    await work(Row(input=INPUT), AGENT, ScriptedModel(GOOD), progress=progress)
    assert "".join(p["text"] for e, p in progress.events if e == "text") == '{"title":"T"}'
