"""Group commit: all runs of a worker share its round trips to the database.

While one flush is on its way the next one gathers; an idle writer sends as soon as the runs have had a few turns of
the event loop. Per run at most one entry is under way: it is *sealed* (encoded, numbered) when it is put into a flush
and stays as it is until the database has answered it, however often it must be sent. What the run appends meanwhile
gathers behind it::

    gathering ──take──> in flight ──ok, stop, continue──> answered
                         │  ▲   └──fenced, gap──────────> closed: everything of the run answers `fenced`
       outcome unknown,  │  │
       or busy           └──┘ (again, unchanged)
                         ├──refused for its data────────> broken: StoreError; the run may only end itself
                         └──rejected by a gateway, which
                            lets others pass ───────────> broken, and nobody knows whether it is stored: see
                                                          ``QueuedLog.reject``
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from runhold.errors import Refused, StoreError, WorkerDead
from runhold.loop.ports import MAX_RECORD_BYTES, JsonObject
from runhold.store.answers import DATA, LIMIT, GatewayAnswer, UnreadableAnswer, kind_of
from runhold.store.client import BACKOFF_CAP_S, backoff_s
from runhold.store.gateway import RecordPort
from runhold.store.run_log import QueuedLog

logger = logging.getLogger(__name__)

MAX_FLUSH_ENTRIES: Final = 256
"""The contract's limit: more rows locked at once means more runs that wait for the slowest."""

MAX_FLUSH_BYTES: Final = MAX_RECORD_BYTES
"""Keeps a flush within time-outs and the limits of gateways in front of the database, as its entries are."""

LINGER_TURNS: Final = 12
"""Turns of the event loop before a flush that nothing waits for. Runs that were just answered append what they waited
with, and a run that just recorded a step gets its quick reads done and its next model call under way before the
flush takes the processor for a millisecond: both become part of one entry. Without this a run of the benchmark needs
15 entries, not 8. An idle turn takes some 10 µs."""

LINGER_S: Final = 0.002
"""And not longer than this: turns are slow where tools compute in the event loop."""

MIN_SHARE: Final = 32
"""Flushes are not split below this. Above it, half of the runs compute while the other half is being recorded: all
in one flush, worker and database would take turns doing nothing."""

SUSPECT_FAILURES: Final = 4
"""An entry that was in this many flushes that failed, while others succeed, goes alone from then on."""

MAX_FAILURES_ALONE: Final = 5
"""An entry that fails this often alone, while others succeed, is given up, even if no error ever blamed its data (a
statement time-out, an internal error, a gateway that gives up on it)."""


MAX_REJECTIONS: Final = 5
"""An entry that a gateway rejects this often, and each time lets an entry without content pass at once after it, is
rejected for what it holds: its run fails. Fewer might be chance, at a gateway that rejects at random."""

REJECTED_PAUSE_S: Final = 0.5
"""After the first rejection; then twice as long each time, up to ``BACKOFF_CAP_S``: some 7 s in all."""


