"""All worker RPCs in memory, with failures on demand."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from fake_database import FakeDatabase, FakeRun  # pyright: ignore[reportMissingImports]

from runhold.errors import StoreUnavailable, WorkerDead
from runhold.loop.ports import Definition, Run
from runhold.store.gateway import WorkerInfo
from runhold.store.records import (
    Claim,
    Heartbeat,
    ModelPrice,
    Notification,
    Registration,
    TypeSettings,
    UnreadableRun,
    UserClaims,
)


class FakePort(FakeDatabase):
    """A database with a queue of runs. Every call is noted in ``log`` as (name, arguments)."""

    def __init__(self, *, lease_ms: int = 1000) -> None:
        super().__init__()
        self.lease_ms = lease_ms
        self.said: list[tuple[str, Any]] = []
        self.failing: dict[str, deque[Exception | str]] = defaultdict(deque)
        """By call: an exception to raise instead, or "lost": carried out, the answer dropped."""
        self.always_failing: dict[str, Exception] = {}
        self.workers: dict[UUID, str] = {}
        self.definition_ids: dict[str, UUID] = {}
        self.older: dict[UUID, Definition] = {}
        self.types: dict[str, TypeSettings] = {}
        self.price_rows: list[ModelPrice] = []
        self.pending: list[UUID] = []
        self.inputs: dict[UUID, Any] = {}
        self.details: dict[UUID, dict[str, Any]] = defaultdict(dict)
        self.truncated: set[UUID] = set()
        self.unreadable: set[UUID] = set()
        self.cancelled: set[UUID] = set()
        self.lost: set[UUID] = set()
        self.claims: dict[tuple[UUID, int], list[UUID]] = {}
        self.claimed_by: dict[UUID, int] = {}
        self.next_due: datetime | None = None
        self.on_claim: Callable[[], None] = lambda: None

    def submit(self, value: Any = None, **details: Any) -> UUID:
        """A new pending run."""
        run_id = uuid4()
        self.inputs[run_id] = value or {}
        self.details[run_id] = details
        self.runs[str(run_id)] = FakeRun(fence=0, status="pending")
        self.pending.append(run_id)
        return run_id

    def run(self, run_id: UUID) -> FakeRun:
        return self.runs[str(run_id)]

    def calls_of(self, name: str) -> list[Any]:
        """The arguments of all calls of one function."""
        return [arguments for said, arguments in self.said if said == name]

    # ---------------------------------------------------------------------------------------- the calls

    async def register(
        self, worker: WorkerInfo, definitions: Sequence[Any], *, deadline_s: float = 0
    ) -> Registration:
        self._fail("register", worker)
        if self.workers.get(worker.id, "alive") != "alive":
            raise WorkerDead("this id was declared dead", code="RH012")
        self.workers[worker.id] = "alive"
        for given in definitions:
            self.definition_ids.setdefault(given["agent_type"], uuid4())
            self.types.setdefault(given["agent_type"], TypeSettings())
        self._lose("register")
        return Registration(definitions=dict(self.definition_ids), lease_ms=self.lease_ms, types=self.types)

    async def claim(self, worker_id: UUID, seq: int, definitions: Mapping[str, UUID], n: int) -> Claim:
        self._fail("claim", (seq, n))
        self._require_alive(worker_id)
        self.on_claim()
        if seq < 1:
            return Claim(runs=(), truncated=(), unreadable=(), next_due=None, more=True)
        if (worker_id, seq) not in self.claims:
            self.claims[worker_id, seq] = taken = self.pending[:n]
            del self.pending[:n]
            for run_id in taken:
                self.claimed_by[run_id] = seq
                run = self.run(run_id)
                self.runs[str(run_id)] = FakeRun(fence=run.fence + 1, entries=run.entries)
        await asyncio.sleep(0)
        self._lose("claim")
        ids = self.claims[worker_id, seq]
        whole = [each for each in ids if each not in self.truncated | self.unreadable]
        return Claim(
            runs=[self._record_of(each) for each in whole],
            truncated=[self._record_of(each) for each in ids if each in self.truncated],
            unreadable=[
                UnreadableRun(id=each, agent_type="t", fence=self.run(each).fence, problem="?")
                for each in ids
                if each in self.unreadable
            ],
            next_due=self.next_due,
            more=len(ids) == n,
        )

    async def record(self, worker_id: UUID, entries: Sequence[bytes]) -> list[dict[str, Any]]:
        self._fail("record", len(entries))
        self._require_alive(worker_id)
        verdicts = await super().record(worker_id, entries)
        for entry in self.calls[-1]:
            run = self.runs.get(entry["execution"])
            if run is not None and run.status == "pending":
                self.said.append(("requeued", (entry["execution"], entry["transition"])))
        return verdicts

    async def user_claims(self, worker_id: UUID, execution_id: UUID, fence: int) -> UserClaims | None:
        self._fail("user_claims", (execution_id, fence))
        claims = {"sub": str(execution_id), "role": "authenticated", "aud": "authenticated"}
        return UserClaims(claims=claims, now=datetime.now(UTC))

    async def heartbeat(
        self, worker_id: UUID, held: Sequence[UUID], last_seq: int, *, deadline_s: float
    ) -> Heartbeat:
        self._fail("heartbeat", (list(held), last_seq))
        self._require_alive(worker_id)
        for run_id, seq in self.claimed_by.items():  # claimed, and the worker does not know (any more)
            if seq <= last_seq and run_id not in held and self.run(run_id).status == "running":
                self.run(run_id).status = "pending"
                self.pending.append(run_id)
                self.said.append(("forgotten", run_id))
        return Heartbeat(
            lease_ms=self.lease_ms,
            cancelled=[each for each in held if each in self.cancelled],
            lost=[each for each in held if each in self.lost or self.run(each).status != "running"],
            types=dict(self.types),
        )

    async def release(
        self, worker_id: UUID, executions: Sequence[UUID], reason: str, *, counted: bool, deadline_s: float
    ) -> int:
        self._fail("release", (list(executions), reason, counted))
        for run_id in executions:
            self.run(run_id).status = "pending"
        return len(executions)

    async def stop(self, worker_id: UUID, *, draining: bool, deadline_s: float) -> None:
        self._fail("stop", draining)
        if not draining:
            self.workers[worker_id] = "gone"
            for run in self.runs.values():
                if run.status == "running":
                    run.status = "pending"

    async def sweep(self) -> dict[str, Any]:
        self._fail("sweep", None)
        return {"requeued": 0}

    async def notifications(self, worker_id: UUID, n: int, channels: Sequence[str]) -> list[Notification]:
        self._fail("notifications", n)
        return []

    async def notified(self, worker_id: UUID, notification_id: UUID, error: str | None) -> None:
        self._fail("notified", (notification_id, error))

    async def definitions(self, ids: Sequence[UUID]) -> list[Definition]:
        self._fail("definitions", list(ids))
        return [self.older[each] for each in ids if each in self.older]

    async def prices(self, models: Sequence[str], *, deadline_s: float) -> list[ModelPrice]:
        self._fail("prices", list(models))
        return [row for row in self.price_rows if row.model in models]

    async def log(self, worker_id: UUID, execution_id: UUID, fence: int) -> Run:
        self._fail("log", (execution_id, fence))
        return self._record_of(execution_id)

    async def aclose(self) -> None:
        self.said.append(("aclose", None))

    # -------------------------------------------------------------------------------------------- within

    def _fail(self, name: str, arguments: Any) -> None:
        self.said.append((name, arguments))
        if name in self.always_failing:
            raise self.always_failing[name]
        if self.failing[name] and isinstance(self.failing[name][0], Exception):
            raise self.failing[name].popleft()  # type: ignore[misc]

    def _lose(self, name: str) -> None:
        if self.failing[name] and self.failing[name][0] == "lost":
            self.failing[name].popleft()
            raise StoreUnavailable("connection reset")

    def _require_alive(self, worker_id: UUID) -> None:
        if self.workers.get(worker_id, "alive") != "alive":
            raise WorkerDead("worker is dead", code="RH012")

    def _record_of(self, run_id: UUID) -> Run:
        run = self.run(run_id)
        given: dict[str, Any] = {
            "tenant_id": None,
            "limits": {},
            "cancel_requested": run_id in self.cancelled,
            "steps": [],
            **self.details[run_id],
        }
        return Run(
            id=run_id,
            user_id=UUID(int=7),
            agent_type=given.pop("agent_type", "t"),
            fence=run.fence,
            attempt=1,
            input=self.inputs[run_id],
            state={},
            active_ms=0,
            cost_usd=0.0,
            created_at=datetime.now(UTC),
            approval_tools=(),
            outage_since=None,
            calls=(),
            reviews=(),
            messages=(),
            **given,
        )
