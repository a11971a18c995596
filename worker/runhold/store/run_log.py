"""One claimed run's way to the database: what it appended, in order, and what the database said to it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from runhold.errors import ContentRejected, StoreError
from runhold.loop.ports import Entry, JsonObject, Verdict
from runhold.store.answers import GatewayAnswer
from runhold.store.codec import is_transition_only
from runhold.store.compound import Compound, Encoded, encoded_in_pieces
from runhold.store.records import read_verdict

logger = logging.getLogger(__name__)

BUSY_PAUSE_S: Final = (0.02, 0.08)
"""How long a run waits when someone else holds its row (a decision, a cancel): those take milliseconds."""

MAX_BUSY_FACTOR: Final = 5
"""How far the pause grows when the row stays held."""

PROBE_AHEAD: Final = 1_000_000
"""How far the number of a probe is ahead of the run's: no run records so much."""

_FENCED: Final = Verdict(kind="fenced")


class Writer(Protocol):
    """What a log needs of the group commit."""

    def enqueue(self, log: QueuedLog) -> None:
        """Put ``log`` into one of the next flushes."""
        ...

    def count(self, change: int) -> None:
        """Keep count of appended entries without an answer."""
        ...

    def forget(self, log: QueuedLog) -> None:
        """The run of ``log`` is over for this worker."""
        ...


@dataclass(slots=True)
class Sealed:
    """An entry as it is sent until it is answered: encoded, under its number."""

    compound: Compound
    seq: int
    body: bytes
    failures: int = 0
    """Flushes with it that failed without an answer about it."""
    failures_alone: int = 0
    """Of those, the ones with nothing else in them, while others succeed."""
    rejections: int = 0
    """How often a gateway rejected it, alone, and let another entry pass at once after it."""
    is_farewell: bool = False
    """Whether it only ends a run of which a gateway rejected an entry: it has no content to be blamed for."""


