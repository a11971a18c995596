"""Three effects, and workers that die at every moment: what runs twice, what never does, and who is asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from loop_support import Row, ScriptedModel, Worker, asks, says, work

from runhold import Agent, RunContext, ToolFailed, tool
from runhold.agents import Effect
from runhold.testing.chaos.patience import eventually

EFFECTS: list[Effect] = ["read", "idempotent", "unsafe"]


class World:
    """What tools do to the world, and what they find there."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.keys: list[str] = []
        self.act: Callable[[], Awaitable[Any]] = self._nothing
        self.row = Row()

    async def _nothing(self) -> None:
        return None

    def agent(self, effect: Effect, **options: Any) -> Agent:
        @tool(effect=effect, name="act", **options)
        async def act(ctx: RunContext, what: str) -> str:
            self.keys.append(ctx.idempotency_key)
            if effect != "read":
                stored = self.row.calls.get((1, 0))
                assert stored is not None, "the intent is durable before the effect"
                assert stored.status == "running"
            await self.act()
            self.done.append(what)
            return f"did {what}"

        return Agent(type="helper", model="m", instructions="i", tools=[act])


@pytest.fixture
def world() -> World:
    return World()


ACT = ("act", {"what": "it"})


@pytest.mark.parametrize("effect", EFFECTS)
class TestAWorkerDies:
    async def test_before_the_intent_is_durable(self, world: World, effect: Effect) -> None:
        worker = Worker(world.row, world.agent(effect), ScriptedModel(asks(ACT)))
        worker.log.hold = True
        worker.start()
        await asyncio.sleep(0.02)
        assert world.done == (["it"] if effect == "read" else [])
        await worker.crash()
        assert world.row.status == "pending"
        assert not world.row.steps
        await work(world.row, world.agent(effect), ScriptedModel(asks(ACT), says("Done.")))
        assert world.row.status == "completed"
        assert world.done.count("it") == (2 if effect == "read" else 1)

    async def test_between_the_intent_and_the_effect(self, world: World, effect: Effect) -> None:
        worker = Worker(world.row, world.agent(effect), ScriptedModel(asks(ACT)))
        worker.signals.lease_ok = effect == "read"
        if effect == "read":
            world.act = lambda: asyncio.sleep(9)
        worker.start()
        await eventually(lambda: (1, 0) in world.row.calls)
        await worker.crash()
        assert not world.done
        world.act = world._nothing
        if effect == "unsafe":
            assert world.row.status == "awaiting_review", "nobody can know that it did not happen"
            assert world.row.call().status == "unknown"
        else:
            await work(world.row, world.agent(effect), ScriptedModel(says("Done.")))
            assert world.row.status == "completed"
            assert world.done == ["it"]
            assert world.row.call().attempt == 2

    async def test_during_the_effect(self, world: World, effect: Effect) -> None:
        worker = Worker(world.row, world.agent(effect), ScriptedModel(asks(ACT)))
        world.act = lambda: asyncio.sleep(9)
        worker.start()
        await eventually(lambda: world.keys)
        await eventually(lambda: (1, 0) in world.row.calls)
        await worker.crash()
        world.act = world._nothing
        if effect == "unsafe":
            assert world.row.status == "awaiting_review"
            world.row.decide("approved", answer={"outcome": "again"})
        await work(world.row, world.agent(effect), ScriptedModel(says("Done.")))
        assert world.row.status == "completed"
        assert world.done == ["it"]
        assert world.keys[0] == world.keys[1], "the same call has the same key"

    async def test_after_the_effect_before_its_result_is_durable(self, world: World, effect: Effect) -> None:
        worker = Worker(world.row, world.agent(effect), ScriptedModel(asks(ACT), lambda: asyncio.sleep(9)))

        async def stop_recording() -> None:
            await eventually(lambda: (1, 0) in world.row.calls)
            worker.log.hold = True

        world.act = stop_recording
        worker.start()
        await eventually(lambda: world.done)
        await asyncio.sleep(0.01)
        await worker.crash()
        world.act = world._nothing
        if effect == "unsafe":
            assert world.row.call().status == "unknown"
            world.row.decide("approved", answer={"outcome": "happened", "result": "did it"})
        model = ScriptedModel(says("Done."))
        await work(world.row, world.agent(effect), model)
        assert world.row.status == "completed"
        assert world.done.count("it") == (1 if effect == "unsafe" else 2)
        assert model.last_messages[-1]["content"] == "did it"

    async def test_after_the_result_is_durable(self, world: World, effect: Effect) -> None:
        worker = Worker(world.row, world.agent(effect), ScriptedModel(asks(ACT), lambda: asyncio.sleep(9)))
        worker.start()
        await eventually(lambda: world.row.calls.get((1, 0)) and world.row.call().status == "succeeded")
        await worker.crash()
        await work(world.row, world.agent(effect), ScriptedModel(says("Done.")))
        assert world.done == ["it"]
        assert world.row.status == "completed"


