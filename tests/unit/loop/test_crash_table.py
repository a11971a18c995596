"""The crash table of ``docs/guides/reliability.md``: a worker dies at every moment, for every effect, gated or not.

Each cell says what becomes of the call. The next worker knows nothing but the log.
"""

# ruff: noqa: E731
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from loop_support import Row, ScriptedModel, Worker, asks, says, work

from runhold import Agent, RunContext, tool
from runhold.agents import Effect
from runhold.testing.chaos.patience import eventually

EFFECTS: tuple[Effect, ...] = ("read", "idempotent", "unsafe")

FREE: dict[str, tuple[str, str, str]] = {
    # the worker dies                                         read           idempotent     unsafe
    "before the step is recorded":                          ("asked again", "asked again", "asked again"),
    "before it hears that the step is recorded":            ("runs again",  "runs again",  "unknown"),
    "after the intent, before the tool starts":             ("runs again",  "runs again",  "unknown"),
    "while the tool runs":                                  ("runs again",  "runs again",  "unknown"),
    "after the effect, before its result is recorded":      ("runs again",  "runs again",  "unknown"),
    "before it hears that the result is recorded":          ("goes on",     "goes on",     "goes on"),
    "after the result is recorded":                         ("goes on",     "goes on",     "goes on"),
    "before the end is recorded":                           ("asked again", "asked again", "asked again"),
    "before it hears that the end is recorded":             ("has ended",   "has ended",   "has ended"),
}  # fmt: skip

GATED: dict[str, tuple[str, str, str]] = {
    # the worker dies                                         read           idempotent     unsafe
    "before the question is recorded":                      ("asked again", "asked again", "asked again"),
    "before it hears that the question is recorded":        ("waits",       "waits",       "waits"),
    "before it takes the approval":                         ("taken once",  "taken once",  "taken once"),
    "before it hears that it took the approval":            ("runs again",  "runs again",  "unknown"),
    "after it took the approval, before the tool starts":   ("runs again",  "runs again",  "unknown"),
    "while the tool runs":                                  ("runs again",  "runs again",  "unknown"),
    "after the effect, before its result is recorded":      ("runs again",  "runs again",  "unknown"),
    "before it hears that the result is recorded":          ("goes on",     "goes on",     "goes on"),
    "after the result is recorded":                         ("goes on",     "goes on",     "goes on"),
    "before the end is recorded":                           ("asked again", "asked again", "asked again"),
    "before it hears that the end is recorded":             ("has ended",   "has ended",   "has ended"),
}  # fmt: skip

CELLS = [
    pytest.param(moment, effect, gated, cell, id=f"{moment}, {effect}, {'gated' if gated else 'free'}")
    for gated, table in ((False, FREE), (True, GATED))
    for moment, cells in table.items()
    for effect, cell in zip(EFFECTS, cells, strict=True)
]

ACT = ("act", {"what": "it"})


