"""A cancel is obeyed everywhere, and what happened is recorded all the same (tests/db/test_cancel.py: how it is told)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from loop_support import Row, ScriptedModel, Worker, asks, says, work
from msgspec.structs import replace

from runhold import Agent, tool
from runhold.agents import Effect
from runhold.testing.chaos.patience import eventually

ACT = ("act", {})


class Act:
    """A tool that runs until it is let go."""

    def __init__(self, effect: Effect) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.finished = False

        @tool(effect=effect, name="act")
        async def act() -> str:
            self.started.set()
            await self.go_on.wait()
            self.finished = True
            return "did"

        self.agent = Agent(type="helper", model="m", instructions="i", tools=[act])


def plain() -> Agent:
    return Act("read").agent


async def test_before_the_claim() -> None:
    row = Row(cancel_requested=True)
    model = ScriptedModel()
    outcome = await work(row, plain(), model)
    assert outcome.kind == row.status == "cancelled"
    assert not model.requests


async def test_during_the_models_call() -> None:
    row = Row()
    was_cancelled: list[bool] = []

    async def slow() -> Any:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            was_cancelled.append(True)
            raise

    worker = Worker(row, plain(), model := ScriptedModel(slow))
    task = worker.start()
    await eventually(lambda: model.requests)
    worker.signals.cancel()
    assert (await asyncio.wait_for(task, 1)).kind == "cancelled"
    await eventually(lambda: was_cancelled)
    assert row.transitions[-1].to == row.status == "cancelled"


async def test_a_verdict_that_says_so_ends_the_models_call() -> None:
    act = Act("read")
    act.go_on.set()
    row = Row()
    worker = Worker(row, act.agent, model := ScriptedModel(asks(ACT), lambda: asyncio.sleep(9)))
    worker.log.hold = True
    task = worker.start()
    await eventually(lambda: len(model.requests) == 2)
    row.cancel_requested = True
    worker.log.release()
    worker.log.hold = False
    assert (await asyncio.wait_for(task, 1)).kind == "cancelled"
    assert row.transitions[-1].to == "cancelled"


@pytest.mark.parametrize("what", ["lost", "limit"])
async def test_so_does_a_verdict_that_the_run_is_lost_or_over_a_limit(what: str) -> None:
    act = Act("read")
    act.go_on.set()
    row = Row()
    worker = Worker(row, act.agent, model := ScriptedModel(asks(ACT), lambda: asyncio.sleep(9)))
    worker.log.hold = True
    task = worker.start()
    await eventually(lambda: len(model.requests) == 2)
    if what == "lost":
        row.fence += 1
    else:
        row.limits = {"max_tokens": 1}
    worker.log.release()
    worker.log.hold = False
    outcome = await asyncio.wait_for(task, 1)
    assert (outcome.kind, outcome.code) in [("fenced", None), ("failed", "MAX_TOKENS_EXCEEDED")]


async def test_between_the_answer_and_the_effect_nothing_starts() -> None:
    act, row = Act("unsafe"), Row()

    def cancel_and_ask() -> Any:
        row.cancel_requested = True
        return asks(ACT)

    await work(row, act.agent, ScriptedModel(cancel_and_ask))
    assert row.status == "cancelled"
    assert not act.started.is_set()
    assert len(row.steps) == 1, "what was spent is recorded"
    assert row.calls == {}


async def test_between_the_intent_and_the_effect_nothing_starts() -> None:
    act, row = Act("unsafe"), Row()
    worker = Worker(row, act.agent, ScriptedModel(asks(ACT)))
    worker.signals.lease_ok = False
    task = worker.start()
    await eventually(lambda: (1, 0) in row.calls)
    worker.signals.cancel()
    await asyncio.wait_for(task, 1)
    assert row.status == "cancelled"
    assert row.call().status == "failed"
    assert "was not run" in (row.call().error or "")
    assert not act.started.is_set()


@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_what_can_be_repeated_ends_at_once(effect: Effect) -> None:
    act, row = Act(effect), Row()
    worker = Worker(row, act.agent, ScriptedModel(asks(ACT)))
    task = worker.start()
    await act.started.wait()
    worker.signals.cancel()
    await asyncio.wait_for(task, 1)
    assert row.status == "cancelled"
    assert (row.cut_off, row.entries[-1].results) == ({(1, 0)}, [])
    tried = [entry.transition.to for entry in row.entries if entry.transition is not None]
    assert tried == ["cancelled"], "nobody is waited for"
    assert not act.finished


async def test_a_repeatable_thread_that_runs_on_is_cut_off_and_not_called_a_failure() -> None:
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @tool(effect="idempotent")
    def act() -> str:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(5)
        return "did"

    row = Row()
    agent = Agent(type="helper", model="m", instructions="i", tools=[act])
    worker = Worker(row, agent, ScriptedModel(asks(ACT)))
    task = worker.start()
    await started.wait()
    worker.signals.cancel()
    await asyncio.wait_for(task, 3)
    go_on.set()
    assert (row.status, row.cut_off) == ("cancelled", {(1, 0)})


async def test_what_can_not_be_undone_may_finish() -> None:
    act, row = Act("unsafe"), Row()
    worker = Worker(row, act.agent, ScriptedModel(asks(ACT)))
    task = worker.start()
    await act.started.wait()
    worker.signals.cancel()
    await asyncio.sleep(0.02)
    act.go_on.set()
    await asyncio.wait_for(task, 1)
    assert row.status == "cancelled"
    assert row.call().status == "succeeded"


async def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runhold.loop.calls.CANCEL_GRACE_S", 0.03)
    act, row = Act("unsafe"), Row()
    worker = Worker(row, act.agent, ScriptedModel(asks(ACT)))
    task = worker.start()
    await act.started.wait()
    worker.signals.cancel()
    await asyncio.wait_for(task, 1)
    assert row.status == "cancelled"
    assert row.call().status == "unknown"


@pytest.mark.parametrize("ends", ["in time", "too late"])
async def test_a_thread_that_runs_on_is_told_as_what_is_known_of_it(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can stop a thread: what it does after the grace is not known, and is not called a failure."""
    monkeypatch.setattr("runhold.loop.calls.CANCEL_GRACE_S", 5 if ends == "in time" else 0.03)
    started, go_on, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @tool
    def act() -> str:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(5)
        ended.set()
        return "did"

    row = Row()
    agent = Agent(type="helper", model="m", instructions="i", tools=[act])
    worker = Worker(row, agent, ScriptedModel(asks(ACT)))
    task = worker.start()
    await started.wait()
    worker.signals.cancel()
    if ends == "in time":
        go_on.set()
    await asyncio.wait_for(task, 3)
    go_on.set()
    await eventually(ended.is_set)
    assert row.status == "cancelled"
    assert row.call().status == ("succeeded" if ends == "in time" else "unknown")


