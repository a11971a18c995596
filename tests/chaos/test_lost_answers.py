"""Requests and answers that get lost, are cut in the middle, or are refused by a gateway: nobody is killed, all goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import courier
import pytest
from matrix import Batch, Cell, run_batch
from supabase_project import Project
from town import Town

from runhold.testing import ScriptedModel
from runhold.testing.chaos import (
    Action,
    CrashPoint,
    Effects,
    Fleet,
    ForkServer,
    Moment,
    Side,
    assert_nothing_lost,
    eventually,
)

FAULTS: tuple[tuple[Side, Action], ...] = (
    ("before", "lose"),
    ("before", "refuse"),
    ("after", "lose"),
    ("after", "cut"),
    ("after", "refuse"),
)

OF_RUNS: tuple[Moment, ...] = ("claim", "step", "pause", "start", "result", "complete")
OF_WORKERS: tuple[Moment, ...] = ("register", "claim", "heartbeat", "sweep", "stop")

pytestmark = pytest.mark.timeout(300)  # the first test of a batch waits for all of its runs


def cells() -> Iterator[Cell]:
    for moment in OF_RUNS:
        for side, action in FAULTS:
            if (moment, side) != ("claim", "before"):  # which run it will be is not known then
                gated = moment in ("pause", "start")
                yield Cell(point=CrashPoint(moment, side), action=action, effect="unsafe", gated=gated)


CELLS = [*cells()]


@pytest.fixture(scope="module")
def batch(stack: Project, forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    return run_batch(stack, forks, CELLS, tmp_path_factory.mktemp("answers"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_lost_answer_of_a_run_changes_nothing(batch: Batch, cell: Cell) -> None:
    seen = batch.cells[cell]
    assert (seen.status, seen.fired) == ("completed", 1)
    assert (seen.times, seen.keys, seen.doubts) == (1, 1, 0)
    assert seen.approvals == cell.gated
    assert seen.claims == 1 + cell.gated


def test_nothing_is_lost_and_nothing_happens_twice(batch: Batch) -> None:
    assert not batch.verdict.problems, f"{batch.verdict}\n{batch.logs}"


async def test_lost_answers_of_a_worker_s_own_calls_end_with_it_at_work(
    stack: Project, forks: ForkServer, tmp_path: Path
) -> None:
    async with ScriptedModel(courier.script) as model, Effects() as effects:
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        async with Fleet(
            forks, courier.__file__, "--lease", "10", folder=tmp_path, env=env, effects=effects
        ) as fleet:
            town = Town(stack, tmp_path, model.base_url, forks)
            armed = [
                fleet.points.arm(CrashPoint(moment, side), action)
                for moment in OF_WORKERS
                for side, action in FAULTS
            ]
            (worker,) = await fleet.start()
            await eventually(lambda: "worker ready" in worker.log, "the worker")
            user = await town.person()
            run_id = await town.submit(
                user, agent_type="courier", input_data={"tool": "unsafe", "gated": False}
            )
            await town.until(user, run_id, "completed")
            await eventually(
                lambda: all(one.fired for one in armed if one.point.moment != "stop"), "all faults"
            )
            assert await worker.terminate() == 0
            assert all(one.fired for one in armed), [str(one.point) for one in armed if not one.fired]
            assert worker.log.count("worker ready") == 1
            assert_nothing_lost(stack.database_url, [run_id], effects)
