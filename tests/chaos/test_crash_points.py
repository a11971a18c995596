"""A worker is killed with kill -9 at every point of a run's life: nothing is lost, and nothing happens twice.

What must come of it is the crash table of the design, here as a table. One fixture runs all cells at the same time; each
test only looks at its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from matrix import KINDS, Batch, Cell, run_batch
from supabase_project import Project

from runhold.testing.chaos import CrashPoint, ForkServer

pytestmark = pytest.mark.timeout(300)  # the first test of a batch waits for all of its runs

NOTHING = "nothing has begun"
BEGUN = "the intent is durable, the effect has not happened"
HAPPENED = "the effect has happened, its result is not durable"
RECORDED = "the result is durable"

FREE = {
    ("claim", "after", 0): NOTHING,
    ("step", "before", 0): NOTHING,
    ("step", "after", 0): BEGUN,
    ("effect", "before", 0): BEGUN,
    ("effect", "after", 0): HAPPENED,
    ("result", "before", 0): HAPPENED,
    ("result", "after", 0): RECORDED,
    ("complete", "before", 0): RECORDED,
    ("complete", "after", 0): RECORDED,
}
"""Point (moment, side, how often it passes first) → what the crash finds."""

GATED = {
    ("claim", "after", 0): NOTHING,
    ("pause", "before", 0): NOTHING,
    ("pause", "after", 0): NOTHING,
    ("claim", "after", 1): NOTHING,
    ("start", "before", 0): NOTHING,
    ("start", "after", 0): BEGUN,
    ("effect", "before", 0): BEGUN,
    ("effect", "after", 0): HAPPENED,
    ("result", "before", 0): HAPPENED,
    ("result", "after", 0): RECORDED,
    ("complete", "before", 0): RECORDED,
    ("complete", "after", 0): RECORDED,
}
"""The same where a person decides first: the intent is the question, and taking the approval begins the call."""

NOT_HELD = {("pause", "after"), ("complete", "after")}
"""The run has left its worker: killing that one means nothing to it."""


def cells() -> Iterator[Cell]:
    for gated, table in ((False, FREE), (True, GATED)):
        for (moment, side, skip), state in table.items():
            point = CrashPoint(moment, side)  # pyright: ignore[reportArgumentType]
            for effect in KINDS:
                cell = Cell(point=point, effect=effect, gated=gated, skip=skip)
                yield cell
                if is_unsure(state, effect):
                    yield Cell(point=point, effect=effect, gated=gated, skip=skip, answer="again")


def is_unsure(state: str, effect: str) -> bool:
    """Whether only a person can say what happened."""
    return effect == "unsafe" and state in (BEGUN, HAPPENED)


CELLS = [*cells()]


@pytest.fixture(scope="module")
def batch(stack: Project, forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return run_batch(stack, forks, CELLS, tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_killed_worker(batch: Batch, cell: Cell) -> None:
    seen = batch.cells[cell]
    table = GATED if cell.gated else FREE
    state = table[cell.point.moment, cell.point.side, cell.skip]
    assert (seen.status, seen.fired) == ("completed", 1)
    assert seen.approvals == cell.gated  # an approval is neither lost nor asked for again
    assert seen.doubts == is_unsure(state, cell.effect)
    held = (cell.point.moment, cell.point.side) not in NOT_HELD
    assert seen.claims == 1 + cell.gated + held
    assert seen.times in times(state, cell)
    assert seen.keys == min(seen.times, 1)


def times(state: str, cell: Cell) -> set[int]:
    """How often the effect may have been asked for."""
    if cell.effect == "read" and cell.point.moment == "step":
        return {1, 2}  # a read runs while its step is being recorded
    if is_unsure(state, cell.effect):
        return {(state == HAPPENED) + (cell.answer == "again")}
    return {2} if state == HAPPENED else {1}


def test_nothing_is_lost_and_nothing_happens_twice(batch: Batch) -> None:
    print(batch.verdict)
    assert not batch.verdict.problems, f"{batch.verdict}\n{batch.logs}"