async def raise_error() -> None:
    raise RuntimeError("the line broke")


async def refuse() -> None:
    raise ToolFailed("the address is not ours")


async def cancel_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("effect", EFFECTS)
class TestATool:
    @pytest.mark.parametrize("act", [raise_error, cancel_itself])
    async def test_breaks(self, world: World, effect: Effect, act: Any) -> None:
        world.act = act
        model = ScriptedModel(asks(ACT), says("Done."))
        outcome = await work(world.row, world.agent(effect), model)
        call = world.row.call()
        if effect == "unsafe":
            assert (outcome.kind, call.status) == ("awaiting_review", "unknown")
            assert world.row.reviews[0].kind == "unknown_outcome"
            assert len(model.requests) == 1
        else:
            assert (outcome.kind, call.status) == ("completed", "failed")
            assert model.last_messages[-1]["content"].startswith("Error: ")

    async def test_takes_too_long(self, world: World, effect: Effect) -> None:
        world.act = lambda: asyncio.sleep(9)
        outcome = await work(
            world.row, world.agent(effect, timeout=0.02), ScriptedModel(asks(ACT), says("Done."))
        )
        call = world.row.call()
        assert "timed out after 0.02 s" in (call.error or "")
        if effect == "unsafe":
            assert (outcome.kind, call.status) == ("awaiting_review", "unknown")
        else:
            assert (outcome.kind, call.status) == ("completed", "failed")

    async def test_vouches_that_nothing_happened(self, world: World, effect: Effect) -> None:
        world.act = refuse
        model = ScriptedModel(asks(ACT), says("Done."))
        outcome = await work(world.row, world.agent(effect), model)
        assert (outcome.kind, world.row.call().status) == ("completed", "failed")
        assert model.last_messages[-1]["content"] == "Error: the address is not ours"


async def test_a_person_stops_a_run_whose_outcome_is_unknown(world: World) -> None:
    world.act = raise_error
    await work(world.row, world.agent("unsafe"), ScriptedModel(asks(ACT)))
    world.row.decide("rejected", comment="no")
    await work(world.row, world.agent("unsafe"), ScriptedModel())
    assert world.row.error == "STOPPED_BY_REVIEWER"


async def test_running_it_again_takes_one_fresh_approval(world: World) -> None:
    world.act = raise_error
    await work(world.row, world.agent("unsafe"), ScriptedModel(asks(ACT)))
    world.row.decide("approved", answer={"outcome": "again"})
    outcome = await work(world.row, world.agent("unsafe"), ScriptedModel())
    assert outcome.kind == "awaiting_review"
    assert [review.status for review in world.row.reviews] == ["approved", "pending"]
    assert world.row.reviews[0].used


async def test_parallel_calls_run_at_the_same_time(world: World) -> None:
    together = asyncio.Barrier(3)
    world.act = lambda: asyncio.wait_for(together.wait(), 2)
    calls = [("act", {"what": name}) for name in ("a", "b", "c")]
    model = ScriptedModel(asks(*calls), says("Done."))
    await work(world.row, world.agent("read"), model)
    assert [m["content"] for m in model.last_messages[-3:]] == ["did a", "did b", "did c"]


async def test_each_result_is_written_when_it_is_known(world: World) -> None:
    slow = asyncio.Event()

    @tool
    async def quick() -> str:
        return "quick"

    @tool
    async def patient() -> str:
        await slow.wait()
        return "patient"

    agent = Agent(type="helper", model="m", instructions="i", tools=[quick, patient])
    worker = Worker(world.row, agent, ScriptedModel(asks(("quick", {}), ("patient", {})), says("Done.")))
    task = worker.start()
    await eventually(lambda: (1, 0) in world.row.calls and world.row.call(1, 0).status == "succeeded")
    assert world.row.call(1, 1).status == "running"
    slow.set()
    assert (await task).kind == "completed"


async def test_a_step_that_only_reads_is_not_waited_for(world: World) -> None:
    worker = Worker(world.row, world.agent("read"), model := ScriptedModel(asks(ACT), says("Done.")))
    worker.log.hold = True
    task = worker.start()
    await eventually(lambda: len(model.requests) == 2)
    assert not world.row.steps, "the second call is made while the first step is still on its way"
    await asyncio.sleep(0.02)
    assert not task.done(), "but nothing more is written before it is confirmed"
    worker.log.hold = False
    worker.log.release()
    assert (await task).kind == "completed"
    assert world.row.max_unconfirmed_steps == 1


