"""The benchmark measures Runhold through its whole stack, and leaves nothing running."""

from __future__ import annotations

import os
from pathlib import Path

from bench.cells import Cell
from bench.machine import family
from bench.measure import LEAST_WARM_UP, Setting, measure, prepare
from bench.place import Place, folder
from bench.systems import load
from bench.workload import Workload

DISTANCE_S = 0.02
STEPS = 3


async def test_runhold_is_measured_and_everything_ends() -> None:
    before = set(family(os.getpid()))
    system = load("runhold")
    cell = Cell(
        name="smoke",
        kind="runs",
        title="",
        in_flight=2,
        count=6,
        workload=Workload(steps=STEPS, latency_s=0.001),
        distance_s=DISTANCE_S,
    )
    with folder() as path:
        async with Place(Path(path)) as place:
            await prepare(place, "runhold", system, place.folder)
            empty = place.stored_bytes(system.database())
            values = await measure(
                Setting(
                    place=place, name="runhold", system=system, cell=cell, folder=place.folder, seconds=0.1
                )
            )
            with place.connect(system.database()) as connection:
                steps = connection.execute("select count(*) from agent_steps").fetchone()
            stored = place.stored_bytes(system.database())
    assert values["runs"] == 6
    assert steps == ((6 + LEAST_WARM_UP) * STEPS,)
    assert stored > empty
    assert values["runs_per_s"] > 0
    assert values["latency_p95_ms"] >= values["latency_p50_ms"] > 1000 * DISTANCE_S  # one round trip at least
    for cost in ("client_cpu_ms", "api_cpu_ms", "postgres_cpu_ms", "wal_kib", "commit_ms"):
        assert values[cost] > 0, cost
    assert values["others"] >= 0
    assert set(family(os.getpid())) <= before
