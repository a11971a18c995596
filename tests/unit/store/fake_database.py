"""A database that follows ``docs/reference/worker-protocol.md`` in memory, and fails on demand."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from runhold.errors import Refused, StoreUnavailable, WorkerDead

Fault = Literal["none", "lost", "down", "timeout", "dead"]
"""none: works. lost: applied, but the answer is dropped. down: not applied, no answer. timeout: refused so
that no data is blamed (57014). dead: RH012."""


@dataclass
class FakeRun:
    """What the database knows of a run."""

    fence: int = 1
    recorded_seq: int = 0
    status: str = "running"
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def rows(self, name: str) -> list[Any]:
        """The rows of all applied entries under ``name``, in the order in which they were applied."""
        return [row for entry in self.entries for row in entry.get(name, ())]


class FakeDatabase:
    """Applies entries as ``agent_worker_record`` does: all of a call or nothing."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.faults: deque[Fault] = deque()
        """What happens to the next calls; works once it is empty."""
        self.busy: Callable[[str], bool] = lambda run: False
        self.poison: Callable[[dict[str, Any]], str | None] = lambda entry: None
        """The SQLSTATE with which an entry makes the whole call fail, if it does."""
        self.verdict: Callable[[dict[str, Any]], dict[str, Any]] = lambda entry: {"verdict": "ok"}
        self.calls: list[list[dict[str, Any]]] = []
        self.bodies: dict[tuple[str, int, int], set[bytes]] = {}
        """Everything that was ever sent under a number."""
        self.latency_s = 0.0

    def claim(self, run_id: UUID, fence: int = 1) -> None:
        """Hand the run to a worker."""
        self.runs[str(run_id)] = FakeRun(fence=fence)

    async def record(self, worker_id: UUID, entries: Sequence[bytes]) -> list[dict[str, Any]]:
        """``agent_worker_record``."""
        parsed: list[dict[str, Any]] = [json.loads(body) for body in entries]
        self.calls.append(parsed)
        for entry, body in zip(parsed, entries, strict=True):
            self.bodies.setdefault((entry["execution"], entry["fence"], entry["seq"]), set()).add(body)
        await asyncio.sleep(self.latency_s)
        fault = self.faults.popleft() if self.faults else "none"
        if fault == "down":
            raise StoreUnavailable("connection refused")
        if fault == "timeout":
            raise Refused("canceling statement due to statement timeout", code="57014")
        if fault == "dead":
            raise WorkerDead("worker is dead", code="RH012")
        for entry in parsed:
            if code := self.poison(entry):
                raise Refused("bad data", code=code)
        verdicts = [self._apply(entry) for entry in parsed]
        if fault == "lost":
            raise StoreUnavailable("connection reset")
        return verdicts

    def _apply(self, entry: dict[str, Any]) -> dict[str, Any]:
        assert len(entry["execution"]) == 36
        answer = {"execution": entry["execution"], "seq": entry["seq"]}
        run = self.runs.get(entry["execution"])
        if self.busy(entry["execution"]):
            return answer | {"verdict": "busy"}
        if run is None or run.fence != entry["fence"]:
            return answer | {"verdict": "fenced"}
        if entry["seq"] <= run.recorded_seq:
            return answer | {"verdict": "ok"}
        if entry["seq"] > run.recorded_seq + 1:
            return answer | {"verdict": "gap"}
        if run.status != "running":
            return answer | {"verdict": "fenced"}
        verdict = self.verdict(entry)
        run.recorded_seq = entry["seq"]
        run.entries.append(entry)
        if verdict["verdict"] == "ok" and "transition" in entry:
            run.status = entry["transition"]["to"]
        return answer | verdict