async def test_an_effect_waits_for_the_lease(world: World) -> None:
    worker = Worker(world.row, world.agent("unsafe"), ScriptedModel(asks(ACT), says("Done.")))
    worker.signals.lease_ok = False
    task = worker.start()
    await eventually(lambda: (1, 0) in world.row.calls)
    await asyncio.sleep(0.05)
    assert not world.done
    worker.signals.lease_ok = True
    assert (await task).kind == "completed"
    assert world.done == ["it"]


async def test_an_effect_that_never_gets_its_lease_is_told_as_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runhold.loop.calls.LEASE_WAIT_S", 0.05)
    worker = Worker(world.row, world.agent("unsafe"), ScriptedModel(asks(ACT), says("Done.")))
    worker.signals.lease_ok = False
    await worker.go()
    assert world.row.call().status == "failed"
    assert "was not run" in (world.row.call().error or "")
    assert not world.done


class TestBlockingFunctions:
    def agent(self, effect: Effect, function: Callable[[], Any], **options: Any) -> Agent:
        @tool(effect=effect, name="act", **options)
        def act() -> Any:
            return function()

        return Agent(type="helper", model="m", instructions="i", tools=[act])

    async def test_run_in_threads(self) -> None:
        row = Row()
        await work(row, self.agent("unsafe", lambda: "did"), ScriptedModel(asks(("act", {})), says("Done.")))
        assert row.call().output == "did"

    async def test_that_take_too_long_are_unknown(self) -> None:
        row = Row()
        agent = self.agent("unsafe", lambda: time.sleep(0.2), timeout=0.02)
        outcome = await work(row, agent, ScriptedModel(asks(("act", {}))))
        assert (outcome.kind, row.call().status) == ("awaiting_review", "unknown")

    async def test_are_timed_from_their_start(self) -> None:
        row = Row()
        agent = self.agent("read", lambda: time.sleep(0.06), timeout=0.1)
        model = ScriptedModel(asks(("act", {}), ("act", {})), says("Done."))
        with ThreadPoolExecutor(1) as one:
            await work(row, agent, model, executor=one)
        assert [row.call(1, n).status for n in range(2)] == ["succeeded", "succeeded"]

    async def test_that_never_get_a_thread_provably_did_not_run(self) -> None:
        row, ran = Row(), []
        agent = self.agent("unsafe", lambda: ran.append(1), timeout=0.03)
        with ThreadPoolExecutor(1) as busy:
            busy.submit(time.sleep, 0.2)
            await work(row, agent, ScriptedModel(asks(("act", {})), says("Done.")), executor=busy)
        assert (row.call().status, ran) == ("failed", [])
        assert "no thread was free" in (row.call().error or "")

    @pytest.mark.parametrize("effect", EFFECTS)
    @pytest.mark.parametrize("what", ["the cancel", "the end of the lease"])
    async def test_that_wait_for_a_thread_do_not_start_after(self, effect: Effect, what: str) -> None:
        row, ran, free = Row(), [], threading.Event()
        agent = self.agent(effect, lambda: ran.append(1), timeout=5)
        with ThreadPoolExecutor(1) as busy:
            busy.submit(free.wait)
            await eventually(lambda: not busy._work_queue.qsize())  # pyright: ignore[reportPrivateUsage]
            worker = Worker(row, agent, ScriptedModel(asks(("act", {})), says("Done.")), executor=busy)
            task = worker.start()
            await eventually(lambda: busy._work_queue.qsize())  # pyright: ignore[reportPrivateUsage]
            if what == "the cancel":
                worker.signals.cancel()
            else:
                worker.signals.lease_ok = False
            free.set()
            outcome = await asyncio.wait_for(task, 3)
        if what == "the cancel":
            assert (outcome.kind, ran, row.call().status) == ("cancelled", [], "failed")
        elif effect == "read":  # it changes nothing, whosever the run is
            assert ran == [1]
        else:
            assert (ran, row.call().status) == ([], "failed")
            assert "about to lose the run" in (row.call().error or "")

    async def test_that_exit_do_not_take_the_worker_along(self) -> None:
        def leave() -> None:
            raise SystemExit(1)

        row = Row()
        await work(row, self.agent("read", leave), ScriptedModel(asks(("act", {})), says("Done.")))
        assert row.call().status == "failed"


async def test_a_tool_that_ignores_its_time_out_is_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runhold.loop.calls.ABANDON_AFTER_S", 0.05)
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    world.act = stubborn
    outcome = await work(world.row, world.agent("unsafe", timeout=0.02), ScriptedModel(asks(ACT)))
    assert (outcome.kind, world.row.call().status) == ("awaiting_review", "unknown")
    release.set()


async def test_idempotency_keys_differ_between_calls(world: World) -> None:
    model = ScriptedModel(asks(ACT, ("act", {"what": "other"})), asks(ACT), says("Done."))
    await work(world.row, world.agent("idempotent"), model)
    assert len(set(world.keys)) == 3
    assert world.keys[0].startswith(f"{world.row.id}:1:0:")
