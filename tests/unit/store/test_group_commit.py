"""The one writer: order, exactly-once, no lost answers, whatever the database and the network do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from fake_database import FakeDatabase

from runhold.errors import ContentRejected, RecordTooLarge, Refused, StoreError, StoreUnavailable
from runhold.loop.ports import (
    Entry,
    OpenReview,
    Reserve,
    Result,
    Start,
    Step,
    ToolCall,
    Transition,
    Usage,
    Verdict,
)
from runhold.store import client, group_commit, run_log
from runhold.store.answers import GatewayAnswer
from runhold.store.compound import MAX_BYTES
from runhold.store.group_commit import LINGER_S, LINGER_TURNS, MAX_FLUSH_BYTES, MAX_FLUSH_ENTRIES, GroupCommit

DEFINITION = uuid4()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.0)
    monkeypatch.setattr(run_log, "BUSY_PAUSE_S", (0.0, 0.001))
    monkeypatch.setattr(group_commit, "REJECTED_PAUSE_S", 0.0)


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@asynccontextmanager
async def _writing(database: FakeDatabase, **options: Any) -> AsyncIterator[GroupCommit]:
    writer = GroupCommit(database, uuid4(), **options)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
        if task.done():
            task.result()  # a writer that died is the failure to show
    finally:
        task.cancel()


def _open(database: FakeDatabase, writer: GroupCommit) -> tuple[Any, Any]:
    run_id = uuid4()
    database.claim(run_id)
    return writer.open(run_id, 1), database.runs[str(run_id)]


def _step(number: int, text: str = "") -> Entry:
    step = Step(
        step_number=number,
        definition_id=DEFINITION,
        message={"role": "assistant", "content": text},
        usage=Usage(input_tokens=1, output_tokens=1),
    )
    return Entry(step=step, active_ms=1)


def _call(step: int, position: int = 0, status: Any = "running", **more: Any) -> ToolCall:
    return ToolCall(
        step_number=step,
        position=position,
        call_id="c",
        tool_name="t",
        input={"q": 1},
        effect="read",
        status=status,
        **more,
    )


END = Entry(transition=Transition(to="completed", result={"done": True}))
FAIL = Entry(transition=Transition(to="failed", error="INTERNAL_ERROR"))


async def test_an_idle_writer_sends_soon_and_gathers_while_a_flush_is_under_way(
    database: FakeDatabase,
) -> None:
    database.latency_s = 0.01
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(3)]
        first = logs[0].append(_step(1))
        for _ in range(LINGER_TURNS + 3):  # one for each side to wake, and one to send
            await asyncio.sleep(0)
        assert len(database.calls) == 1
        others = [log.append(_step(1)) for log in logs[1:]]
        again = logs[0].append(_step(2))
        await asyncio.gather(first, again, *others)
        assert [len(call) for call in database.calls] == [1, 3]


async def test_a_quick_read_is_done_and_stored_with_its_step(database: FakeDatabase) -> None:
    """The run goes on in turns of the event loop, as it does for a tool that is a task of its own."""
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(_step(1))
        log.append(Entry(calls=[_call(1)]))

        async def read() -> str:
            await asyncio.sleep(0)
            return "page"

        page = await asyncio.create_task(read())
        assert not database.calls  # nothing was sent before the run went on
        await log.append(Entry(results=[Result(step_number=1, position=0, status="succeeded", output=page)]))
    [entry] = run.entries
    assert entry["calls"][0]["output"] == "page"
    assert "results" not in entry


async def test_entries_of_a_run_are_merged_into_one(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        futures = [
            log.append(Entry(calls=[_call(1, 0), _call(1, 1)], state={"a": 1}, active_ms=3)),
            log.append(
                Entry(results=[Result(step_number=1, position=1, status="failed", error="no", latency_ms=2)])
            ),
            log.append(_step(2)),
            log.append(Entry(state={"a": 2}, active_ms=4)),
            log.append(END),
        ]
        verdicts = await asyncio.gather(*futures)
    assert {verdict.kind for verdict in verdicts} == {"ok"}
    [entry] = run.entries
    assert [call["status"] for call in entry["calls"]] == ["running", "failed"]
    assert entry["calls"][1]["error"] == "no"
    assert entry["calls"][1]["latency_ms"] == 2
    assert "results" not in entry
    assert entry["state"] == {"a": 2}
    assert entry["active_ms"] == 8
    assert entry["steps"][0]["step_number"] == 2
    assert entry["transition"]["result"] == {"done": True}
    assert entry["seq"] == 1


async def test_nothing_is_merged_behind_an_entry_that_is_large_already(database: FakeDatabase) -> None:
    """Many large outputs in one entry could be too much for a gateway, and then none of them would be stored."""
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(_step(1, "x" * (MAX_BYTES // 2)))
        await log.append(Entry(calls=[_call(1, output="x" * (MAX_BYTES // 2))]))
    assert [sorted({"steps", "calls"} & set(entry)) for entry in run.entries] == [["steps"], ["calls"]]


async def test_slow_turns_of_the_event_loop_keep_no_entry_back(database: FakeDatabase) -> None:
    """Tools that compute in the event loop make turns long: an intent shall not wait for twelve of them."""
    async with _writing(database) as writer:
        log, _ = _open(database, writer)
        log.append(_step(1))
        turns = 0
        while not database.calls:
            await asyncio.sleep(0)
            time.sleep(2 * LINGER_S)  # noqa: ASYNC251 (the tool)
            turns += 1
    assert turns < LINGER_TURNS


async def test_a_result_that_sql_acts_upon_stays_a_result(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(Entry(calls=[_call(1, 0), _call(1, 1, "awaiting_review")]))
        log.append(Entry(reviews=[OpenReview(step_number=1, position=1, kind="approval", summary="?")]))
        log.append(Entry(results=[Result(step_number=1, position=0, status="unknown")]))
        await log.append(Entry(results=[Result(step_number=1, position=1, status="succeeded")]))
    [entry] = run.entries
    assert [call["status"] for call in entry["calls"]] == ["running", "awaiting_review"]
    assert [result["status"] for result in entry["results"]] == ["unknown", "succeeded"]
    assert entry["reviews"] == [{"step_number": 1, "position": 0 + 1, "kind": "approval", "summary": "?"}]


async def test_a_start_is_not_merged_before_the_result_it_follows(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(Entry(results=[Result(step_number=1, position=0, status="failed")]))
        await log.append(Entry(starts=[Start(step_number=1, position=0)]))
    assert [sorted(entry) for entry in run.entries] == [
        ["execution", "fence", "results", "seq"],
        ["execution", "fence", "seq", "starts"],
    ]


async def test_a_result_is_not_merged_with_the_start_it_follows(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(Entry(starts=[Start(step_number=1, position=0)]))
        await log.append(Entry(results=[Result(step_number=1, position=0, status="failed")]))
    assert [sorted(entry) for entry in run.entries] == [
        ["execution", "fence", "seq", "starts"],
        ["execution", "fence", "results", "seq"],
    ]


async def test_a_reservation_goes_with_what_is_unsent_and_nothing_behind_it(database: FakeDatabase) -> None:
    """Behind a step it means what comes after the step; before one it would mean something else."""
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        log.append(_step(1))
        log.append(Entry(results=[Result(step_number=1, position=0, status="failed")]))
        log.append(Entry(reserve=Reserve(min_tokens=1, max_tokens=2, min_usd=0.1, max_usd=0.2)))
        await log.append(_step(2))
        await log.append(Entry(reserve=Reserve(min_tokens=3, max_tokens=4)))
        await log.append(Entry(charge=True, transition=Transition(to="cancelled")))
    assert [sorted(entry)[-4:] for entry in run.entries] == [
        ["reserve", "results", "seq", "steps"],
        ["execution", "fence", "seq", "steps"],
        ["execution", "fence", "reserve", "seq"],
        ["execution", "fence", "seq", "transition"],
    ]
    assert run.entries[0]["reserve"] == {"min_tokens": 1, "max_tokens": 2, "min_usd": 0.1, "max_usd": 0.2}
    assert run.entries[2]["reserve"] == {"min_tokens": 3, "max_tokens": 4}
    assert [entry.get("charge") for entry in run.entries] == [None, None, None, True]


async def test_nothing_is_merged_behind_a_transition(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        database.verdict = lambda entry: {"verdict": "continue" if "transition" in entry else "ok"}
        pause = log.append(Entry(transition=Transition(to="awaiting_review")))
        after = log.append(_step(2))
        assert (await pause).kind == "continue"
        assert (await after).kind == "ok"
    assert [entry["seq"] for entry in run.entries] == [1, 2]


async def test_what_a_tool_does_to_its_objects_later_is_not_recorded(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        output = {"rows": [1]}
        future = log.append(
            Entry(results=[Result(step_number=1, position=0, status="succeeded", output=output)])
        )
        output["rows"].append(2)
        await future
    assert run.entries[0]["results"][0]["output"] == {"rows": [1]}


async def test_the_answer_of_the_database_reaches_everyone_who_was_merged(database: FakeDatabase) -> None:
    review = uuid4()
    message = uuid4()
    database.verdict = lambda entry: {
        "verdict": "stop",
        "code": "CANCELLED",
        "detail": {"step": 2},
        "cancel_requested": True,
        "started": [
            {"step_number": 1, "position": 0, "taken": True, "input": {"q": 2}, "edited": True, "attempt": 2}
        ],
        "calls": [
            {"step_number": 1, "position": 0, "call_id": "c", "tool_name": "t", "input": {}, "output": None}
            | {"effect": "unsafe", "status": "unknown"}
        ],
        "reviews": [
            {"id": str(review), "step_number": 1, "position": 0, "kind": "approval"}
            | {"status": "approved", "used": False}
        ],
        "messages": [{"id": str(message), "content": "hi"}],
    }
    async with _writing(database) as writer:
        log, _ = _open(database, writer)
        one, two = await asyncio.gather(log.append(_step(1)), log.append(_step(2)))
    assert one is two
    assert isinstance(one, Verdict)
    assert (one.kind, one.code, one.detail) == ("stop", "CANCELLED", {"step": 2})
    assert one.started[0].input == {"q": 2}
    assert one.calls[0].status == "unknown"
    assert one.reviews[0].id == review
    assert one.messages[0].id == message
    assert log.cancel_requested


async def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(database: FakeDatabase) -> None:
    database.faults.extend(["lost", "down", "lost"])
    database.latency_s = 0.001
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        first = log.append(_step(1))
        await asyncio.sleep(0.0005)
        second = log.append(_step(2))  # gathers: it must not join what is under way already
        assert (await first).kind == "ok"
        assert (await second).kind == "ok"
    assert [step["step_number"] for step in run.rows("steps")] == [1, 2]
    assert all(len(bodies) == 1 for bodies in database.bodies.values())


async def test_a_busy_run_delays_no_other(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        (held, held_run), (free, _) = _open(database, writer), _open(database, writer)
        database.busy = lambda run: run == held.key
        waiting = held.append(_step(1))
        for number in range(1, 6):
            assert (await free.append(_step(number))).kind == "ok"
        assert not waiting.done()
        more = held.append(_step(2))
        database.busy = lambda run: False
        assert (await waiting).kind == "ok"
        assert (await more).kind == "ok"
    assert [entry["seq"] for entry in held_run.entries] == [1, 2]
    assert all(len(bodies) == 1 for bodies in database.bodies.values())


async def test_a_busy_run_is_not_asked_about_sooner_because_it_appends(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "BUSY_PAUSE_S", (0.3, 0.3))
    async with _writing(database) as writer:
        log, _ = _open(database, writer)
        database.busy = lambda run: True
        log.append(_step(1))
        await asyncio.sleep(0.001)
        for number in range(2, 6):
            log.append(_step(number))
            await asyncio.sleep(0.001)
        assert len(database.calls) == 1
        database.busy = lambda run: False
        assert await writer.drain(1)


@pytest.mark.parametrize("reason", ["fence", "gap"])
async def test_a_run_that_is_not_ours_answers_fenced_for_ever(database: FakeDatabase, reason: str) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        await log.append(_step(1))
        if reason == "fence":
            run.fence = 2
        else:
            run.recorded_seq = 0
        database.latency_s = 0.001
        pending = [log.append(_step(2))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pending.append(log.append(_step(3)))
        assert [verdict.kind for verdict in await asyncio.gather(*pending)] == ["fenced", "fenced"]
        assert (await log.append(_step(4))).kind == "fenced"
        assert log.closed


@pytest.mark.parametrize("code", ["22P05", "23514", "54000", "RH013", "PGRST102", "P0001"])
async def test_a_culprit_is_found_and_the_others_are_stored(database: FakeDatabase, code: str) -> None:
    database.poison = lambda entry: code if "poison" in str(entry) else None
    async with _writing(database) as writer:
        logs = [_open(database, writer) for _ in range(9)]
        futures = [log.append(_step(1, "poison" if n == 5 else "")) for n, (log, _) in enumerate(logs)]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for n, answer in enumerate(answers):
            if n == 5:
                assert isinstance(answer, StoreError)
                assert isinstance(answer.__cause__, Refused)
            else:
                assert answer == Verdict(kind="ok")
                assert logs[n][1].recorded_seq == 1


async def test_an_outage_in_the_middle_of_the_search_for_a_culprit_loses_nobody(
    database: FakeDatabase,
) -> None:
    database.poison = lambda entry: "22P05" if "poison" in str(entry) else None
    database.faults.extend(["none", "none", "down", "lost"])
    async with _writing(database) as writer:
        logs = [_open(database, writer) for _ in range(8)]
        futures = [log.append(_step(1, "poison" if n == 6 else "")) for n, (log, _) in enumerate(logs)]
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(answer, StoreError) for answer in answers] == [n == 6 for n in range(8)]
    assert [run.recorded_seq for _, run in logs] == [int(n != 6) for n in range(8)]


async def test_after_a_refusal_a_run_may_only_end_itself(database: FakeDatabase) -> None:
    database.poison = lambda entry: "22P05" if "poison" in str(entry) else None
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        await log.append(_step(1))
        bad = log.append(_step(2, "poison"))
        behind = log.append(Entry(results=[Result(step_number=2, position=0, status="succeeded")]))
        for future in (bad, behind):
            with pytest.raises(StoreError):
                await future
        for later in (_step(3), Entry(state={}, transition=Transition(to="completed"))):
            with pytest.raises(StoreError):
                await log.append(later)
        assert (await log.append(FAIL)).kind == "ok"
    assert run.status == "failed"
    assert [entry["seq"] for entry in run.entries] == [1, 2]
    assert len(run.rows("steps")) == 1


async def test_no_request_is_larger_than_what_gateways_accept(database: FakeDatabase) -> None:
    requests: list[int] = []
    real = database.record

    async def record(worker_id: UUID, entries: Any) -> list[dict[str, Any]]:
        requests.append(sum(map(len, entries)) + len(entries))
        return await real(worker_id, entries)

    database.record = record  # type: ignore[method-assign]
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(8)]
        for number in range(1, 4):
            await asyncio.gather(
                *(
                    log.append(_step(number, "\n" * (number * 60_000 + n * 5_000)))
                    for n, log in enumerate(logs)
                )
            )
    assert max(requests) <= 960 * 1024 + 256
    assert len(requests) < 24  # small ones still share a request


async def test_a_final_answer_too_large_for_one_entry_is_recorded_before_the_end(
    database: FakeDatabase,
) -> None:
    text = "x" * (MAX_BYTES * 2 // 3)
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        entry = Entry(step=_step(1, text).step, transition=Transition(to="completed", result=text))
        assert (await log.append(entry)).kind == "ok"
        assert await writer.drain(1)
    assert [sorted({"steps", "transition"} & set(entry)) for entry in run.entries] == [
        ["steps"],
        ["transition"],
    ]
    assert run.status == "completed"


async def test_an_entry_too_large_to_send_breaks_only_its_own_run(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        fine = log.append(_step(1))
        with pytest.raises(RecordTooLarge, match="most of it in the message") as caught:
            await log.append(_step(2, "x" * MAX_BYTES))
        assert caught.value.facts["part"] == "message"
        assert (await fine).kind == "ok"  # what came before it is stored
        assert (await log.append(FAIL)).kind == "ok"
    assert [step["step_number"] for step in run.rows("steps")] == [1]


@pytest.mark.parametrize("refused", [True, False])
async def test_an_entry_that_always_fails_without_blame_ends_up_alone_and_is_given_up(
    database: FakeDatabase, refused: bool
) -> None:
    real = database.record

    async def record(worker_id: UUID, entries: Any) -> list[dict[str, Any]]:
        if any(b"slow" in body for body in entries):
            await asyncio.sleep(0)
            raise Refused("timeout", code="57014") if refused else StoreUnavailable("504")
        return await real(worker_id, entries)

    database.record = record  # type: ignore[method-assign]
    async with _writing(database) as writer:
        slow, run = _open(database, writer)
        others = [_open(database, writer) for _ in range(5)]
        bad = slow.append(_step(1, "slow"))
        number = 0
        while not bad.done():
            number += 1
            assert number < 100
            answers = await asyncio.gather(*(log.append(_step(number)) for log, _ in others))
            assert {answer.kind for answer in answers} == {"ok"}
        if refused:
            with pytest.raises(StoreError):
                await bad
            assert (await slow.append(FAIL)).kind == "ok"
            assert run.status == "failed"
        else:
            with pytest.raises(ContentRejected):
                await bad
            assert (await slow.append(FAIL)).kind == "ok"
            assert run.status == "failed"


# ---------------------------------------------------------------------------------- what gateways reject


def _firewall(database: FakeDatabase, rejects: Any, *, after: bool = False) -> list[int]:
    """Put a gateway before the database that answers 403 where ``rejects`` says so; how many requests it rejected."""
    real = database.record
    rejected = [0]

    async def record(worker_id: UUID, entries: Any) -> list[dict[str, Any]]:
        if not rejects(b",".join(entries)):
            return await real(worker_id, entries)
        rejected[0] += 1
        if after:
            await real(worker_id, entries)
        await asyncio.sleep(0)
        raise GatewayAnswer("403", status=403, says="Request blocked")

    database.record = record  # type: ignore[method-assign]
    return rejected


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("stored", [False, True], ids=["request", "answer"])
async def test_a_run_whose_content_a_gateway_rejects_fails_and_no_other(
    database: FakeDatabase, alone: bool, stored: bool
) -> None:
    _firewall(database, lambda body: b"poison" in body, after=stored)
    async with _writing(database) as writer:
        bad, run = _open(database, writer)
        others = [] if alone else [_open(database, writer) for _ in range(9)]
        await bad.append(_step(1))
        poisoned, behind = bad.append(_step(2, "poison")), bad.append(_step(3))
        answers = await asyncio.gather(*(log.append(_step(1)) for log, _ in others))
        assert {answer.kind for answer in answers} <= {"ok"}
        with pytest.raises(ContentRejected) as caught:
            await poisoned
        facts = caught.value.facts
        assert (facts["status"], facts["answer"]) == (403, "Request blocked")
        assert facts["bytes"] > 100
        assert "poison" not in str(facts)
        with pytest.raises(ContentRejected):
            await behind
        assert (await bad.append(FAIL)).kind == "ok"
        for log, _ in others:
            assert (await log.append(_step(2))).kind == "ok"
    assert run.status == "failed"
    assert [entry["seq"] for entry in run.entries] == ([1, 2, 3] if stored else [1, 2])
    assert all("poison" in str(entry) for entry in run.entries[1:2]) is stored


async def test_the_end_of_a_run_that_was_stored_and_never_answered_stands(database: FakeDatabase) -> None:
    _firewall(database, lambda body: b"poison" in body, after=True)
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        with pytest.raises(ContentRejected):
            await log.append(Entry(transition=Transition(to="completed", result="poison")))
        assert (await log.append(FAIL)).kind == "fenced"
    assert run.status == "completed"


async def test_a_gateway_that_rejects_everything_is_an_outage_and_no_runs_fault(
    database: FakeDatabase,
) -> None:
    closed = [True]
    rejected = _firewall(database, lambda _: closed[0])
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(3)]
        answers = [log.append(_step(1)) for log in logs]
        while rejected[0] < 100:
            await asyncio.sleep(0)
        assert not any(answer.done() for answer in answers)
        closed[0] = False
        assert {answer.kind for answer in await asyncio.gather(*answers)} == {"ok"}
    assert all(len(bodies) == 1 for bodies in database.bodies.values())


async def test_a_last_word_that_is_rejected_too_waits_for_the_gateway(database: FakeDatabase) -> None:
    words = [b"poison"]
    rejected = _firewall(database, lambda body: any(word in body for word in words))
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        with pytest.raises(ContentRejected):
            await log.append(_step(1, "poison"))
        words.append(b"failed")
        before, end = rejected[0], log.append(FAIL)
        while rejected[0] < before + 30:
            await asyncio.sleep(0)
        assert not end.done()
        words.clear()
        assert (await end).kind == "ok"
    assert run.status == "failed"


@pytest.mark.parametrize("code", ["21000", "P0001", "23505", "PGRST102"])
async def test_a_rule_that_refuses_everything_is_an_outage_and_no_runs_fault(
    database: FakeDatabase, code: str
) -> None:
    refused: list[bool] = [True]
    database.poison = lambda entry: code if refused[0] else None
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(3)]
        answers = [log.append(_step(1)) for log in logs]
        while len(database.calls) < 100:
            await asyncio.sleep(0)
        assert not any(answer.done() for answer in answers)
        refused[0] = False
        assert {answer.kind for answer in await asyncio.gather(*answers)} == {"ok"}


async def test_a_broken_database_blames_no_run(database: FakeDatabase) -> None:
    database.faults.extend(["timeout" for _ in range(60)])
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(4)]
        answers = await asyncio.gather(*(log.append(_step(1)) for log in logs))
    assert {answer.kind for answer in answers} == {"ok"}


async def test_a_lost_lease_ends_all_attempts(database: FakeDatabase) -> None:
    lost = False
    database.faults.extend(["down" for _ in range(1000)])
    async with _writing(database, lease_lost=lambda: lost) as writer:
        log, _ = _open(database, writer)
        waiting = [log.append(_step(1)), log.append(_step(2))]
        await asyncio.sleep(0.01)
        assert not waiting[0].done()
        lost = True
        assert [verdict.kind for verdict in await asyncio.gather(*waiting)] == ["fenced", "fenced"]
        sent = len(database.calls)
        await asyncio.sleep(0.01)
        assert len(database.calls) == sent


async def test_a_dead_worker_drops_everything_and_says_so(database: FakeDatabase) -> None:
    told: list[str] = []
    database.faults.append("dead")
    async with _writing(database, on_worker_dead=lambda: told.append("dead")) as writer:
        (one, _), (two, _) = _open(database, writer), _open(database, writer)
        verdicts = await asyncio.gather(one.append(_step(1)), two.append(_step(1)))
        assert {verdict.kind for verdict in verdicts} == {"fenced"}
        assert told == ["dead"]
        assert (await writer.open(uuid4(), 1).append(_step(1))).kind == "fenced"


async def test_flushes_are_bounded_in_entries_and_bytes(
    database: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MIN_SHARE", 1000)
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(MAX_FLUSH_ENTRIES + 10)]
        await asyncio.gather(*(log.append(_step(1)) for log in logs))
        assert [len(call) for call in database.calls] == [MAX_FLUSH_ENTRIES, 10]
        database.calls.clear()
        await asyncio.gather(*(log.append(_step(2, "x" * (MAX_FLUSH_BYTES // 2))) for log in logs[:3]))
        assert [len(call) for call in database.calls] == [1, 1, 1]


async def test_half_of_the_runs_compute_while_the_other_half_is_recorded(database: FakeDatabase) -> None:
    database.latency_s = 0.01
    async with _writing(database) as writer:
        logs = [_open(database, writer)[0] for _ in range(80)]

        async def work(log: Any) -> None:
            for number in range(1, 6):
                written = log.append(_step(number))
                log.append(Entry(results=[Result(step_number=number, position=0, status="succeeded")]))
                await written

        await asyncio.gather(*(work(log) for log in logs))
    assert [len(call) for call in database.calls[:10]] == [40] * 10
    first, second, third = ({entry["execution"] for entry in call} for call in database.calls[:3])
    assert not first & second
    assert first == third


async def test_whoever_stops_waiting_disturbs_nobody(database: FakeDatabase) -> None:
    database.latency_s = 0.001
    async with _writing(database) as writer:
        log, run = _open(database, writer)
        gone, stays = log.append(_step(1)), log.append(_step(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).kind == "ok"
        assert await writer.drain(1)
    assert len(run.rows("steps")) == 2


async def test_draining_waits_for_all_answers_but_not_for_ever(database: FakeDatabase) -> None:
    async with _writing(database) as writer:
        log, _ = _open(database, writer)
        assert await writer.drain(0.1)
        database.busy = lambda run: True
        log.append(_step(1))
        assert not await writer.drain(0.02)
        database.busy = lambda run: False
        assert await writer.drain(1)


async def test_answers_that_do_not_match_the_question_are_asked_again(database: FakeDatabase) -> None:
    real = database.record
    wrong: Iterator[str] = iter(["shifted"])

    async def record(worker_id: UUID, entries: Any) -> list[dict[str, Any]]:
        verdicts = await real(worker_id, entries)
        if next(wrong, None):
            verdicts.reverse()
        return verdicts

    database.record = record  # type: ignore[method-assign]
    async with _writing(database) as writer:
        (one, run_one), (two, run_two) = _open(database, writer), _open(database, writer)
        database.verdict = lambda entry: {"verdict": "stop" if entry["execution"] == one.key else "ok"}
        verdicts = await asyncio.gather(one.append(_step(1)), two.append(_step(1)))
    # the second time it is a duplicate, which answers ok
    assert [verdict.kind for verdict in verdicts] == ["ok", "ok"]
    assert (run_one.recorded_seq, run_two.recorded_seq) == (1, 1)


async def test_a_run_dropped_while_its_entry_is_under_way_disturbs_nobody(database: FakeDatabase) -> None:
    database.latency_s = 0.01
    async with _writing(database) as writer:
        (one, _), (two, _) = _open(database, writer), _open(database, writer)
        answers = [one.append(_step(1)), two.append(_step(1))]
        await asyncio.sleep(0.001)
        one.close()
        assert [verdict.kind for verdict in await asyncio.gather(*answers)] == ["fenced", "ok"]
        assert (await two.append(_step(2))).kind == "ok"