class Scene:
    """A run whose model calls one tool and then answers, and the worker that is to die.

    :ivar started: the idempotency key of each time that the tool started.
    :ivar done: how often its effect happened.
    :ivar too_early: whether something that changes the world started before its intent was durable.
    """

    def __init__(self, effect: Effect, *, gated: bool) -> None:
        self.started: list[str] = []
        self.done = 0
        self.too_early = False
        self.row = Row()
        self.effect: Effect = effect
        self.gated = gated
        self.on_start: Callable[[], Awaitable[None]] | None = None
        self.on_done: Callable[[], None] = lambda: None
        self.dying: Worker

        @tool(effect=effect, approval=gated, name="act")
        async def act(ctx: RunContext, what: str) -> str:
            if effect != "read":
                call = self.row.calls.get((1, 0))
                self.too_early |= call is None or call.status != "running"
            self.started.append(ctx.idempotency_key)
            if self.on_start is not None:
                await self.on_start()
            self.done += 1
            self.on_done()
            return f"did {what}"

        self.agent = Agent(type="helper", model="m", instructions="i", tools=[act])

    def worker(self, *script: Any) -> Worker:
        self.dying = Worker(self.row, self.agent, ScriptedModel(*script))
        return self.dying

    async def until_approved(self) -> None:
        """A worker asked, a person agreed."""
        await work(self.row, self.agent, ScriptedModel(asks(ACT)))
        self.row.decide("approved")

    async def die(self, moment: str) -> None:
        """Let the first worker get to ``moment``, and no further."""
        asks_person = moment in (
            "before the question is recorded",
            "before it hears that the question is recorded",
        )
        if self.gated and not asks_person:
            await self.until_approved()
        first = self.worker(*([] if self.row.steps else [asks(ACT)]), hang)
        row, log = self.row, first.log
        match moment:
            case (
                "before the step is recorded"
                | "before the question is recorded"
                | "before it takes the approval"
            ):
                log.hold = True
                reached = lambda: log.held
            case (
                "before it hears that the step is recorded" | "before it hears that the question is recorded"
            ):
                log.lose_answers = True
                reached = lambda: (1, 0) in row.calls
            case "before it hears that it took the approval":
                log.lose_answers = True
                reached = lambda: row.call().status == "running"
            case (
                "after the intent, before the tool starts"
                | "after it took the approval, before the tool starts"
            ):
                self._lose_the_lease_with_the_intent()
                reached = lambda: (1, 0) in row.calls and row.call().status == "running"
            case "while the tool runs":
                self.on_start = hang
                reached = lambda: self.started and (1, 0) in row.calls
            case "after the effect, before its result is recorded":
                self.on_start, self.on_done = self._intent_is_durable, lambda: setattr(log, "hold", True)
                reached = lambda: any(entry.results for entry in log.held)
            case "before it hears that the result is recorded":
                self.on_start, self.on_done = (
                    self._intent_is_durable,
                    lambda: setattr(log, "lose_answers", True),
                )
                reached = lambda: (1, 0) in row.calls and row.call().status == "succeeded"
            case "after the result is recorded":
                reached = lambda: (1, 0) in row.calls and row.call().status == "succeeded"
            case "before the end is recorded":
                self._answer_with(lambda: setattr(log, "hold", True))
                reached = lambda: any(entry.transition for entry in log.held)
            case "before it hears that the end is recorded":
                self._answer_with(lambda: setattr(log, "lose_answers", True))
                reached = lambda: row.status == "completed"
            case _:
                raise AssertionError(moment)
        first.start()
        await eventually(reached)
        for _ in range(30):  # it would go on now, if it did
            await asyncio.sleep(0)
        await first.crash()
        self.on_start, self.on_done = None, lambda: None

    def _lose_the_lease_with_the_intent(self) -> None:
        """Nothing that changes the world starts without it. A read does start, and gets no further."""
        if self.effect == "read":
            self.on_start = hang
        apply, signals = self.row.apply, self.dying.signals

        def then_lose(entry: Any, fence: int) -> Any:
            if entry.starts or entry.calls:
                signals.lease_ok = False
            return apply(entry, fence)

        self.row.apply = then_lose  # pyright: ignore[reportAttributeAccessIssue]

    async def _intent_is_durable(self) -> None:
        """A read runs ahead of its record: let that arrive first."""
        await eventually(lambda: (1, 0) in self.row.calls)

    def _answer_with(self, then: Callable[[], None]) -> None:
        def answer() -> Any:
            then()
            return says("Done.")

        script = self.row.models[-1].script
        script[-1] = answer


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("moment", "effect", "gated", "cell"), CELLS)
async def test_what_becomes_of_the_call(moment: str, effect: Effect, gated: bool, cell: str) -> None:
    scene = Scene(effect, gated=gated)
    await scene.die(moment)
    row, steps, done, started = scene.row, len(scene.row.steps), scene.done, len(scene.started)
    finish = ScriptedModel(says("Done."))

    match cell:
        case "asked again":  # the model is: what it said last is not in the log
            assert row.status == "pending"
            if "end" in moment:
                assert (steps, row.call().status) == (1, "succeeded")
                await work(row, scene.agent, finish)
                assert scene.done == done
            else:
                assert (steps, row.calls, row.reviews) == (0, {}, [])
                assert done == (1 if effect == "read" and not gated else 0), "only reads run ahead"
                again = ScriptedModel(asks(ACT), *([] if gated else [says("Done.")]))
                await work(row, scene.agent, again)
                if gated:
                    row.decide("approved")
                    await work(row, scene.agent, finish)
                assert scene.done == done + 1
        case "runs again":
            assert (row.status, row.call().status) == ("pending", "pending")
            await work(row, scene.agent, finish)
            assert (scene.done, len(scene.started)) == (done + 1, started + 1)
            assert row.call().attempt == 2
            assert len(set(scene.started)) == 1, "the same call has the same key"
            assert [review.used for review in row.reviews] == ([True] if gated else [])
        case "unknown":
            assert (row.status, row.call().status) == ("awaiting_review", "unknown")
            assert [review.kind for review in row.reviews if review.status == "pending"] == [
                "unknown_outcome"
            ]
            row.decide("approved", answer={"outcome": "happened", "result": "did it"})
            await work(row, scene.agent, finish)
            assert (scene.done, len(scene.started)) == (done, started), "it never runs again by itself"
            assert done <= 1
            assert finish.last_messages[-1]["content"] == "did it"
        case "goes on":
            assert (row.status, row.call().status, scene.done) == ("pending", "succeeded", 1)
            await work(row, scene.agent, finish)
            assert scene.done == 1
        case "waits":
            assert (row.status, row.call().status, scene.done) == ("awaiting_review", "awaiting_review", 0)
            row.decide("approved")
            await work(row, scene.agent, finish)
            assert scene.done == 1
        case "taken once":
            assert (row.status, row.call().status) == ("pending", "awaiting_review")
            assert [(review.status, review.used) for review in row.reviews] == [("approved", False)]
            await work(row, scene.agent, finish)
            assert (scene.done, [review.used for review in row.reviews]) == (1, [True])
        case "has ended":
            assert (row.status, scene.done) == ("completed", 1)
        case _:
            raise AssertionError(cell)

    assert (row.status, row.result) == ("completed", {"text": "Done."})
    assert not scene.too_early


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("decided", ["before the next claim", "after it"])
async def test_before_the_pause_is_recorded(effect: Effect, decided: str) -> None:
    """A step with a free call and a gated one: the question is durable, the pause is not."""
    scene = Scene(effect, gated=True)

    @tool(effect="read")
    async def find() -> str:
        return "found"

    scene.agent = Agent(type="helper", model="m", instructions="i", tools=[*scene.agent.tools, find])
    worker = scene.worker(asks(ACT, ("find", {})))
    apply = scene.row.apply

    def hold_the_pause(entry: Any, fence: int) -> Any:
        worker.log.hold = bool(entry.results)
        return apply(entry, fence)

    scene.row.apply = hold_the_pause  # pyright: ignore[reportAttributeAccessIssue]
    worker.start()
    await eventually(lambda: any(entry.transition for entry in worker.log.held))
    await worker.crash()
    scene.row.apply = apply  # pyright: ignore[reportAttributeAccessIssue]
    assert scene.row.status == "pending"
    if decided == "after it":
        outcome = await work(scene.row, scene.agent, ScriptedModel())
        assert (outcome.kind, scene.row.status) == ("awaiting_review", "awaiting_review")
    assert len(scene.row.reviews) == 1, "nobody is asked twice"
    scene.row.decide("approved")
    await work(scene.row, scene.agent, ScriptedModel(says("Done.")))
    assert (scene.row.status, scene.done) == ("completed", 1)