class QueuedLog:
    """A ``RunLog`` whose head may be under way to the database.

    After an entry could not be stored (``StoreError``) everything behind it is refused too, because it may
    build on it. Only an entry that does nothing but end the run is still taken.
    """

    def __init__(self, writer: Writer, execution_id: UUID, fence: int) -> None:
        self.key = str(execution_id)
        self.sealed: Sealed | None = None
        self.cancel_requested = False
        """Whether a verdict said so."""
        self.closed = False
        """Whether the run is over for this worker: it left, or belongs to someone else."""
        self._writer = writer
        self._fence = fence
        self._next_seq = 1
        self._gathering: deque[Compound] = deque()
        self._queued = False  # in the writer's queue, with nothing sealed yet
        self._broken: StoreError | None = None
        self._busy_rounds = 0
        self._unsure_of: int | None = None
        """The number of an entry that a gateway rejected: it may have been stored before its answer was."""
        self._loop = asyncio.get_running_loop()
        self.moved_at = self._loop.time()
        """When something was appended or answered last, on the loop's clock: the run's pulse."""

    def append(self, entry: Entry) -> asyncio.Future[Verdict]:
        """Queue ``entry`` and return at once; see ``RunLog.append``."""
        self.moved_at = self._loop.time()
        future: asyncio.Future[Verdict] = self._loop.create_future()
        if self.closed:
            future.set_result(_FENCED)
        elif self._broken is not None and not is_transition_only(entry):
            _fail(future, self._broken)
        else:
            try:
                self._gather(entry, future)
            except StoreError as error:
                self._broken = error
                _fail(future, error)
        return future

    @property
    def is_settled(self) -> bool:
        """Whether everything that was appended is answered."""
        return self.sealed is None and not self._gathering

    @property
    def is_leaving(self) -> bool:
        """Whether an entry that takes the run off this worker is queued or under way."""
        sealed = self.sealed
        return (sealed is not None and sealed.compound.ends) or any(each.ends for each in self._gathering)

    # ------------------------------------------------------------------------------ called by the writer

    def seal(self) -> Sealed | None:
        """The entry to send now: the one that was sent before, until it is answered. None: there is none."""
        self._queued = False
        if self.sealed is None and self._gathering:
            self._seal(self._gathering.popleft(), self._next_seq + (self._unsure_of is not None))
        return self.sealed

    def _seal(self, compound: Compound, seq: int) -> None:
        body = compound.encode(self.key, self._fence, seq)
        self.sealed = Sealed(compound, seq, body, is_farewell=isinstance(self._broken, ContentRejected))

    def probe(self) -> bytes | None:
        """An entry that changes nothing, whatever is stored by now: its number is too high."""
        if self.sealed is None:
            return None
        return Compound().encode(self.key, self._fence, self.sealed.seq + PROBE_AHEAD)

    def answer(self, raw: JsonObject) -> None:
        """Take the database's verdict on the sealed entry."""
        sealed = self.sealed
        if sealed is None:  # abandoned while it was under way
            return
        self.moved_at = self._loop.time()
        kind = raw["verdict"]
        if kind == "busy":
            self._busy_rounds = min(self._busy_rounds + 1, MAX_BUSY_FACTOR)
            self.retry_in(random.uniform(*BUSY_PAUSE_S) * self._busy_rounds)
            return
        self._busy_rounds = 0
        if kind == "gap" and self._unsure_of is not None:
            # so the entry before this one was not stored, and its number is free
            seq, self._unsure_of = self._unsure_of, None
            self._seal(sealed.compound, seq)
            self._writer.enqueue(self)
            return
        if kind in ("fenced", "gap"):
            if kind == "gap":
                logger.error("run %s: the database misses an entry before %d", self.key, sealed.seq)
            self.close()
            return
        self._next_seq = sealed.seq + 1
        self._unsure_of = None
        verdict = read_verdict(raw)
        self.cancel_requested = self.cancel_requested or verdict.cancel_requested
        self.sealed = None
        self._settle(sealed.compound, verdict)
        if self._gathering:
            self._enqueue()

    def refuse(self, error: Exception) -> None:
        """The sealed entry can't be stored. Its number stays free, because nothing was."""
        problem = StoreError(f"the database can't store an entry of this run: {error}")
        problem.__cause__ = error
        self._refuse(problem)

    def reject(self, error: StoreError) -> None:
        """A gateway does not let the sealed entry pass, or does not let the answer to it pass: it may be stored.

        So the run's last word goes under the next number first. If the database misses the entry before that, it was
        not stored, and its number is free.
        """
        sealed = self.sealed
        if sealed is None:
            return
        self._unsure_of = sealed.seq
        answer = {"status": error.status, "answer": error.says} if isinstance(error, GatewayAnswer) else {}
        facts = {"status": None, **answer, "bytes": len(sealed.body)}
        said = f" with status {facts['status']}" if answer else ""
        problem = ContentRejected(
            f"A gateway in front of the database rejects{said} what this run is to record ({len(sealed.body)} bytes), "
            "and lets other records pass",
            facts=facts,
        )
        problem.__cause__ = error
        self._refuse(problem)

    def retry_in(self, pause_s: float) -> None:
        """Send the sealed entry again, unchanged, after ``pause_s`` seconds."""
        self._loop.call_later(pause_s, self._retry)

    def close(self) -> None:
        """The run is over for this worker: everything queued, now or later, answers ``fenced``."""
        self.closed = True
        sealed, self.sealed = self.sealed, None
        if sealed is not None:
            self._settle(sealed.compound, _FENCED)
        self._settle_gathering(_FENCED)
        self._writer.forget(self)

    # -------------------------------------------------------------------------------------------- within

    def _gather(self, entry: Entry, future: asyncio.Future[Verdict]) -> None:
        *before, last = encoded_in_pieces(entry)
        for piece in before:  # what is answered to it is answered to the last one, too
            self._gather_piece(piece, self._loop.create_future())
        self._gather_piece(last, future)
        self._enqueue()

    def _gather_piece(self, piece: Encoded, future: asyncio.Future[Verdict]) -> None:
        if not self._gathering or not self._gathering[-1].accepts(piece):
            self._gathering.append(Compound())
        self._gathering[-1].add(piece, future)
        self._writer.count(1)

    def _enqueue(self) -> None:
        # While an entry is sealed, its answer decides when the next one goes.
        if not self._queued and self.sealed is None:
            self._queued = True
            self._writer.enqueue(self)

    def _retry(self) -> None:
        if self.sealed is not None:
            self._writer.enqueue(self)

    def _refuse(self, problem: StoreError) -> None:
        sealed, self.sealed = self.sealed, None
        if sealed is not None:
            logger.error("run %s: entry %d is not stored: %s", self.key, sealed.seq, problem)
            self._settle(sealed.compound, problem)
        self._broken = problem
        self._settle_gathering(problem)

    def _settle_gathering(self, outcome: Verdict | StoreError) -> None:
        while self._gathering:
            self._settle(self._gathering.popleft(), outcome)

    def _settle(self, compound: Compound, outcome: Verdict | StoreError) -> None:
        self._writer.count(-len(compound.futures))
        for future in compound.futures:
            if future.done():  # whoever waited was cancelled
                continue
            if isinstance(outcome, Verdict):
                future.set_result(outcome)
            else:
                _fail(future, outcome)


def _fail(future: asyncio.Future[Verdict], error: StoreError) -> None:
    future.set_exception(error)
    future.exception()  # an answer need not be awaited: keeps "never retrieved" out of the log
