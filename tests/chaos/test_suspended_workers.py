"""A worker is suspended past its lease, in the middle of a tool or of a call, and goes on when others have finished.

What it does then changes nothing: neither the record that was under way, nor the tool's result, nor what it believes.
"""

from __future__ import annotations

import pytest
from matrix import Batch, Cell, run_batch
from supabase_project import Project

from runhold.testing.chaos import CrashPoint, ForkServer

CELLS = [
    Cell(point=CrashPoint(moment, side), action="suspend", effect=effect, gated=gated, answer=answer)
    for moment, side, effect, gated, answer in (
        ("step", "before", "unsafe", False, "happened"),
        ("step", "after", "unsafe", False, "happened"),
        ("effect", "before", "idempotent", False, "happened"),
        ("effect", "before", "unsafe", False, "happened"),
        ("effect", "after", "unsafe", False, "again"),
        ("result", "before", "idempotent", False, "happened"),
        ("result", "before", "unsafe", False, "happened"),
        ("result", "after", "unsafe", False, "happened"),
        ("pause", "before", "unsafe", True, "happened"),
        ("start", "before", "unsafe", True, "happened"),
        ("start", "after", "unsafe", True, "again"),
        ("complete", "before", "unsafe", False, "happened"),
    )
]

TIMES = {("effect", "after"): 2, ("result", "before"): 1, ("step", "after"): 0, ("start", "after"): 1}
"""How often the unsafe effect happened; 1 where the crash finds nothing begun, or everything recorded."""

UNSURE = {
    ("step", "after"),
    ("effect", "before"),
    ("effect", "after"),
    ("result", "before"),
    ("start", "after"),
}

pytestmark = pytest.mark.timeout(300)  # the first test of a batch waits for all of its runs


@pytest.fixture(scope="module")
def batch(stack: Project, forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return run_batch(stack, forks, CELLS, tmp_path_factory.mktemp("suspended"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_suspended_worker_changes_nothing(batch: Batch, cell: Cell) -> None:
    seen = batch.cells[cell]
    at = (cell.point.moment, cell.point.side)
    assert cell not in batch.changed
    assert (seen.status, seen.fired) == ("completed", 1)
    assert seen.approvals == cell.gated
    assert seen.doubts == (cell.effect == "unsafe" and at in UNSURE)
    assert seen.claims == 2 + cell.gated
    if cell.effect == "idempotent":  # twice, under one key: as a service that deduplicates sees it, once
        assert (seen.times, seen.keys) == (2, 1)
    else:
        assert seen.times == TIMES.get(at, 1)


def test_nothing_is_lost_and_nothing_happens_twice(batch: Batch) -> None:
    assert not batch.verdict.problems, f"{batch.verdict}\n{batch.logs}"
