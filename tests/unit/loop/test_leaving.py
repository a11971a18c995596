"""Shutdown, a lost run, a missing tool, messages of people: what makes a run go another way."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from loop_support import Row, ScriptedModel, Worker, asks, says, work

from runhold import Agent, Limits, RunContext, tool
from runhold.errors import ContentRejected, RecordTooLarge, StoreError
from runhold.loop.ports import Entry, PersonMessage, ReleaseReason, Verdict
from runhold.testing.chaos.patience import eventually


@tool(effect="read")
async def find(ctx: RunContext, query: str = "") -> str:
    return query


@tool(effect="idempotent")
async def note(ctx: RunContext, key: str, value: Any) -> None:
    ctx.state[key] = value


AGENT = Agent(type="helper", model="m", instructions="i", tools=[find, note])
FIND = ("find", {"query": "x"})


class TestBeingSentAway:
    @pytest.mark.parametrize("reason", ["shutdown", "agent_disabled"])
    async def test_ends_at_the_end_of_the_step(self, reason: ReleaseReason) -> None:
        row = Row()
        worker = Worker(row, AGENT, ScriptedModel(lambda: drain() or asks(FIND)))

        def drain() -> None:
            worker.signals.leave_because = reason

        outcome = await worker.go()
        assert (outcome.kind, outcome.code, row.status) == ("released", reason, "pending")
        assert row.call().status == "succeeded"
        await work(row, AGENT, ScriptedModel(says("Done.")))
        assert row.status == "completed"

    async def test_starts_nothing(self) -> None:
        row, model = Row(), ScriptedModel()
        worker = Worker(row, AGENT, model)
        worker.signals.leave_because = "shutdown"
        assert (await worker.go()).kind == "released"
        assert not model.requests


class TestALostRun:
    async def test_ends_without_another_word(self) -> None:
        row = Row()

        def lose() -> Any:
            row.fence += 1
            return asks(FIND)

        outcome = await work(row, AGENT, ScriptedModel(lose, says("never seen")))
        assert outcome.kind == "fenced"
        assert not row.entries

    async def test_cancels_what_runs(self) -> None:
        cancelled = asyncio.Event()

        @tool(effect="read")
        async def wait() -> None:
            try:
                await asyncio.sleep(9)
            finally:
                cancelled.set()

        row = Row()
        agent = Agent(type="helper", model="m", instructions="i", tools=[wait])
        worker = Worker(row, agent, ScriptedModel(lambda: asks(("wait", {}))))
        row.fence += 1
        assert (await worker.go()).kind == "fenced"
        await asyncio.wait_for(cancelled.wait(), 1)

    async def test_that_the_worker_gives_up_writes_nothing_more(self) -> None:
        row = Row()
        worker = Worker(row, AGENT, model := ScriptedModel(lambda: asyncio.sleep(9)))
        task = worker.start()
        await eventually(lambda: model.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not row.entries


async def test_a_tool_that_the_log_needs_and_this_worker_lacks() -> None:
    row = Row()
    hang = asyncio.Event()

    @tool(effect="read")
    async def rare() -> None:
        hang.set()
        await asyncio.sleep(9)

    other = Agent(type="helper", model="m", instructions="i", tools=[rare])
    worker = Worker(row, other, ScriptedModel(asks(("rare", {}))))
    worker.start()
    await eventually(lambda: (1, 0) in row.calls)
    await worker.crash()
    outcome = await work(row, AGENT, ScriptedModel())
    assert (outcome.kind, outcome.code) == ("released", "missing_tool")
    assert row.transitions[-1].delay_ms == 5000
    assert row.detail == outcome.detail
    assert (row.detail["waiting_for"], row.detail["tool"]) == ("tool", "rare")
    assert row.status == "pending"


class TestMessagesOfPeople:
    async def test_are_injected_before_the_next_call(self) -> None:
        said = PersonMessage(id=uuid4(), content="Be brief.")
        row = Row(messages=[said])
        model = ScriptedModel(says("Done."))
        await work(row, AGENT, model)
        assert model.last_messages[-1] == {"role": "user", "content": "Be brief."}
        assert row.steps[0].delivered == [said.id]
        assert not row.messages

    async def test_that_come_meanwhile_are_delivered_once(self) -> None:
        row = Row()
        searching = asks(FIND)

        def speak() -> Any:
            row.messages.append(PersonMessage(id=uuid4(), content="Stop soon."))
            return searching

        model = ScriptedModel(speak, asks(("find", {"query": "y"})), says("Done."))
        await work(row, AGENT, model)
        texts = [message["content"] for message in model.last_messages]
        assert texts.count("Stop soon.") == 1
        assert row.status == "completed"

    async def test_before_the_final_answer_is_recorded_are_heard_first(self) -> None:
        row = Row()
        worker = Worker(row, AGENT, model := ScriptedModel(asks(FIND), lambda: speak(), says("Better.")))

        def speak() -> Any:
            row.messages.append(PersonMessage(id=uuid4(), content="Wait!"))
            worker.log.hold = False
            worker.log.release()
            return says("Done.")

        def hold() -> Any:
            worker.log.hold = True

        worker.log.hold = True
        await worker.go()
        assert row.result == {"text": "Better."}
        assert model.last_messages[-2:] == [
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "Wait!"},
        ]


class TestState:
    async def test_is_stored_only_when_it_changed(self) -> None:
        row = Row(state={"a": 1})
        model = ScriptedModel(
            asks(("note", {"key": "a", "value": 1})), asks(("note", {"key": "a", "value": 2})), says(".")
        )
        await work(row, AGENT, model)
        assert [entry.state for entry in row.entries if entry.results] == [None, {"a": 2}]

    @pytest.mark.parametrize("value", ["x" * 9000, 10**400])
    async def test_that_is_too_large_fails_the_run_loudly(self, value: Any) -> None:
        row = Row()
        await work(row, AGENT, ScriptedModel(asks(("note", {"key": "a", "value": str(value) * 30}))))
        assert row.error == "INTERNAL_ERROR"
        assert "ctx.state has" in row.detail["message"]
        assert row.call().status == "succeeded", "the call itself did what it did"


async def test_an_entry_that_the_database_refuses_fails_its_own_run() -> None:
    row = Row()
    worker = Worker(row, AGENT, ScriptedModel(asks(FIND), says("Done.")))
    append = worker.log.append

    def refuse(entry: Entry) -> Any:
        if entry.step is not None and entry.step.step_number == 1:
            future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreError("too odd to store"))
            return future
        return append(entry)

    worker.log.append = refuse  # pyright: ignore
    outcome = await worker.go()
    assert outcome.code == row.error == "INTERNAL_ERROR"
    assert "too odd" not in str(row.detail)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContentRejected("A gateway rejects it", facts={"status": 403, "bytes": 9}), "CONTENT_REJECTED"),
        (RecordTooLarge("it has 9 bytes", facts={"part": "message", "bytes": 9}), "OUTPUT_TOO_LARGE"),
    ],
)
async def test_what_can_not_be_recorded_has_a_code_of_its_own_and_is_not_done_again(
    error: StoreError, code: str, at_the_end: bool
) -> None:
    row = Row()
    worker = Worker(row, AGENT, model := ScriptedModel(asks(FIND), says("Done.")))
    append = worker.log.append

    def refuse(entry: Entry) -> Any:
        ends = entry.transition is not None and entry.transition.to == "completed"
        if ends if at_the_end else bool(entry.results):
            future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            return future
        return append(entry)

    worker.log.append = refuse  # pyright: ignore
    assert (await worker.go()).code == row.error == code
    assert row.detail["bytes"] == 9
    assert row.detail["message"].endswith(".")
    assert row.status == "failed"
    assert len(model.requests) <= 2


async def test_a_result_that_the_database_refuses_fails_the_run() -> None:
    row = Row()
    worker = Worker(row, AGENT, ScriptedModel(says("Done.")))
    append = worker.log.append

    def refuse(entry: Entry) -> Any:
        if entry.transition is not None and entry.transition.to == "completed":
            future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreError("too odd to store"))
            return future
        return append(entry)

    worker.log.append = refuse  # pyright: ignore
    assert (await worker.go()).code == row.error == "INTERNAL_ERROR"


async def test_a_run_that_has_its_answer_already_completes_without_a_call() -> None:
    row = Row()
    strict = Agent(type="helper", model="m", instructions="i", output_type=dict[str, int])
    await work(row, strict, ScriptedModel(says("text"), says("text"), says("text")))
    assert row.error == "INVALID_OUTPUT"
    row.status = "pending"  # retried after a deploy that takes any text
    await work(row, AGENT, model := ScriptedModel())
    assert (row.result, model.requests) == ({"text": "text"}, [])


async def test_active_time_is_recorded_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row()
    worker = Worker(row, AGENT, ScriptedModel(lambda: tick() or asks(FIND), lambda: tick() or says("Done.")))

    def tick() -> None:
        worker.clock.advance(1.2345)

    await worker.go()
    assert row.active_ms == 2469


async def test_tools_see_whom_they_work_for() -> None:
    seen: list[RunContext] = []

    @tool(effect="read")
    def look(ctx: RunContext) -> None:
        seen.append(ctx)
        ctx.emit("looked", {"at": "it"})

    row = Row(state={"a": 1})
    agent = Agent(type="helper", model="m", instructions="i", tools=[look], limits=Limits())
    from loop_support import Progress

    progress = Progress()
    client = object()
    await work(
        row,
        agent,
        ScriptedModel(asks(("look", {})), says("Done.")),
        progress=progress,
        user_client=lambda note: client,
    )
    ctx = seen[0]
    assert (ctx.execution_id, ctx.tenant_id, ctx.fence, ctx.state) == (row.id, "acme", 1, {"a": 1})
    assert ctx.supabase is client
    assert ctx.logger.extra == {"run_id": str(row.id), "step": 1}
    assert ("custom", {"step": 1, "event": "looked", "payload": {"at": "it"}}) in progress.events


async def test_a_log_that_refused_an_entry_still_takes_the_end() -> None:
    """As the store does: after one refusal everything is refused but an ending without anything else."""
    row = Row()
    worker = Worker(row, TROUBLE, ScriptedModel(asks(FIND, ("hang", {})), says("Done.")))
    append, broken = worker.log.append, False

    def refuse(entry: Entry) -> Any:
        nonlocal broken
        broken = broken or bool(entry.results)
        only_ends = not (entry.step or entry.calls or entry.results or entry.reviews or entry.starts)
        if not broken or (entry.transition is not None and only_ends):
            return append(entry)
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("too odd to store"))
        return future

    worker.log.append = refuse  # pyright: ignore
    assert (await worker.go()).code == row.error == "INTERNAL_ERROR"


@tool(effect="unsafe")
async def hang() -> None:
    await asyncio.sleep(0.05)


TROUBLE = Agent(type="helper", model="m", instructions="i", tools=[find, hang])


async def test_blocking_tools_tell_from_their_thread_in_the_loop() -> None:
    import threading

    told: list[Any] = []

    class Sink:
        wants_text = False

        def __call__(self, event: str, payload: Any) -> None:
            if event == "custom":
                told.append((threading.current_thread() is threading.main_thread(), payload["payload"]))

    @tool(effect="read")
    def look(ctx: RunContext) -> None:
        ctx.emit("looked", {"at": object()})

    agent = Agent(type="helper", model="m", instructions="i", tools=[look])
    await work(Row(), agent, ScriptedModel(asks(("look", {})), says("Done.")), progress=Sink())
    assert told[0][0] is True
    assert "object" in told[0][1]["at"]


async def test_whoever_watches_hears_of_calls_that_wait_or_fail() -> None:
    from loop_support import Progress

    @tool(approval=True)
    async def act() -> None: ...

    agent = Agent(type="helper", model="m", instructions="i", tools=[act])
    progress = Progress()
    await work(Row(), agent, ScriptedModel(asks(("act", {}), ("nothing", {}))), progress=progress)
    told = [(p["name"], p["status"]) for e, p in progress.events if e == "tool"]
    assert told == [("act", "awaiting_review"), ("nothing", "failed")]


async def test_an_outage_after_a_step_is_a_new_one() -> None:
    from datetime import UTC, datetime

    from runhold.errors import ModelUnavailable

    row = Row(outage_since=datetime(2020, 1, 1, tzinfo=UTC))
    outcome = await work(row, AGENT, ScriptedModel(asks(FIND), ModelUnavailable("503")))
    assert outcome.kind == "released"