async def test_a_result_that_comes_with_the_cancel_is_kept() -> None:
    row = Row()

    def cancel_and_answer() -> Any:
        row.cancel_requested = True
        return says("Done.")

    outcome = await work(row, plain(), ScriptedModel(cancel_and_answer))
    assert outcome.kind == row.status == "cancelled"
    assert row.transitions[-1].to == "completed", "the database keeps the result in error_detail"


async def test_instead_of_a_pause() -> None:
    @tool(approval=True)
    async def act() -> str:
        return "did"

    row = Row()

    def cancel_and_ask() -> Any:
        row.cancel_requested = True
        return asks(ACT)

    agent = Agent(type="helper", model="m", instructions="i", tools=[act])
    outcome = await work(row, agent, ScriptedModel(cancel_and_ask))
    assert outcome.kind == row.status == "cancelled"
    assert not row.reviews


async def test_instead_of_taking_an_approval() -> None:
    ran: list[int] = []

    @tool(approval=True)
    async def act() -> str:
        ran.append(1)
        return "did"

    row = Row()
    agent = Agent(type="helper", model="m", instructions="i", tools=[act])
    await work(row, agent, ScriptedModel(asks(ACT)))
    row.decide("approved")
    worker = Worker(row, agent, ScriptedModel())
    row.cancel_requested = True  # after the claim: only the database knows
    outcome = await worker.go()
    assert (outcome.kind, ran) == ("cancelled", [])
    assert not row.reviews[0].used


@pytest.mark.parametrize(("effect", "told"), [("read", []), ("idempotent", []), ("unsafe", ["unknown"])])
async def test_of_what_an_end_cuts_off_only_what_may_have_happened_is_told(
    effect: Effect, told: list[str]
) -> None:
    """What can be repeated stays as it is: the database marks it, and a retry runs it again."""
    act, row = Act(effect), Row()
    worker = Worker(row, act.agent, ScriptedModel(asks(ACT)))
    worker.start()
    await act.started.wait()
    await eventually(lambda: row.calls)
    await worker.crash()
    row.status, row.reviews, row.cancel_requested = "pending", [], True
    row.calls = {key: replace(call, status="running") for key, call in row.calls.items()}
    await work(row, act.agent, ScriptedModel())
    assert row.status == "cancelled"
    assert [result.status for result in row.entries[-1].results] == told
