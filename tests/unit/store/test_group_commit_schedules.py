"""The group commit under random schedules: runs, pauses, lost answers, busy rows, poison, lost fences."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from unittest.mock import patch
from uuid import UUID, uuid4

from fake_database import FakeDatabase, Fault
from hypothesis import given, settings
from hypothesis import strategies as st

from runhold.errors import StoreError
from runhold.loop.ports import Entry, Step, Transition, Usage, Verdict
from runhold.store import client, group_commit, run_log
from runhold.store.group_commit import GroupCommit
from runhold.store.run_log import QueuedLog

DEFINITION = uuid4()
RUNS = 4

FAULTS: list[Fault] = ["none", "none", "none", "lost", "down", "timeout"]


@dataclass(frozen=True)
class Append:
    """A run appends an entry; ``poison`` makes the database refuse whatever holds it."""

    run: int
    poison: bool = False


@dataclass(frozen=True)
class Yield:
    """Let everything else run for some turns of the event loop."""

    turns: int


@dataclass(frozen=True)
class Steal:
    """Another worker claims the run."""

    run: int


@dataclass(frozen=True)
class Hold:
    """Someone holds the row of the run (or lets go of it)."""

    run: int


runs = st.integers(0, RUNS - 1)
schedules = st.lists(
    st.one_of(
        st.builds(Append, runs),
        st.builds(Append, runs),
        st.builds(Append, runs),
        st.builds(Yield, st.integers(1, 6)),
        st.builds(Hold, runs),
        st.builds(Append, runs, poison=st.booleans()),
        st.builds(Steal, runs),
    ),
    max_size=60,
)


@dataclass
class Story:
    """What one run appended, and what it was told."""

    id: UUID
    log: QueuedLog
    appended: list[tuple[int, bool, asyncio.Future[Verdict]]] = field(
        default_factory=list[tuple[int, bool, "asyncio.Future[Verdict]"]]
    )
    stolen: bool = False
    answers: list[int] = field(default_factory=list[int])


def _entry(number: int, *, poison: bool) -> Entry:
    return Entry(
        step=Step(
            step_number=number,
            definition_id=DEFINITION,
            message={"content": "poison" if poison else ""},
            usage=Usage(input_tokens=1, output_tokens=1),
        ),
        active_ms=1,
    )


async def _play(schedule: list[object], faults: list[Fault], latency_turns: int) -> None:
    database = FakeDatabase()
    database.faults.extend(faults)
    database.poison = lambda entry: "22P05" if "poison" in str(entry) else None
    held: set[str] = set()
    database.busy = lambda run: run in held
    answered = database.record

    async def record(worker_id: UUID, entries: list[bytes]) -> list[dict[str, object]]:
        for _ in range(latency_turns):
            await asyncio.sleep(0)
        return await answered(worker_id, entries)

    database.record = record  # type: ignore[method-assign,assignment]
    writer = GroupCommit(database, uuid4())
    task = asyncio.create_task(writer.run())
    stories: list[Story] = []
    for _ in range(RUNS):
        run_id = uuid4()
        database.claim(run_id)
        stories.append(Story(run_id, writer.open(run_id, 1)))

    for action in schedule:
        match action:
            case Append(run, poison):
                story = stories[run]
                number = len(story.appended) + 1
                future = story.log.append(_entry(number, poison=poison))
                future.add_done_callback(lambda _, story=story, number=number: story.answers.append(number))
                story.appended.append((number, poison, future))
            case Yield(turns):
                for _ in range(turns):
                    await asyncio.sleep(0)
            case Steal(run):
                stories[run].stolen = True
                database.runs[str(stories[run].id)].fence += 1
            case Hold(run):
                held ^= {str(stories[run].id)}
            case _:
                raise AssertionError(action)
    held.clear()
    assert await writer.drain(10), "answers were lost"
    await asyncio.sleep(0)  # the callbacks of the last answers run in the loop's next turn
    assert not task.done(), task.exception()

    for story in stories:
        _check(story, database)
        end = await story.log.append(Entry(transition=Transition(to="failed", error="INTERNAL_ERROR")))
        assert (end.kind == "ok") is not story.stolen
    for key, bodies in database.bodies.items():
        refused = any("poison" in str(body) for body in bodies)
        assert len(bodies) == 1 or refused, key
    task.cancel()


def _check(story: Story, database: FakeDatabase) -> None:
    run = database.runs[str(story.id)]
    stored = [step["step_number"] for step in run.rows("steps")]
    assert stored == list(range(1, len(stored) + 1)), "out of order, twice, or with a hole"
    assert sum(entry.get("active_ms", 0) for entry in run.entries) == len(stored)
    assert [entry["seq"] for entry in run.entries] == list(range(1, len(run.entries) + 1))
    assert story.answers == sorted(story.answers), "answers out of order"
    assert len(story.answers) == len(story.appended)
    broken = fenced = False
    for number, poison, future in story.appended:
        error = future.exception()
        if error is not None:
            assert isinstance(error, StoreError)
            assert number not in stored
            broken = True
            continue
        verdict = future.result()
        assert not broken, "something was taken behind a refused entry"
        if verdict.kind == "fenced":
            assert story.stolen
            fenced = True
        else:
            assert verdict.kind == "ok"
            assert not fenced
            assert number in stored
            assert not poison
    if not story.stolen and not any(poison for _, poison, _ in story.appended):
        assert len(stored) == len(story.appended)


@given(schedules, st.lists(st.sampled_from(FAULTS), max_size=25), st.integers(0, 5), st.integers(2, 300))
@settings(max_examples=250, deadline=None)
def test_no_schedule_breaks_order_or_loses_an_answer(
    schedule: list[object], faults: list[Fault], latency_turns: int, flush_bytes: int
) -> None:
    with (
        patch.object(client, "BACKOFF_BASE_S", 0.0),
        patch.object(group_commit, "REJECTED_PAUSE_S", 0.0),
        patch.object(run_log, "BUSY_PAUSE_S", (0.0, 0.0)),
        patch.object(group_commit, "MAX_FLUSH_BYTES", flush_bytes * 10),
        patch.object(group_commit, "MAX_FAILURES_ALONE", 1000),  # here, failures are bad luck
    ):
        asyncio.run(_play(schedule, faults, latency_turns))
