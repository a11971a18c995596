"""One registration of the worker: from a new id to its goodbye, or to the news that it is dead.

Everything that belongs to the id lives here (lease, claims, held runs, the writer) and ends with it. A worker
whose lease was lost drops all of that and registers anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol
from uuid import UUID

from runhold.errors import RunholdError, StoreError
from runhold.loop.ports import JsonObject, ReleaseReason
from runhold.runtime.channels import channels_of
from runhold.runtime.claims import Claimer, ClaimPort
from runhold.runtime.config import WorkerConfig
from runhold.runtime.heartbeat import HeartbeatPort, HeartbeatThread
from runhold.runtime.held import HeldRun, HeldRuns
from runhold.runtime.notifications import NotificationPort, Notifier
from runhold.runtime.price_list import PriceList, PricePort
from runhold.runtime.registration import Registered
from runhold.runtime.runs import Equipment, Runs, RunsPort
from runhold.runtime.side_tasks import SideTaskDied, SideTasks
from runhold.runtime.waits import Waits
from runhold.runtime.wake import Listener
from runhold.runtime.wake_report import WakeReport
from runhold.runtime.watchdog import Watchdog
from runhold.store.client import Access
from runhold.store.gateway import RecordPort
from runhold.store.group_commit import GroupCommit
from runhold.store.records import Heartbeat, TypeSettings

logger = logging.getLogger(__name__)

SWEEPS_PER_LEASE: Final = 3
"""Every 10 s with the default lease: what a dead worker held is found within the lease + 2 s, since all workers
sweep, each at its own time."""

WINDUP_S: Final = 2.0
"""After the grace: for tasks to end when they are cancelled, and again for what they wrote to become durable."""

GOODBYE_S: Final = 3.0
"""Deadline of the last calls. If they fail, the lease ends by itself."""

End = Literal["stopped", "dead"]


class SessionPort(ClaimPort, RecordPort, RunsPort, NotificationPort, PricePort, Protocol):
    """The calls of a session. ``Gateway`` has them."""

    async def release(
        self, worker_id: UUID, executions: Sequence[UUID], reason: str, *, counted: bool, deadline_s: float
    ) -> int: ...

    async def stop(self, worker_id: UUID, *, draining: bool, deadline_s: float) -> None: ...

    async def sweep(self) -> JsonObject: ...


class Session:
    """A registered worker at work.

    :ivar dropped: the runs that were given up because the database could not be reached for a whole lease. Nothing
        works on them here any more, so they may be given back without waiting for a sweep to find them, and it is not
        their fault. (Of a lease that ended because a tool held up the event loop, one of the runs is the fault.)
    """

    def __init__(
        self,
        config: WorkerConfig,
        equipment: Equipment,
        port: SessionPort,
        open_heartbeat: Callable[[], Awaitable[HeartbeatPort]],
        registered: Registered,
        *,
        access: Callable[[], Access] | None = None,
    ) -> None:
        worker_id, lease = registered.worker_id, registered.lease
        self.worker_id = worker_id
        self.dropped: Sequence[UUID] = ()
        self._agent_types = tuple(equipment.agents)
        self._config = config
        self._port = port
        self._lease = lease
        self._draining = False
        self._dead = asyncio.Event()
        self._types: Mapping[str, TypeSettings] = registered.types
        self._held = HeldRuns(config.capacity)
        self._writer = GroupCommit(
            port, worker_id, lease_lost=lambda: lease.is_lost, on_worker_dead=self._dead.set
        )
        self._waits = Waits()
        self._runs = Runs(
            worker_id=worker_id,
            port=port,
            equipment=equipment,
            definitions=registered.definitions,
            writer=self._writer,
            held=self._held,
            may_start_effect=lease.may_start_effect,
            leave_because=self._leave_because,
            waits=self._waits,
        )
        self._listener = Listener(
            config,
            worker_id,
            on_wake=self._on_wake,
            on_joined=self._on_joined,
            access=access,
        )
        self._claimer = Claimer(
            port,
            worker_id,
            {name: each.id for name, each in registered.definitions.items()},
            self._held,
            take=self._runs.take,
            is_heard=lambda: self._listener.is_heard,
            on_missed=self._listener.miss,
            on_dead=self._dead.set,
            poll_s=config.poll_s,
        )
        self._heartbeat = HeartbeatThread(
            open_port=open_heartbeat,
            worker_id=worker_id,
            lease=lease,
            lease_s=config.lease_s,
            held=self._held.snapshot,
            last_seq=lambda: self._claimer.last_seq,
            on_reply=self._on_heartbeat,
            on_dead=self._dead.set,
        )
        self._notifier = Notifier(port, worker_id, channels_of(config))
        self._price_list = PriceList(port, equipment.prices, equipment.agents.values())
        self._wakes = WakeReport(self._listener, self._claimer)
        self._watchdog = Watchdog(self._held, equipment.agents, self._give_back_stuck)

    async def run(self, stop: asyncio.Event) -> End:
        """Work until ``stop`` is set (then wind up), or until the worker is dead.

        :raises SideTaskDied: something that the worker lives by ended.
        """
        side = SideTasks()
        side.start("writer", self._writer.run())
        side.start("heartbeat", self._heartbeat.run())
        side.start("lease watch", self._watch_lease())
        side.start("sweeper", self._sweep())
        side.start("watchdog", self._watchdog.run())
        side.start("notifier", self._notifier.run())
        side.start("waits report", self._waits.run())
        if self._config.realtime:
            side.start("realtime listener", self._listener.run())
            side.start("wake report", self._wakes.run())
        try:
            await self._price_list.read()  # before anything is spent
            side.start("price list", self._price_list.run())
            side.start("claimer", self._claimer.run())
            logger.info(
                "worker ready: %d slots for %s",
                self._config.capacity,
                ", ".join(sorted(self._agent_types)),
                extra={"worker_id": str(self.worker_id), "action": "ready"},
            )
            end = await self._until_end(stop, side)
            if end == "stopped":
                await self._wind_up(side)
            return end
        except SideTaskDied:
            self._drop_all("a part of the worker died")
            await self._leave()
            raise
        finally:
            self._drop_all("the worker's lease is lost")
            await side.stop()
            self._say_goodbye()

    # ------------------------------------------------------------------------------------------- the end

    async def _until_end(self, stop: asyncio.Event, side: SideTasks) -> End:
        waits = [asyncio.create_task(each) for each in (stop.wait(), self._dead.wait(), side.one_died())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._dead.is_set():  # first: then others end, too
                return "dead"
            if waits[2].done():
                waits[2].result()
            return "stopped"
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _wind_up(self, side: SideTasks) -> None:
        """Give back what is held: at the end of a step if that comes within the grace, else as it is."""
        logger.info("stopping: %d runs have %g s to end a step", len(self._held), self._config.grace_s)
        self._draining = True
        await side.stop("claimer")
        with contextlib.suppress(RunholdError):
            await self._port.stop(self.worker_id, draining=True, deadline_s=GOODBYE_S)
        await self._until_empty(self._config.grace_s)
        rest = self._held.snapshot()
        for held in rest:
            held.take_away("shutdown")
        tasks = [held.task for held in rest if held.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=WINDUP_S)
        await self._writer.drain(WINDUP_S)
        await self._leave()

    async def _until_empty(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._held.until_empty(), timeout_s)

    async def _leave(self) -> None:
        """Say goodbye, which gives back what is still held."""
        try:
            await self._port.stop(self.worker_id, draining=False, deadline_s=GOODBYE_S)
        except RunholdError as error:
            logger.warning("no goodbye, the runs go on when the lease ends: %s", error)

    def _drop_all(self, reason: str) -> None:
        for held in self._held.snapshot():
            held.drop(reason)
        self._writer.abandon()

    def _say_goodbye(self) -> None:
        logger.info(
            "worker done: runs %s, claimed %s, %d flushes",
            dict(self._runs.outcomes),
            dict(self._claimer.found),
            self._writer.flushes,
            extra={"worker_id": str(self.worker_id), "action": "done", **self._wakes.fields()},
        )

    # ---------------------------------------------------------------------------------------- side tasks

    async def _watch_lease(self) -> None:
        """Notice that the lease is lost, whatever the reason."""
        while True:
            if self._lease.is_lost and not self._dead.is_set():
                logger.error("the lease is lost: all runs are dropped, others go on with them")
                if not self._heartbeat.held_up:
                    self.dropped = [held.run.id for held in self._held.snapshot()]
                self._dead.set()
            await asyncio.sleep(self._config.lease_s / 60)

    async def _sweep(self) -> None:
        """Do for others what they can't any more: any worker, at intervals."""
        while True:
            await asyncio.sleep(self._config.lease_s / SWEEPS_PER_LEASE * random.uniform(0.75, 1.25))
            try:
                counts = await self._port.sweep()
            except StoreError as error:
                logger.debug("sweep failed, another worker's or the next one does its work: %s", error)
            else:
                if any(counts.values()):
                    logger.info("swept: %s", counts)

    # ------------------------------------------------------------------------------- what others tell us

    def _on_joined(self) -> None:
        self._claimer.wake()
        self._heartbeat.nudge()  # its probe shows whether we hear; and one of ours may have been cancelled

    def _on_wake(self) -> None:
        self._claimer.wake()
        if len(self._held):
            self._heartbeat.nudge()  # one of ours may have been cancelled

    def _on_heartbeat(self, reply: Heartbeat, asked: Sequence[HeldRun]) -> None:
        self._listener.expect_probe()
        due_ms = reply.notification_due_ms
        self._notifier.expect(None if due_ms is None else due_ms / 1000)
        self._types = {**self._types, **reply.types}
        lost, cancelled = set(reply.lost), set(reply.cancelled)
        for held in asked:  # held when the heartbeat was sent: what it says is newer than their claims
            if (settings := reply.types.get(held.run.agent_type)) is not None:
                held.signals.approval_tools = frozenset(settings.approval_tools)
            if held.run.id in cancelled:
                held.signals.cancel()
            if held.run.id in lost and not held.log.is_leaving and not held.log.closed:
                held.drop("it belongs to someone else")

    def _leave_because(self, agent_type: str) -> ReleaseReason | None:
        if self._draining:
            return "shutdown"
        settings = self._types.get(agent_type)
        return "agent_disabled" if settings is not None and not settings.enabled else None

    async def _give_back_stuck(self, held: HeldRun) -> None:
        """Take a run away from a task that does not get on, and give it to others. It may get stuck everywhere."""
        held.take_away("no progress")
        for _ in range(10):  # what it wrote before shall be durable
            if held.log.is_settled:
                break
            await asyncio.sleep(WINDUP_S / 10)
        held.drop("no progress")
        try:
            await self._port.release(
                self.worker_id, [held.run.id], "no progress", counted=True, deadline_s=GOODBYE_S
            )
        except RunholdError as error:
            logger.warning("run %s can't be released now: %s", held.run.id, error)
        self._held.remove(held)
