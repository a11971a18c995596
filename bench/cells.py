"""What is measured: one cell is one question, asked of every system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from bench.workload import Workload

MODEL_S: Final = 0.02
"""A fast model: what a system adds shows beside it."""

DISTANCE_S: Final = 0.005
"""A project in another place."""

Kind = Literal["runs", "start", "size", "memory", "recovery"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One measurement.

    :ivar in_flight: runs at once.
    :ivar distance_s: added to each round trip between client and server.
    :ivar count: runs to measure; 0 as many as fit into the time for a cell.
    :ivar quick_count: the same for a quick benchmark; 0 as ``count``.
    :ivar once: the outcome does not depend on the machine's mood: the first repeat is enough.
    :ivar one_worker: in one worker process, however many serve a system best.
    """

    name: str
    kind: Kind
    title: str
    in_flight: int = 1
    workload: Workload = field(default_factory=Workload)
    distance_s: float = 0.0
    count: int = 0
    quick_count: int = 0
    once: bool = False
    one_worker: bool = False


def _runs(in_flight: int, latency_s: float = 0.0, distance_s: float = 0.0) -> Cell:
    name = f"runs{in_flight}" + ("-20ms" if latency_s else "") + ("-far" if distance_s else "")
    model = f"model of {latency_s * 1000:g} ms" if latency_s else "instant model"
    far = f", {distance_s * 1000:g} ms more per round trip" if distance_s else ""
    return Cell(
        name=name,
        kind="runs",
        title=f"{in_flight} in flight, {model}{far}",
        in_flight=in_flight,
        workload=Workload(latency_s=latency_s),
        distance_s=distance_s,
    )


def _size(steps: int, count: int) -> Cell:
    return Cell(
        name=f"size{steps}",
        kind="size",
        title=f"{steps} steps",
        in_flight=16,
        workload=Workload(steps=steps),
        count=count,
        once=True,
    )


def _memory(in_flight: int) -> Cell:
    return Cell(
        name=f"memory{in_flight}",
        kind="memory",
        title=f"{in_flight} in flight in one worker, each at its fifth step",
        in_flight=in_flight,
        workload=Workload(hold_at=5),
        once=True,
        one_worker=True,
    )


START: Final = Cell(
    name="start",
    kind="start",
    title="insert → first model call",
    in_flight=16,
    count=40,
    quick_count=15,
    one_worker=True,
)
RECOVERY: Final = Cell(
    name="recovery",
    kind="recovery",
    title="kill -9 of a worker with 16 runs → all of them go on",
    in_flight=16,
    workload=Workload(hold_at=4),
    once=True,
    one_worker=True,
)

CELLS: Final = (
    *(_runs(in_flight) for in_flight in (1, 16, 64, 256)),
    *(_runs(in_flight, MODEL_S) for in_flight in (1, 16, 64, 256)),
    *(_runs(in_flight, MODEL_S, DISTANCE_S) for in_flight in (1, 64)),
    START,
    _size(8, 1000),
    _size(25, 300),
    _size(100, 100),
    _memory(256),
    _memory(1000),
    RECOVERY,
)

QUICK: Final = ("runs1-20ms", "runs64", "runs64-20ms", "start")
