"""When to look for work, and taking it.

Woken by edges, correct by levels: a wake-up only says *when* to claim; what the claim answers is true. A lost
wake-up costs the time until the next poll, nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, Protocol
from uuid import UUID

from runhold.errors import StoreError, WorkerDead
from runhold.runtime.config import MAX_CAPACITY
from runhold.runtime.held import HeldRuns
from runhold.store.answers import GatewayAnswer, UnreadableAnswer
from runhold.store.records import Claim

logger = logging.getLogger(__name__)

POLL_HEARD_S: Final = 30.0
"""Between polls while Realtime is heard to work."""

DOUBT_S: Final = 60.0
"""After a poll found what no wake-up had told of, we poll as if Realtime were not heard for so long."""

POLL_JITTER: Final = 0.25
"""Polls are spread by this part, so that idle workers do not ask all at once."""

TRAILING_S: Final = 0.12
"""After a wake-up we look once more: the database sends at most one per 100 ms and swallows the rest."""

EMPTY_JITTER_S: Final = 0.2
"""A wake-up that led to nothing went to others: we look again at a moment of our own, not all at once."""

MIN_DUE_S: Final = 0.05
MAX_DUE_S: Final = 2.0
"""Bounds of the pause before a run that was said to be due: the database's clock may be behind ours, and then a
claim finds nothing yet."""

TICK_S: Final = 1.0
"""How often a long wait looks whether Realtime is still heard."""

SETTLE_TURNS: Final = 12
"""Turns of the event loop after a slot became free: one flush ends many runs, and one claim shall fill all their
slots."""

RETRY_S: Final = 1.0
"""After a claim that got no answer within its deadline."""

MAX_UNREADABLE: Final = 2
"""So often may the answer to a claim not arrive as it is, each time for as long as calls are repeated, while a claim
without runs is answered: a gateway rejects what its runs hold. Then its runs are left to the next heartbeat, which does
not name them: counted, they end at ``max_attempts``."""

ALONE_CLAIMS: Final = 16
"""So many claims after that take one run each, so that no other shares the fate of the one at fault."""

Reason = Literal["start", "push", "poll", "due", "slot"]
"""Why we look. ``push``: a wake-up, or Realtime just (re)joined. ``slot``: one became free, and there is more."""


class ClaimPort(Protocol):
    """The one call that claiming needs."""

    async def claim(self, worker_id: UUID, seq: int, definitions: Mapping[str, UUID], n: int) -> Claim: ...


class Claimer:
    """Claims up to the free slots, for ever.

    :ivar last_seq: the highest claim whose runs are all held, or done. The heartbeat reads it.
    :param is_heard: whether wake-ups can be relied on now.
    :param on_missed: called when a poll found runs although they can.
    :param poll_s: seconds between polls while they can't.

    :ivar found: runs found, by reason; ``looked``: claims made, by reason.
    :ivar missed: of those found by polls, the ones that a wake-up should have told of: Realtime was heard.
    """

    def __init__(
        self,
        port: ClaimPort,
        worker_id: UUID,
        definitions: Mapping[str, UUID],
        held: HeldRuns,
        *,
        take: Callable[[Claim], None],
        is_heard: Callable[[], bool],
        on_missed: Callable[[], None],
        on_dead: Callable[[], None],
        poll_s: float,
    ) -> None:
        self.last_seq = 0
        self.found: Counter[Reason] = Counter({"push": 0, "poll": 0})
        self.looked: Counter[Reason] = Counter()
        self.missed = 0
        self._port = port
        self._worker_id = worker_id
        self._definitions = definitions
        self._held = held
        self._take = take
        self._is_heard = is_heard
        self._on_missed = on_missed
        self._on_dead = on_dead
        self._poll_s = poll_s
        self._doubt_until = float("-inf")
        self._woken = asyncio.Event()
        self._trailing_at = float("inf")
        self._due: datetime | None = None
        self._alone = 0  # claims that are still to take one run each
        self._due_pause_s = MIN_DUE_S

    def wake(self) -> None:
        """Something happened: look now, and once more a moment later. Never raises.

        Also when we begin to hear: what was told a moment before, to nobody, may have silenced the next wake-up.
        """
        self._trailing_at = time.monotonic() + TRAILING_S
        self._woken.set()

    async def run(self) -> None:
        """Claim until cancelled."""
        reason: Reason = "start"
        while True:
            if self._held.free <= 0:
                await self._held.until_free()
                for _ in range(SETTLE_TURNS):
                    await asyncio.sleep(0)
                reason = "slot"
            claim = await self._claim()
            if claim is None:
                return
            self.looked[reason] += 1
            found = len(claim.runs) + len(claim.truncated)
            self.found[reason] += found
            if found:
                logger.info("claimed %d by %s", found, reason, extra={"action": "claimed", "reason": reason})
            self._learn(reason, found)
            self._remember_due(claim, found)
            if not claim.more:
                reason = await self._reason_to_look()

    async def _claim(self) -> Claim | None:
        """One claim, repeated under its number until it is answered. None: this worker is dead."""
        seq = self.last_seq + 1
        unreadable = 0
        most = 1 if self._alone else MAX_CAPACITY
        while True:
            self._woken.clear()  # what happens from here on is another reason to look
            try:
                claim = await self._port.claim(
                    self._worker_id, seq, self._definitions, min(max(1, self._held.free), most)
                )
            except WorkerDead as error:
                logger.warning("this worker is dead to the database: %s", error)
                self._on_dead()
                return None
            except StoreError as error:
                unreadable += _may_be_about_content(error) and await self._is_answered()
                if unreadable >= MAX_UNREADABLE:
                    logger.error(
                        "the answer to claim %d does not arrive (%s); its runs are given back, and the next %d are "
                        "claimed one by one",
                        seq,
                        error,
                        ALONE_CLAIMS,
                    )
                    self.last_seq = seq
                    self._alone = ALONE_CLAIMS
                    return Claim(runs=(), truncated=(), unreadable=(), next_due=None, more=False)
                logger.debug("claim %d got no answer, will be repeated: %s", seq, error)
                await asyncio.sleep(random.uniform(RETRY_S / 2, RETRY_S * 1.5))
                continue
            self._alone = max(0, self._alone - 1)
            self._take(claim)
            self.last_seq = seq  # only now: the heartbeat gives back what we do not hold
            return claim

    async def _is_answered(self) -> bool:
        """Whether a claim is answered that takes nothing, because its number was used before: 0."""
        try:
            await self._port.claim(self._worker_id, 0, self._definitions, 1)
        except StoreError:
            return False
        return True

    def _learn(self, reason: Reason, found: int) -> None:
        if reason == "push" and not found:
            self._trailing_at += random.uniform(0, EMPTY_JITTER_S)
        elif reason == "poll" and found and self._is_heard():
            self.missed += found
            self._doubt_until = time.monotonic() + DOUBT_S
            self._on_missed()

    def _remember_due(self, claim: Claim, found: int) -> None:
        if claim.next_due == self._due and not found:
            self._due_pause_s = min(self._due_pause_s * 2, MAX_DUE_S)
        else:
            self._due_pause_s = MIN_DUE_S
        self._due = claim.next_due

    async def _reason_to_look(self) -> Reason:
        """Wait for a wake-up, a run that becomes due, or the time to poll."""
        began = time.monotonic()
        due_at = began + self._until_due_s()
        spread = random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
        while True:
            now = time.monotonic()
            # looked up every time: hearing may stop while we wait
            poll_at = began + self._pause_s() * spread
            moments: list[tuple[float, Reason]] = [
                (self._trailing_at, "push"), (due_at, "due"), (poll_at, "poll"),
            ]  # fmt: skip
            at, reason = min(moments)
            if at <= now:
                if reason == "push":
                    self._trailing_at = float("inf")
                return reason
            try:
                await asyncio.wait_for(self._woken.wait(), min(at - now, TICK_S))
            except TimeoutError:
                continue
            return "push"

    def _pause_s(self) -> float:
        if self._is_heard() and time.monotonic() >= self._doubt_until:
            return max(POLL_HEARD_S, self._poll_s)
        return self._poll_s

    def _until_due_s(self) -> float:
        if self._due is None:
            return float("inf")
        return max((self._due - datetime.now(UTC)).total_seconds(), self._due_pause_s)


def _may_be_about_content(error: StoreError) -> bool:
    """Whether it may be what the claimed runs hold that kept the answer from arriving."""
    return isinstance(error, UnreadableAnswer) or (
        isinstance(error, GatewayAnswer) and error.may_be_about_content
    )
