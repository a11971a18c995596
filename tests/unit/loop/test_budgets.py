"""What a run may use is reserved before the model is called; budgets are never passed by more than that."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from loop_support import Budget, Row, ScriptedModel, Worker, asks, says, work

from runhold import Agent, Limits, tool
from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable, StoreError
from runhold.loop.ports import Entry, Reserve, Usage, Verdict
from runhold.testing.chaos.patience import eventually


@tool(effect="read")
async def find(query: str = "") -> str:
    return query


@tool
async def send(to: str) -> str:
    return "sent"


def agent(bound: int = 500, **limits: Any) -> Agent:
    return Agent(
        type="helper",
        model="m",
        instructions="i",
        tools=[find, send],
        params={"max_completion_tokens": bound},
        limits=Limits(min_output_tokens=100, **limits),
    )


FIND = ("find", {"query": "x"})


def reserves(row: Row) -> list[Reserve]:
    return [entry.reserve for entry in row.entries if entry.reserve is not None]


def input_of(row: Row, n: int = 0) -> int:
    """The estimate of the request that was reserved for."""
    return reserves(row)[n].max_tokens - 500


class TestWithoutABudget:
    async def test_nothing_is_reserved_and_nobody_waits(self) -> None:
        row = Row()
        worker = Worker(row, agent(), model := ScriptedModel(asks(FIND), says("Done.")))
        worker.log.hold = True
        task = worker.start()
        await eventually(lambda: len(model.requests) == 2)  # though nothing that was written is confirmed
        worker.log.hold = False
        worker.log.release()
        await eventually(task.done)
        assert row.status == "completed"
        assert not any(entry.reserve or entry.charge for entry in row.entries)


class TestGranted:
    async def test_each_call_is_reserved_for_and_settled_by_its_step(self) -> None:
        row = Row(budget=Budget(10_000))
        seen: list[int] = []
        model = ScriptedModel(
            lambda: seen.append(len(row.budget.reserved)) or asks(FIND, usage=(80, 20)),  # type: ignore[union-attr]
            lambda: seen.append(len(row.budget.reserved)) or says("Done.", usage=(120, 30)),  # type: ignore[union-attr]
        )
        await work(row, agent(), model)
        assert row.status == "completed"
        assert seen == [1, 1]
        first, second = reserves(row)
        assert first.max_tokens - first.min_tokens == 400, "an answer of 500, or 100 at least"
        assert second.min_tokens > 100 + 100, "the input is what was reported last, and more"
        assert (first.min_usd, first.max_usd) == (0, 0), "the model is free of charge"
        assert (row.budget.used, row.budget.reserved, row.budget.charged) == (250, {}, [])  # type: ignore[union-attr]

    async def test_the_first_entry_of_a_claim_does_nothing_else(self) -> None:
        row = Row(budget=Budget(10_000))
        await work(row, agent(), ScriptedModel(says("Done.")))
        assert row.entries[0] == Entry(reserve=row.entries[0].reserve)

    async def test_the_model_is_not_called_before_the_answer(self) -> None:
        row = Row(budget=Budget(10_000))
        worker = Worker(row, agent(), model := ScriptedModel(says("Done.")))
        worker.log.hold = True
        task = worker.start()
        await eventually(lambda: worker.log.held)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not model.requests
        worker.log.hold = False
        worker.log.release()
        await eventually(task.done)
        assert model.requests

    async def test_the_tail_of_a_budget_bounds_the_answer(self) -> None:
        row = Row(budget=Budget(0))
        await work(row, agent(), ScriptedModel())
        row = Row(budget=Budget(input_of(row) + 123))
        model = ScriptedModel(says("Done."))
        await work(row, agent(), model)
        assert model.requests[0]["max_completion_tokens"] == 123

    async def test_the_tail_in_usd_bounds_the_answer(self) -> None:
        def price(model: str, usage: Usage) -> Decimal:
            return usage.input_tokens * Decimal("0.00001") + usage.output_tokens * Decimal("0.001")

        row = Row(budget=Budget(0, usd=0))
        await work(row, agent(), ScriptedModel(), price=price)
        asked = reserves(row)[0]
        assert asked.max_usd == pytest.approx(input_of(row) * 0.00001 + 0.5)
        assert asked.min_usd == pytest.approx(input_of(row) * 0.00001 + 0.1)
        row = Row(budget=Budget(10_000, usd=input_of(row) * 0.00001 + 0.2505))
        model = ScriptedModel(says("Done."))
        await work(row, agent(), model, price=price)
        assert model.requests[0]["max_completion_tokens"] == 250

    async def test_a_bound_below_the_least_asks_for_no_more_than_the_bound(self) -> None:
        row = Row(budget=Budget(10_000))
        await work(row, agent(bound=7), ScriptedModel(says("Done.")))
        assert reserves(row)[0].min_tokens == reserves(row)[0].max_tokens

    async def test_results_go_before_the_next_reservation(self) -> None:
        row = Row(budget=Budget(10_000))
        await work(row, agent(), ScriptedModel(asks(("send", {"to": "bo"})), says("Done.")))
        kinds = [
            "step" if e.step else "results" if e.results else "reserve" if e.reserve else ""
            for e in row.entries
        ]
        assert kinds == ["reserve", "step", "results", "reserve", "step"]

    async def test_a_budget_that_is_made_meanwhile_holds_from_the_next_record_on(self) -> None:
        row = Row()

        def make() -> Any:
            row.budget = Budget(10_000)
            return asks(("send", {"to": "bo"}))

        await work(row, agent(), ScriptedModel(make, says("Done.")))
        assert (row.status, len(reserves(row))) == ("completed", 1)

    async def test_a_budget_that_is_gone_holds_nobody(self) -> None:
        row = Row(budget=Budget(10_000))

        def drop() -> Any:
            row.budget = None
            return asks(("send", {"to": "bo"}))

        await work(row, agent(), ScriptedModel(drop, says("Done.")))
        assert (row.status, len(reserves(row))) == ("completed", 1)

    async def test_a_budget_that_is_gone_when_it_is_asked_grants_all(self) -> None:
        row = Row(budget=Budget(0))
        worker = Worker(row, agent(), model := ScriptedModel(says("Done.")))
        row.budget = None
        await worker.go()
        assert row.status == "completed"
        assert model.requests[0]["max_completion_tokens"] == 500

    async def test_what_was_not_answered_is_asked_for_again(self) -> None:
        """A verdict may say of all that was written in one entry only: go on otherwise."""
        row = Row(budget=Budget(10_000))
        worker = Worker(row, agent(), model := ScriptedModel(says("Done.")))
        append, asked = worker.log.append, 0

        def answer_the_second(entry: Entry) -> Any:
            nonlocal asked
            asked += entry.reserve is not None
            if entry.reserve is None or asked > 1:
                return append(entry)
            verdict = asyncio.get_running_loop().create_future()
            verdict.set_result(Verdict(kind="continue", budgeted=True))
            return verdict

        worker.log.append = answer_the_second  # type: ignore[method-assign]
        await worker.go()
        assert (row.status, asked, len(model.requests)) == ("completed", 2, 1)


class TestNotGranted:
    async def test_over_budget_the_run_fails_before_the_model_is_called(self) -> None:
        row, model = Row(budget=Budget(50)), ScriptedModel()
        outcome = await work(row, agent(), model)
        assert (outcome.kind, outcome.code, row.error) == ("failed", "BUDGET_EXCEEDED", "BUDGET_EXCEEDED")
        assert not model.requests
        assert row.detail == {
            "message": "Step 1 does not fit into what is left of the budget of all runs for today.",
            "limit": "budget",
            "reason": "exceeded",
            "scope": "all",
            "period": "day",
            "step": 1,
        }

    async def test_or_waits_in_the_queue_until_there_is_room(self) -> None:
        row = Row(budget=Budget(50, on_budget="wait"))
        outcome = await work(row, agent(), ScriptedModel())
        assert (outcome.kind, outcome.code, row.status) == ("released", "budget", "pending")
        left = row.transitions[-1]
        assert (left.reason, left.delay_ms, left.counted) == ("budget", 3_600_000, False)
        assert row.detail["waiting_for"] == "budget"
        assert row.detail["reason"] == "exceeded"
        row.budget.tokens = 10_000  # type: ignore[union-attr]
        await work(row, agent(), ScriptedModel(says("Done.")))
        assert row.status == "completed"

    async def test_what_others_hold_is_waited_for(self) -> None:
        budget = Budget(1_000)
        first, second = Row(budget=budget), Row(budget=budget)

        async def meanwhile() -> Any:
            outcome = await work(second, agent(bound=900), ScriptedModel())
            assert outcome.code == "budget"
            assert second.transitions[-1].delay_ms == 7_000
            assert second.detail["message"].startswith("Other runs have reserved")
            return says("Done.")

        await work(first, agent(bound=900), ScriptedModel(meanwhile))
        await work(second, agent(bound=900), ScriptedModel(says("Done.")))
        assert (first.status, second.status) == ("completed", "completed")

    async def test_in_usd_without_a_price(self) -> None:
        row, model = Row(budget=Budget(10_000, usd=1.0, on_budget="wait")), ScriptedModel()
        await work(row, agent(), model, price=lambda model, usage: None)
        assert (row.error, row.detail["reason"], model.requests) == ("BUDGET_EXCEEDED", "no_price", [])
        assert (
            row.detail["message"]
            == "The budget of all runs for today is in USD, and no price of the model m is known."
        )
        assert (reserves(row)[0].min_usd, reserves(row)[0].max_usd) == (None, None)

    async def test_an_answer_that_is_there_is_the_last_word(self) -> None:
        row = Row(budget=Budget(10_000))

        def speak() -> Any:
            row.say("and now?")
            row.budget.tokens = 0  # type: ignore[union-attr]
            return says("Done.")

        await work(row, agent(), ScriptedModel(speak))
        assert (row.status, row.result) == ("completed", {"text": "Done."})

    async def test_which_does_not_keep_a_run_from_waiting_to_hear(self) -> None:
        row = Row(budget=Budget(10_000, on_budget="wait"))

        def speak() -> Any:
            row.say("and now?")
            row.budget.tokens = 0  # type: ignore[union-attr]
            return says("Done.")

        await work(row, agent(), ScriptedModel(speak))
        assert row.status == "pending"


class TestCallsWithoutAStep:
    """What is charged, and what is given back."""

    async def end(self, answer: Any, **options: Any) -> tuple[Row, Budget]:
        budget = Budget(10_000)
        row = Row(budget=budget)
        await work(row, agent(**options), ScriptedModel(answer))
        assert not budget.reserved
        return row, budget

    @pytest.mark.parametrize(
        "answer", [ModelTimeout("slow"), lambda: asyncio.sleep(5), RuntimeError("a fault")]
    )
    async def test_a_call_that_was_never_answered_is_charged_as_estimated(self, answer: Any) -> None:
        row, budget = await self.end(answer, step_timeout_s=0.02)
        assert row.status == "failed"
        assert budget.charged == [reserves(row)[0].max_tokens]

    @pytest.mark.parametrize("answer", [ModelUnavailable("down"), ModelRejected("no", status=400)])
    async def test_an_outage_and_a_refusal_cost_nothing(self, answer: Any) -> None:
        _, budget = await self.end(answer)
        assert (budget.used, budget.charged) == (0, [])

    async def test_a_cancel_in_the_middle_is_charged(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)
        worker = Worker(row, agent(), ScriptedModel(lambda: worker.signals.cancel() or asyncio.sleep(5)))
        await worker.go()
        assert row.status == "cancelled"
        assert budget.charged == [reserves(row)[0].max_tokens]

    async def test_a_cancel_between_grant_and_call_costs_nothing(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)
        worker = Worker(row, agent(), ScriptedModel(asks(("send", {"to": "bo"}))))
        append = worker.log.append

        def cancel_before_the_second(entry: Entry) -> Any:
            row.cancel_requested = entry.reserve is not None and bool(row.steps)
            return append(entry)

        worker.log.append = cancel_before_the_second  # type: ignore[method-assign]
        await worker.go()
        assert (row.status, len(reserves(row))) == ("cancelled", 2)
        assert (budget.used, budget.charged, budget.reserved) == (15, [], {}), "the step, and nothing else"

    async def test_a_lost_worker_is_charged(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)
        worker = Worker(row, agent(), model := ScriptedModel(lambda: asyncio.sleep(5)))
        worker.start()
        await eventually(lambda: model.requests)
        await worker.crash()
        assert budget.charged == [reserves(row)[0].max_tokens]
        await work(row, agent(), ScriptedModel(says("Done.")))
        assert (row.status, budget.reserved) == ("completed", {})

    async def test_an_answer_that_the_log_refuses_is_charged_as_estimated(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)
        worker = Worker(row, agent(), ScriptedModel(says("Done.")))
        append = worker.log.append

        def refuse_steps(entry: Entry) -> Any:
            if entry.step is None:
                return append(entry)
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(StoreError("not storable"))
            return refused

        worker.log.append = refuse_steps  # type: ignore[method-assign]
        await worker.go()
        assert row.error == "INTERNAL_ERROR"
        assert budget.charged == [reserves(row)[0].max_tokens]

    async def test_a_step_whose_calls_are_stopped_is_charged_as_it_was(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)

        def tighten() -> Any:
            row.limits = {"max_tool_calls": 0}
            return asks(("send", {"to": "bo"}))

        await work(row, agent(), ScriptedModel(tighten))
        assert row.error == "MAX_TOOL_CALLS_EXCEEDED"
        assert (budget.used, budget.charged, budget.reserved) == (15, [], {})

    async def test_a_recorded_step_is_not_charged_twice_when_the_run_ends_for_it(self) -> None:
        budget = Budget(10_000)
        row = Row(budget=budget)
        await work(row, agent(max_tokens=1_000), ScriptedModel(asks(FIND, usage=(900, 400))))
        assert (row.error, budget.used, budget.charged) == ("MAX_TOKENS_EXCEEDED", 1_300, [])
