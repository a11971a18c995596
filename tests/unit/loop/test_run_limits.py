"""Every limit ends the run with its code, before it is passed."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from loop_support import FakeClock, Row, ScriptedModel, asks, says, work

from runhold import Agent, Limits, tool
from runhold.loop.ports import Usage

ran: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    ran.clear()


@tool(effect="read")
async def find(query: str) -> str:
    ran.append(query)
    return query


@tool
async def send(to: str) -> str:
    ran.append(to)
    return "sent"


def agent(**limits: Any) -> Agent:
    return Agent(type="helper", model="m", instructions="i", tools=[find, send], limits=Limits(**limits))


def searching(count: int, **options: Any) -> list[Any]:
    return [asks(("find", {"query": f"q{n}"}), **options) for n in range(count)]


async def test_steps() -> None:
    row = Row()
    model = ScriptedModel(*searching(3))
    outcome = await work(row, agent(max_steps=3), model)
    assert outcome.code == row.error == "MAX_STEPS_EXCEEDED"
    assert len(row.steps) == len(model.requests) == 3
    assert {"limit": "max_steps", "allowed": 3, "used": 3, "step": 4}.items() <= row.detail.items()
    assert row.call(3).status == "succeeded", "what happened is recorded before the end"


async def test_the_rows_limits_tighten_the_definitions() -> None:
    row = Row(limits={"max_steps": 1, "max_cost_usd": None})
    await work(row, agent(max_steps=9), ScriptedModel(*searching(1)))
    assert row.error == "MAX_STEPS_EXCEEDED"


async def test_tokens_bound_the_answer_and_then_end_the_run() -> None:
    row = Row()
    model = ScriptedModel(*searching(2, usage=(400, 100)))
    await work(row, agent(max_tokens=1200, min_output_tokens=64), model)
    assert row.error == "MAX_TOKENS_EXCEEDED"
    first, second = (request["max_completion_tokens"] for request in model.requests)
    assert 64 <= first < 1200
    assert 64 <= second < 1200 - 500 - 400
    assert row.detail["used"] == 1000


async def test_too_few_tokens_for_an_answer_mean_no_call() -> None:
    row = Row(input={"text": "x" * 3000})
    model = ScriptedModel()
    await work(row, agent(max_tokens=1050, min_output_tokens=100), model)
    assert (row.error, model.requests, row.steps) == ("MAX_TOKENS_EXCEEDED", [], [])


async def test_a_limit_of_the_row_below_the_least_answer_is_the_limits_error() -> None:
    row = Row(limits={"max_tokens": 10})
    await work(row, agent(), ScriptedModel())
    assert row.error == "MAX_TOKENS_EXCEEDED"


async def test_an_answer_that_used_more_than_there_was_starts_no_tool() -> None:
    row = Row()
    await work(row, agent(max_tokens=1000), ScriptedModel(asks(("send", {"to": "bo"}), usage=(900, 200))))
    assert (row.error, ran) == ("MAX_TOKENS_EXCEEDED", [])
    assert row.tokens == 1100, "what was spent is recorded"


async def test_a_final_answer_may_use_the_last_token() -> None:
    row = Row()
    await work(row, agent(max_tokens=1000), ScriptedModel(says("Done.", usage=(900, 200))))
    assert row.status == "completed"


async def test_the_agents_own_bound_caps_each_answer() -> None:
    model = ScriptedModel(says("a"), says("b"))
    capped = Agent(type="helper", model="m", instructions="i", params={"max_completion_tokens": 77})
    await work(Row(), capped, model)
    assert model.requests[0]["max_completion_tokens"] == 77
    older = Agent(type="helper", model="m", instructions="i", params={"max_tokens": 78})
    await work(Row(), older, model)
    assert model.requests[1]["max_tokens"] == 78
    assert "max_completion_tokens" not in model.requests[1]


def dear(model: str, usage: Usage) -> Decimal:
    return (usage.input_tokens + usage.output_tokens) * Decimal("0.001")


async def test_cost_bounds_the_answer_and_then_ends_the_run() -> None:
    row = Row()
    model = ScriptedModel(*searching(1, usage=(400, 100)))
    await work(row, agent(max_cost_usd=1.0), model, price=dear)
    assert row.error == "MAX_COST_EXCEEDED"
    assert model.requests[0]["max_completion_tokens"] < 1000
    assert row.steps[0].cost_usd == pytest.approx(0.5)
    assert row.detail["used"] == pytest.approx(0.5)


async def test_what_long_inputs_cost_more_bounds_the_answer() -> None:
    def price(model: str, usage: Usage) -> Decimal:
        return usage.output_tokens * Decimal("0.001" if usage.input_tokens > 20 else "0.000001")

    model = ScriptedModel(says("Done."))
    await work(Row(), agent(max_cost_usd=1.0), model, price=price)
    assert model.requests[0]["max_completion_tokens"] == 1000


async def test_a_limit_in_usd_lets_nothing_pass_where_no_price_is_known() -> None:
    row, model = Row(), ScriptedModel()
    await work(row, agent(max_cost_usd=1.0), model, price=lambda model, usage: None)
    assert (row.error, model.requests) == ("MAX_COST_EXCEEDED", [])
    assert row.detail == {
        "message": "The limit max_cost_usd = 1.0 can't hold: no price of the model m is known.",
        "limit": "max_cost_usd",
        "allowed": 1.0,
        "used": 0,
        "reason": "no_price",
        "model": "m",
        "step": 1,
    }


async def test_where_no_price_is_known_and_nobody_asks_a_step_costs_nothing() -> None:
    row = Row()
    await work(row, agent(), ScriptedModel(says("Done.")), price=lambda model, usage: None)
    assert (row.status, row.steps[0].cost_usd) == ("completed", 0)


async def test_a_step_dearer_than_what_was_left_starts_no_tool() -> None:
    row = Row()
    model = ScriptedModel(asks(("send", {"to": "bo"}), usage=(900, 200)))
    await work(row, agent(max_cost_usd=1.0), model, price=dear)
    assert (row.error, ran) == ("MAX_COST_EXCEEDED", [])


async def test_tool_calls() -> None:
    row = Row()
    both = asks(("find", {"query": "a"}), ("find", {"query": "b"}))
    await work(row, agent(max_tool_calls=3), ScriptedModel(both, both))
    assert (row.error, ran) == ("MAX_TOOL_CALLS_EXCEEDED", ["a", "b"])
    assert len(row.steps) == 2


async def test_the_last_tool_call_that_is_allowed_runs() -> None:
    row = Row()
    both = asks(("find", {"query": "a"}), ("find", {"query": "b"}))
    await work(row, agent(max_tool_calls=2), ScriptedModel(both, says("Done.")))
    assert (row.status, ran) == ("completed", ["a", "b"])


async def test_total_time_is_counted_across_claims() -> None:
    clock = FakeClock()
    row = Row(active_ms=290_000)
    model = ScriptedModel(lambda: clock.advance(11) or searching(1)[0])
    await work(row, agent(), model, clock=clock)
    assert row.error == "TOTAL_TIMEOUT"
    assert model.timeout_s == pytest.approx(10)
    assert row.active_ms == pytest.approx(301_000, abs=5)


async def test_the_models_time_is_bounded_by_what_is_left_of_the_total() -> None:
    row = Row(active_ms=299_950)
    await work(row, agent(), ScriptedModel(lambda: asyncio.sleep(5)))
    assert row.error == "TOTAL_TIMEOUT"


async def test_an_effect_for_which_no_time_is_left_does_not_start() -> None:
    clock, row = FakeClock(), Row()
    model = ScriptedModel(lambda: clock.advance(301) or asks(("send", {"to": "bo"})))
    await work(row, agent(), model, clock=clock)
    assert (row.error, ran) == ("TOTAL_TIMEOUT", [])
    assert "no time left" in (row.call().error or "")


async def test_a_model_that_does_not_answer_in_time() -> None:
    row = Row()
    await work(row, agent(step_timeout_s=0.02), ScriptedModel(lambda: asyncio.sleep(5)))
    assert row.error == "STEP_TIMEOUT"
    assert {"limit": "step_timeout_s", "allowed": 0.02, "step": 1}.items() <= row.detail.items()


async def test_what_the_database_says_about_a_limit_holds() -> None:
    row = Row()

    def model_answers() -> Any:
        row.limits = {"max_tool_calls": 0}  # an operator tightened it a moment ago
        return asks(("send", {"to": "bo"}))

    await work(row, agent(), ScriptedModel(model_answers))
    assert (row.error, ran) == ("MAX_TOOL_CALLS_EXCEEDED", [])
    assert len(row.steps) == 1
    assert not row.calls, "the intent was not stored"


async def test_a_database_that_stops_reads_ends_the_run_too() -> None:
    row = Row()

    def model_answers() -> Any:
        row.limits = {"max_tokens": 1}
        return asks(("find", {"query": "a"}))

    outcome = await work(row, agent(), ScriptedModel(model_answers, says("never")))
    assert outcome.code == row.error == "MAX_TOKENS_EXCEEDED"


class TestLanding:
    async def test_on_the_last_step(self) -> None:
        row = Row()
        model = ScriptedModel(*searching(2), says("So far: tea."))
        await work(row, agent(max_steps=3, on_limit="land"), model)
        assert row.result == {"partial": True, "text": "So far: tea."}
        assert "tools" not in model.requests[-1]
        assert "tools" in model.requests[-2]
        assert "last message" in model.last_messages[-1]["content"]
        assert row.steps[-1].landing == "max_steps"

    async def test_at_nine_tenths_of_the_tokens(self) -> None:
        row = Row()
        model = ScriptedModel(*searching(1, usage=(1900, 100)), says("Partly."))
        await work(row, agent(max_tokens=4500, on_limit="land"), model)
        assert row.result == {"partial": True, "text": "Partly."}
        assert row.steps[-1].landing == "max_tokens"

    async def test_the_call_before_leaves_room_for_it(self) -> None:
        model = ScriptedModel(*searching(1, usage=(900, 500)), says("Partly."))
        await work(Row(), agent(max_tokens=4000, on_limit="land"), model)
        assert model.requests[0]["max_completion_tokens"] < 2000

    async def test_at_nine_tenths_of_the_time(self) -> None:
        row = Row(active_ms=271_000)
        await work(row, agent(on_limit="land"), ScriptedModel(says("Partly.")))
        assert row.result["partial"] is True

    async def test_at_nine_tenths_of_the_cost(self) -> None:
        row = Row()
        model = ScriptedModel(*searching(1, usage=(900, 10)), says("Partly.", usage=(10, 5)))

        def price(model: str, usage: Usage) -> Decimal:
            return usage.input_tokens * Decimal("0.001") if usage.input_tokens == 900 else Decimal(0)

        await work(row, agent(max_cost_usd=1.0, on_limit="land"), model, price=price)
        assert row.result["partial"] is True

    async def test_without_structure_for_what_is_partial(self) -> None:
        structured = Agent(
            type="helper",
            model="m",
            instructions="i",
            output_type=dict[str, int],
            limits=Limits(max_steps=1, on_limit="land"),
        )
        row = Row()
        model = ScriptedModel(says("no JSON"))
        await work(row, structured, model)
        assert row.result == {"partial": True, "text": "no JSON"}
        assert "response_format" not in model.requests[0]

    async def test_a_model_that_says_nothing_fails_the_run_by_the_limit(self) -> None:
        row = Row()
        await work(row, agent(max_steps=1, on_limit="land"), ScriptedModel(says("")))
        assert row.error == "MAX_STEPS_EXCEEDED"

    async def test_a_model_that_calls_tools_all_the_same_runs_none(self) -> None:
        row = Row()
        await work(row, agent(max_steps=1, on_limit="land"), ScriptedModel(asks(("send", {"to": "x"}))))
        assert (row.error, ran) == ("MAX_STEPS_EXCEEDED", [])
