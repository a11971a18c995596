"""A system under test: what the benchmark's own process does for it, and what its processes do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, LiteralString, Protocol

from bench.workload import Workload

if TYPE_CHECKING:
    from bench.place import Place

Role = Literal["prepare", "work", "submit"]

Recovery = Literal["others", "restart", "invoke", "none"]
"""Who goes on with the runs of a killed process: other workers, unasked; its replacement under the same name;
whoever invokes each run again; nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What one process is to do.

    :ivar role: make the tables; work on runs; submit runs.
    :ivar address: where its servers are; the keys are the system's own.
    :ivar in_flight: runs at once, in this process.
    :ivar process: its number among those of the same role, from 0.
    :ivar processes: how many those are.
    :ivar resume: the runs of its batches were begun before; where nobody goes on with them unasked.
    :ivar trace: a file for the times of model calls.
    :ivar profile: a file for a profile of this process, by cProfile.
    """

    system: str
    role: Role
    address: Mapping[str, str]
    workload: Workload = field(default_factory=Workload)
    in_flight: int = 1
    process: int = 0
    processes: int = 1
    resume: bool = False
    trace: str | None = None
    profile: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        told = json.loads(text)
        return cls(**{**told, "workload": Workload(**told["workload"])})


class Post(Protocol):
    """How a process speaks with the benchmark: told of batches, it tells what became of them."""

    def ready(self) -> None:
        """It waits for work."""
        ...

    def batches(self) -> AsyncIterator[range]:
        """Runs to submit, or to do where there is no queue; until the benchmark has no more."""
        ...

    def submitted(self, at: float) -> None:
        """The batch is in the queue; ``at``: when submitting it began."""
        ...

    def ended(self, run: int, started: float, ended: float) -> None:
        """A run's begin and durable end, of a system that keeps no such times in its tables."""
        ...

    def held(self, count: int) -> None:
        """So many calls of the model are held in this process."""
        ...


class System(Protocol):
    """A system under test. Methods that take an :class:`Order` run in a process of their own.

    :ivar title: as the report says it.
    :ivar guarantee: what it promises, in fairness: one or two sentences.
    :ivar note: how it was used here.
    :ivar queue: whether runs are submitted to be taken by any worker; if not, who starts a run does it.
    :ivar in_project: whether it runs in the project's environment; peers run in the benchmark's.
    :ivar recovery: who goes on after kill -9.
    :ivar completed: a query for (run, begin, end) of all completed runs, times as Unix seconds; None without a queue.
    """

    title: str
    guarantee: str
    note: str
    queue: bool
    in_project: bool
    recovery: Recovery
    completed: LiteralString | None

    def processes(self, in_flight: int) -> int:
        """Worker processes that serve it best."""
        ...

    def database(self) -> str:
        """The name of its database on the shared server."""
        ...

    async def open(self, place: Place) -> None:
        """Start the servers that it needs beside PostgreSQL."""
        ...

    async def close(self, place: Place) -> None:
        """Stop them, so that they cost the next system nothing."""
        ...

    async def empty(self, place: Place) -> None:
        """Forget all runs."""
        ...

    def address(self, place: Place) -> dict[str, str]:
        """What its processes connect to. URLs in it may be led through the delay."""
        ...

    async def prepare(self, order: Order) -> None:
        """Make the tables, as its documentation says."""
        ...

    async def work(self, order: Order, post: Post) -> None:
        """Work until cancelled."""
        ...

    async def submit(self, order: Order, post: Post) -> None:
        """Submit batches, each in as few transactions as it can."""
        ...
