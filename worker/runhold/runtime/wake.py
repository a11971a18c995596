"""Hearing of work: one supervisor owns the Realtime connection, and replaces it for ever.

Nothing depends on it but speed. It is believed only as long as its own ear is tested: every heartbeat of this
worker sends a probe through the database, and that must be heard here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from runhold.runtime.config import WorkerConfig
from runhold.runtime.realtime import Connect, Connection, connect
from runhold.store.client import Access

logger = logging.getLogger(__name__)

RECYCLE_S: Final = 45 * 60.0
"""A connection is replaced before whatever token the server made of our key can run out (an hour at least)."""

RECYCLE_JITTER: Final = 0.1

BACKOFF_BASE_S: Final = 0.5
BACKOFF_CAP_S: Final = 60.0
"""Full jitter up to this: storms of reconnecting workers get projects suspended."""

STEADY_S: Final = 30.0
"""Only a connection that was heard for so long makes the next attempts quick again."""

PROBE_WAIT_S: Final = 5.0
"""From a heartbeat's answer, by which its probe is on its way, until it must have been heard."""

MAX_MISSED: Final = 3
"""Polls that found what no wake-up told of, one after the other, before the connection is replaced."""

TICK_S: Final = 1.0


@dataclass(kw_only=True, slots=True)
class WakeStats:
    """What was heard so far.

    :ivar joins: connections that joined.
    :ivar events: wake-ups heard.
    :ivar last_event_at: when the last one was.
    :ivar last_probe_at: when a probe last came through: until then, at least, the connection was good.
    :ivar last_trouble: why the last connection that was lost was lost, or why none was to be had.
    """

    joins: int = 0
    events: int = 0
    last_event_at: datetime | None = None
    last_probe_at: datetime | None = None
    last_trouble: str | None = None

    @property
    def resubscribes(self) -> int:
        """Connections after the first one, planned ones included."""
        return max(0, self.joins - 1)


class Listener:
    """The wake supervisor.

    :param on_wake: called in the loop for each wake-up; must not raise.
    :param on_joined: called when a connection has joined, when the server says that it is ready, and when its
        first probe is heard: what happened before each of them may not have been told.

    :param access: what the worker presents now: what its configuration says, if not given.

    :ivar stats: what was heard so far.
    """

    def __init__(
        self,
        config: WorkerConfig,
        worker_id: UUID,
        *,
        on_wake: Callable[[], None],
        on_joined: Callable[[], None],
        access: Callable[[], Access] | None = None,
        connect: Connect = connect,
    ) -> None:
        self.stats = WakeStats()
        self._config = config
        self._worker_id = worker_id
        self._on_wake = on_wake
        self._on_joined = on_joined
        self._access = access or (lambda: config.access)
        self._connect = connect
        self._joined_at: float | None = None
        self._heard_at: float | None = None
        self._expected_since: float | None = None
        self._heard_early = False
        self._missed = 0

    @property
    def is_heard(self) -> bool:
        """Whether the connection is joined, and probes come through it."""
        return self._joined_at is not None and self._heard_at is not None and not self._is_overdue()

    def expect_probe(self) -> None:
        """A heartbeat was answered, so its probe is on its way, or was faster than the answer."""
        if self._heard_early:
            self._heard_early = False
        elif self._expected_since is None:
            self._expected_since = time.monotonic()

    def miss(self) -> None:
        """A poll found what a wake-up should have told of."""
        self._missed += 1

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            steady, why = False, "recycled"
            access = self._access()
            try:
                connection = await self._connect(self._config.url, access, self._topics(), self._on_joined)
                try:
                    steady, why = await self._listen(connection, access)
                finally:
                    self._joined_at = None
                    await connection.aclose()
            except Exception as error:  # whatever a foreign library comes up with: we try again
                why = f"{type(error).__name__}: {error}".rstrip(": ")
            if why == "recycled":
                continue
            attempt = 1 if steady else attempt + 1
            why = self.stats.last_trouble = self._config.hide_secrets(why)
            level = logging.WARNING if attempt <= 1 else logging.DEBUG
            logger.log(level, "Realtime is not heard, polling instead until it is: %s", why)
            await self._pause(
                random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10))), access
            )

    async def _pause(self, pause_s: float, access: Access) -> None:
        """Sleep, at most until there is a new key to try."""
        ends = time.monotonic() + pause_s
        while (left := ends - time.monotonic()) > 0 and self._access() == access:  # noqa: ASYNC110 (threads change it)
            await asyncio.sleep(min(left, TICK_S))

    async def _listen(self, connection: Connection, access: Access) -> tuple[bool, str]:
        """Stay with one connection as long as it is good: (whether it was for a while, why it is over)."""
        self.stats.joins += 1
        now = self._joined_at = time.monotonic()
        self._heard_at = self._expected_since = None
        self._heard_early, self._missed = False, 0
        self._on_joined()
        recycle_at = now + RECYCLE_S * random.uniform(1 - RECYCLE_JITTER, 1)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.trouble.wait(), min(TICK_S, PROBE_WAIT_S / 4))
            now = time.monotonic()
            steady = self._heard_at is not None and now - self._heard_at >= STEADY_S
            if connection.trouble.is_set():
                return steady, connection.why or "the connection was lost"
            if self._is_overdue():
                return steady, "the probe was not heard"
            if self._missed >= MAX_MISSED:
                return False, "polls found runs that it did not tell of"
            if now >= recycle_at or self._access() != access:
                return steady, "recycled"

    def _is_overdue(self) -> bool:
        since = self._expected_since
        return since is not None and time.monotonic() >= since + PROBE_WAIT_S

    def _topics(self) -> dict[str, dict[str, Callable[[], None]]]:
        return {
            "runhold:workers": {"wake": self._on_event},
            f"runhold:worker:{self._worker_id}": {"probe": self._on_probe},
        }

    def _on_event(self) -> None:
        self.stats.events += 1
        self.stats.last_event_at = datetime.now(UTC)
        self._missed = 0
        self._on_wake()

    def _on_probe(self) -> None:
        self.stats.last_probe_at = datetime.now(UTC)
        if self._expected_since is not None:
            self._expected_since = None
        else:
            self._heard_early = True
        if self._heard_at is None and self._joined_at is not None:
            self._heard_at = time.monotonic()
            if self.stats.last_trouble is not None:
                logger.info("Realtime is heard")
            self._on_joined()
