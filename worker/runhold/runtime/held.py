"""The runs that this worker holds, and what it knows about each from outside its loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from runhold.loop.ports import ReleaseReason, Run
from runhold.store.run_log import QueuedLog


class Signals:
    """What the worker tells the loop of one run (the loop's ``RunSignals``)."""

    def __init__(
        self,
        run: Run,
        *,
        may_start_effect: Callable[[], bool],
        leave_because: Callable[[str], ReleaseReason | None],
    ) -> None:
        self._cancelled = asyncio.Event()
        if run.cancel_requested:
            self._cancelled.set()
        self.approval_tools: Collection[str] = frozenset(run.approval_tools)
        """Tools that an operator gated: as the claim said, then as the heartbeats since say."""
        self._agent_type = run.agent_type
        self._leave_because = leave_because
        self.may_start_effect = may_start_effect

    @property
    def cancel_requested(self) -> bool:
        """A cancel was seen (heartbeat reply or claim; verdicts tell the loop directly)."""
        return self._cancelled.is_set()

    @property
    def leave_because(self) -> ReleaseReason | None:
        """Why the run is to be given back at its step's end: the worker shuts down, or its type was disabled."""
        return self._leave_because(self._agent_type)

    async def wait_for_cancel(self) -> None:
        """Return once a cancel was seen."""
        await self._cancelled.wait()

    def cancel(self) -> None:
        """A cancel was requested."""
        self._cancelled.set()


class HeldRun:
    """One claimed run on this worker."""

    def __init__(self, run: Run, log: QueuedLog, signals: Signals) -> None:
        self.run = run
        self.log = log
        self.signals = signals
        self.task: asyncio.Task[None] | None = None
        self.released: str | None = None
        """Why the worker takes the run away from its task, if it does."""

    def take_away(self, reason: str) -> None:
        """End its task. What the task had appended is still written: some of it has happened."""
        if self.released is None:
            self.released = reason
        if self.task is not None:
            self.task.cancel()

    def drop(self, reason: str) -> None:
        """End its task and write nothing more: the run is someone else's."""
        self.take_away(reason)
        self.log.close()


class HeldRuns:
    """The slots of a worker."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._by_id: dict[UUID, HeldRun] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def free(self) -> int:
        """Runs that may be claimed."""
        return self.capacity - len(self._by_id)

    def add(self, held: HeldRun) -> None:
        """Take a slot. A run that we claimed again before its former task was gone takes over its slot."""
        former = self._by_id.get(held.run.id)
        self._by_id[held.run.id] = held
        if former is not None:
            former.drop("claimed again")

    def remove(self, held: HeldRun) -> None:
        """Free the slot, if it is still this one's."""
        if self._by_id.get(held.run.id) is held:
            del self._by_id[held.run.id]
            self._changed.set()

    def get(self, run_id: UUID) -> HeldRun | None:
        """The run that is held under ``run_id``."""
        return self._by_id.get(run_id)

    def snapshot(self) -> Sequence[HeldRun]:
        """All of them, now. Safe to call from another thread: copying a dict's values is one step."""
        return list(self._by_id.values())

    async def until_free(self) -> None:
        """Wait for a free slot."""
        while self.free <= 0:
            self._changed.clear()
            await self._changed.wait()

    async def until_empty(self) -> None:
        """Wait until no run is held."""
        while self._by_id:
            self._changed.clear()
            await self._changed.wait()
