"""The heartbeat: a thread of its own with a connection of its own.

Neither a slow tool that blocks the event loop for a moment nor a flush of a megabyte delays it. But a worker
whose loop stands still for good must lose its runs: the thread renews only while the loop ticks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from runhold.errors import StoreError, WorkerDead
from runhold.runtime.blocker import blocker_of
from runhold.runtime.clock import lease_now
from runhold.runtime.held import HeldRun
from runhold.runtime.lease import Lease
from runhold.store.records import Heartbeat

logger = logging.getLogger(__name__)

BEATS_PER_LEASE: Final = 3
STALE_PART: Final = 2 / 3
"""Part of the lease for which the event loop may stand still before renewing stops: 20 s of 30."""

RETRY_PAUSE_PART: Final = 1 / 60
"""Pause after a beat that failed, as a part of the lease: 0.5 s of 30. The call itself repeats before that."""

GOODBYE_S: Final = 1.0
"""For the thread to close its connection; it ends with the process anyway."""

MIN_NUDGE_S: Final = 1.0
"""A wake-up may mean that a run of ours was cancelled, which only a heartbeat tells: one early beat a second at
most, however many wake-ups there are."""


class HeartbeatPort(Protocol):
    """The connection of the heartbeat's thread."""

    async def heartbeat(
        self, worker_id: UUID, held: Sequence[UUID], last_seq: int, *, deadline_s: float
    ) -> Heartbeat: ...

    async def aclose(self) -> None: ...


class HeartbeatThread:
    """Renews the lease until it is stopped.

    :param open_port: connects; called in the thread's own event loop.
    :param held: the runs that we hold.
    :param last_seq: the highest claim whose runs are all among ``held`` (or done): read before ``held`` is.
    :param on_reply: called in the worker's loop with a reply and the runs that were held when it was asked for.
    :param on_dead: called in the worker's loop when the database says that this worker is dead.

    :ivar held_up: whether the event loop has stood still for too long since the last renewal: if the lease ends now,
        that is why.
    """

    def __init__(
        self,
        *,
        open_port: Callable[[], Awaitable[HeartbeatPort]],
        worker_id: UUID,
        lease: Lease,
        lease_s: float,
        held: Callable[[], Sequence[HeldRun]],
        last_seq: Callable[[], int],
        on_reply: Callable[[Heartbeat, Sequence[HeldRun]], None],
        on_dead: Callable[[], None],
    ) -> None:
        self._open_port = open_port
        self._worker_id = worker_id
        self._lease = lease
        self._lease_s = lease_s
        self._held = held
        self._last_seq = last_seq
        self._on_reply = on_reply
        self._on_dead = on_dead
        self._home = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._home.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry: asyncio.Event | None = None
        self._stopping = False
        self._ticked_at = time.monotonic()
        self._home_thread = threading.get_ident()
        self.held_up = False
        self._looks_at_standstill = 0
        self._thread = threading.Thread(target=self._main, name="runhold-heartbeat", daemon=True)

    async def run(self) -> None:
        """Beat, and tick for it, until cancelled.

        :raises Exception: what ended the thread.
        """
        self._thread.start()
        try:
            while not self._ended.done():
                self._ticked_at = time.monotonic()
                await asyncio.wait({self._ended}, timeout=self._lease_s / 30)
            self._ended.result()
        finally:
            self._stopping = True
            self._wake_up()
            await asyncio.wait({self._ended}, timeout=GOODBYE_S)

    def nudge(self) -> None:
        """Beat soon: there may be a cancel for us."""
        self._wake_up()

    # ------------------------------------------------------------------------------------ in the thread

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._beat_for_ever())
        except BaseException as raised:
            error = raised
        self._tell(self._end, error)

    async def _beat_for_ever(self) -> None:
        self._loop, self._hurry = asyncio.get_running_loop(), asyncio.Event()
        port = await self._open_port()
        try:
            while not self._stopping:
                began = time.monotonic()
                pause = await self._beat(port)
                if pause is None:
                    return
                await self._sleep(pause, not_before=began + MIN_NUDGE_S)
        finally:
            await port.aclose()

    async def _beat(self, port: HeartbeatPort) -> float | None:
        """Renew once. Seconds until the next beat; None: there is no sense in another."""
        interval = self._lease_s / BEATS_PER_LEASE
        if not self._is_ticking():
            return self._lease_s * RETRY_PAUSE_PART
        last_seq = self._last_seq()  # before the runs: those of this claim are then among them
        held = self._held()
        sent_at = lease_now()
        try:
            reply = await port.heartbeat(
                self._worker_id, [each.run.id for each in held], last_seq, deadline_s=interval
            )
        except WorkerDead as error:
            logger.warning("this worker is dead to the database: %s", error)
            self._tell(self._on_dead)
            return None
        except StoreError as error:
            logger.debug("heartbeat failed, %.1f s of the lease are left: %s", self._lease.remaining_s, error)
            return self._lease_s * RETRY_PAUSE_PART
        self._lease.renew(sent_at, reply.lease_ms)
        self.held_up = False
        self._tell(self._on_reply, reply, held)
        return max(0.0, interval - (lease_now() - sent_at))

    def _is_ticking(self) -> bool:
        """Whether the worker's event loop goes round; if not, says once who holds it up."""
        still_s = time.monotonic() - self._ticked_at
        if still_s <= self._lease_s * STALE_PART:
            self._looks_at_standstill = 0
            return True
        self.held_up = True
        self._looks_at_standstill += 1
        # after a suspension of the process, the first look may come too early
        if self._looks_at_standstill == 2:
            logger.error(
                "the event loop has stood still for %.0f s%s: the lease is not renewed any more, and ends in "
                "%.0f s. A tool that blocks must be a plain `def`, which runs in a thread",
                still_s,
                blocker_of(self._home, self._home_thread),
                max(0.0, self._lease.remaining_s),
                extra={"worker_id": str(self._worker_id), "action": "blocked"},
            )
        return False

    async def _sleep(self, pause: float, *, not_before: float) -> None:
        hurry = self._hurry
        assert hurry is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), pause)
            early = not_before - time.monotonic()
            if early > 0 and not self._stopping:
                await asyncio.sleep(min(early, pause))
        hurry.clear()

    # ---------------------------------------------------------------------------------- between threads

    def _wake_up(self) -> None:
        loop, hurry = self._loop, self._hurry
        if loop is not None and hurry is not None:
            with contextlib.suppress(RuntimeError):  # the thread's loop is closed: it has ended
                loop.call_soon_threadsafe(hurry.set)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the worker's loop is closed: nobody is there to be told
            self._home.call_soon_threadsafe(callback, *args)

    def _end(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()