class GroupCommit:
    """The one writer of a registered worker.

    :param port: the RPC.
    :param worker_id: the id under which the runs were claimed.
    :param lease_lost: whether the worker's runs belong to others by now: then nothing is sent any more.
    :param on_worker_dead: called, in the loop, when the database says that this worker is dead.
    """

    def __init__(
        self,
        port: RecordPort,
        worker_id: UUID,
        *,
        lease_lost: Callable[[], bool] = lambda: False,
        on_worker_dead: Callable[[], None] = lambda: None,
    ) -> None:
        self._port = port
        self._worker_id = worker_id
        self._lease_lost = lease_lost
        self._on_worker_dead = on_worker_dead
        self._logs: set[QueuedLog] = set()
        self._ready: deque[QueuedLog] = deque()
        self._wake = asyncio.Event()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._flush_limit = MAX_FLUSH_ENTRIES
        self._failures = 0  # in a row
        self._waited = 0  # entries that were ready before the last flush was answered
        self._abandoned = False
        self.flushes = 0
        """Round trips so far."""

    def open(self, execution_id: UUID, fence: int) -> QueuedLog:
        """The log of a run that was just claimed."""
        log = QueuedLog(self, execution_id, fence)
        self._logs.add(log)
        if self._abandoned:
            log.close()
        return log

    async def run(self) -> None:
        """Write, until cancelled: a task for as long as the worker is registered."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                if not self._waited:
                    await self._linger()
                if self._lease_lost():
                    self.abandon()
                    break
                batch = self._take()
                self._waited = 0
                await self._flush(batch)

    async def _linger(self) -> None:
        clock = asyncio.get_running_loop().time
        ends = clock() + LINGER_S
        for _ in range(LINGER_TURNS):
            await asyncio.sleep(0)
            if clock() >= ends:
                return

    async def drain(self, timeout_s: float) -> bool:
        """Wait until all that was appended is answered; false if it is not after ``timeout_s`` seconds."""
        try:
            await asyncio.wait_for(self._all_answered.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def abandon(self) -> None:
        """The runs are not ours any more: everything queued, now or later, answers ``fenced``."""
        self._abandoned = True
        self._ready.clear()
        for log in tuple(self._logs):
            log.close()

    # -------------------------------------------------------------------------------- called by the logs

    def enqueue(self, log: QueuedLog) -> None:
        """Put ``log`` into one of the next flushes."""
        self._ready.append(log)
        self._wake.set()

    def count(self, change: int) -> None:
        """Keep count of appended entries without an answer."""
        self._unanswered += change
        if self._unanswered:
            self._all_answered.clear()
        else:
            self._all_answered.set()

    def forget(self, log: QueuedLog) -> None:
        """The run of ``log`` is over for this worker."""
        self._logs.discard(log)

    # ---------------------------------------------------------------------------------------- the writer

    def _take(self) -> list[QueuedLog]:
        """The next flush: the runs that waited longest, each with its sealed entry."""
        batch: list[QueuedLog] = []
        size = 0
        # At most half of the runs, so that the others compute meanwhile; and first those that waited for the last
        # flush, because those that it just answered are about to add to what they have.
        most = min(
            self._flush_limit, max(MIN_SHARE, (len(self._logs) + 1) // 2), self._waited or MAX_FLUSH_ENTRIES
        )
        while self._ready and len(batch) < most:
            log = self._ready[0]
            sealed = log.seal()
            suspect = False
            if sealed is not None:
                suspect = sealed.failures >= SUSPECT_FAILURES and not self._failures
                if batch and (suspect or size + len(sealed.body) > MAX_FLUSH_BYTES):
                    break
                size += len(sealed.body)
                batch.append(log)
            self._ready.popleft()
            if suspect:
                break
        return batch

    async def _flush(self, batch: list[QueuedLog]) -> None:
        """Send ``batch``; whatever happens, each of its runs is answered or queued again."""
        parts = deque([batch])
        while parts:
            part = _under_way(parts.popleft())
            if not part:
                continue
            try:
                verdicts = await self._send(part)
            except WorkerDead as error:
                logger.warning("this worker is dead to the database: %s", error)
                self.abandon()
                self._on_worker_dead()
                return
            except StoreError as error:
                is_refused = kind_of(error) is DATA
                is_one_entry = is_refused or _may_be_about_content(error)
                if is_one_entry:
                    is_one_entry = await self._passes(part[0])
                    part = _under_way(part)
                if not is_one_entry:  # an outage: a rule that no statement passes is one, too
                    await self._send_later(
                        _under_way([*part, *(log for rest in parts for log in rest)]), error
                    )
                    return
                if len(part) == 1 and is_refused and not _was_in_an_outage(part[0]):
                    part[0].refuse(error)
                elif len(part) == 1:
                    self._count_rejection(part[0], error)
                else:  # find the culprit; the others are stored on the way
                    middle = len(part) // 2
                    parts.extendleft((part[middle:], part[:middle]))
                continue
            self._failures = 0
            self._waited = len(self._ready) if len(self._logs) > MIN_SHARE else 0
            self._flush_limit = min(MAX_FLUSH_ENTRIES, self._flush_limit * 2)
            for log, verdict in zip(part, verdicts, strict=True):
                log.answer(verdict)

    async def _passes(self, log: QueuedLog) -> bool:
        """Whether an entry without content passes at this moment: else it is an outage, and no run's fault."""
        probe = log.probe()
        if probe is None:
            return False
        try:
            await self._port.record(self._worker_id, [probe])
        except StoreError:
            return False
        return True

    def _count_rejection(self, log: QueuedLog, error: StoreError) -> None:
        """The one entry of ``log`` was rejected, and others pass."""
        sealed = log.sealed
        if sealed is None:
            return
        sealed.rejections += 1
        if sealed.rejections < MAX_REJECTIONS or sealed.is_farewell:
            log.retry_in(min(REJECTED_PAUSE_S * 2 ** min(sealed.rejections - 1, 10), BACKOFF_CAP_S))
        elif isinstance(error, GatewayAnswer):
            log.reject(error)
        else:
            log.refuse(error)

    async def _send(self, part: Sequence[QueuedLog]) -> list[JsonObject]:
        self.flushes += 1
        verdicts = await self._port.record(
            self._worker_id, [log.sealed.body for log in part if log.sealed is not None]
        )
        for log, verdict in zip(part, verdicts, strict=True):
            if verdict.get("execution") != log.key or "verdict" not in verdict:
                raise UnreadableAnswer(
                    "agent_worker_record answered about another run than it was asked about"
                )
        return verdicts

    async def _send_later(self, batch: list[QueuedLog], error: StoreError) -> None:
        """Nobody knows what happened to ``batch``, or the database can't now: pause, then send it again.

        If it is the database, a pause helps, and smaller flushes at first. If it is one entry that makes every
        flush fail, it ends up alone, where it delays its own run only.
        """
        pause = backoff_s(self._failures, error)
        self._failures += 1
        self._flush_limit = max(1, len(batch) // 2)
        logger.debug("%d entries will be sent again, the flush failed: %s", len(batch), error)
        for log in batch:
            if log.sealed is not None:
                log.sealed.failures += 1
        if len(batch) == 1 and self._failures == 1:  # the flush before this one did not fail
            self._delay(batch[0], error)
            return
        if len(batch) == 1:
            self._ready.extend(batch)  # is it this one, or the database? The next in line will tell
        else:
            self._ready.extendleft(reversed(batch))
        await asyncio.sleep(pause)
        self._wake.set()

    def _delay(self, alone: QueuedLog, error: StoreError) -> None:
        """One entry failed although the flush before it did not: let the others pass it, and count."""
        sealed = alone.sealed
        if sealed is None:
            return
        sealed.failures_alone += 1
        if sealed.failures_alone < MAX_FAILURES_ALONE or sealed.is_farewell:
            alone.retry_in(backoff_s(sealed.failures_alone, error))
        elif isinstance(error, Refused):
            alone.refuse(error)
        else:
            alone.reject(error)


def _under_way(logs: Sequence[QueuedLog]) -> list[QueuedLog]:
    """Those that still have something to send: a run may be lost while its entry waits."""
    return [log for log in logs if log.sealed is not None]


def _was_in_an_outage(log: QueuedLog) -> bool:
    """Whether its entry failed with all others before: then one refusal may be the outage's last."""
    return log.sealed is not None and log.sealed.failures > 0


def _may_be_about_content(error: StoreError) -> bool:
    """Whether it may be one entry of a flush that made it fail, or everything fails at present."""
    return kind_of(error) is LIMIT or (isinstance(error, GatewayAnswer) and error.may_be_about_content)
