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
from typing import Final
from uuid import UUID

from runhold.runtime.config import WorkerConfig
from runhold.runtime.realtime import Connect, Connection, connect

logger = logging.getLogger(__name__)

RECYCLE_S: Final = 45 * 60.0
"""A connection is replaced before whatever token the server made of our key can run out (an hour at least)."""

RECYCLE_JITTER: Final = 0.1

BACKOFF_BASE_S: Final = 0.5
BACKOFF_CAP_S: Final = 60.0
"""Full jitter up to this: storms of reconnecting workers get projects suspended."""

MISSED_PROBES: Final = 2.5
"""So many heartbeats without a probe heard: deaf, whatever the connection says of itself."""

PROBE_TRAVEL_S: Final = 2.0


class Listener:
    """The wake supervisor.

    :param probe_every_s: seconds between the heartbeats that send the probe.
    :param on_wake: called in the loop for each wake-up; must not raise.
    :param on_joined: called when a connection has joined: what happened before was not heard.

    :ivar joins: connections that joined so far.
    """

    def __init__(
        self,
        config: WorkerConfig,
        worker_id: UUID,
        *,
        probe_every_s: float,
        on_wake: Callable[[], None],
        on_joined: Callable[[], None],
        connect: Connect = connect,
    ) -> None:
        self.joins = 0
        self._config = config
        self._worker_id = worker_id
        self._probe_every_s = probe_every_s
        self._on_wake = on_wake
        self._on_joined = on_joined
        self._connect = connect
        self._joined_at: float | None = None
        self._heard_at = float("-inf")

    @property
    def is_heard(self) -> bool:
        """Whether the connection is joined and the last probe came through it."""
        return self._joined_at is not None and self._heard_at >= self._joined_at and self._patience_s() > 0

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            was_heard, why = False, "recycled"
            try:
                connection = await self._connect(self._config.url, self._config.secret_key, self._topics())
                try:
                    was_heard, why = await self._listen(connection)
                finally:
                    self._joined_at = None
                    await connection.aclose()
            except Exception as error:  # whatever a foreign library comes up with: we try again
                why = f"{type(error).__name__}: {error}"
            if why == "recycled":
                continue
            attempt = 0 if was_heard else attempt + 1
            level = logging.WARNING if attempt <= 1 else logging.DEBUG
            logger.log(level, "Realtime is not heard, polling instead until it is: %s", why)
            await asyncio.sleep(random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10))))

    async def _listen(self, connection: Connection) -> tuple[bool, str]:
        """Stay with one connection as long as it is good: (whether it ever was, why it is over)."""
        self.joins += 1
        self._joined_at = time.monotonic()
        self._on_joined()
        recycle_at = self._joined_at + RECYCLE_S * random.uniform(1 - RECYCLE_JITTER, 1)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.trouble.wait(), max(0.05, min(self._patience_s(), 1.0)))
            heard = self._heard_at >= self._joined_at
            if connection.trouble.is_set():
                return heard, "the connection was lost"
            if self._patience_s() <= 0:
                return False, "the probe was not heard"
            if time.monotonic() >= recycle_at:
                return heard, "recycled"

    def _patience_s(self) -> float:
        """Seconds left for the next probe to be heard."""
        since = max(self._heard_at, self._joined_at if self._joined_at is not None else float("-inf"))
        return since + self._probe_every_s * MISSED_PROBES + PROBE_TRAVEL_S - time.monotonic()

    def _topics(self) -> dict[str, dict[str, Callable[[], None]]]:
        return {
            "runhold:workers": {"wake": self._on_wake},
            f"runhold:worker:{self._worker_id}": {"probe": self._on_probe},
        }

    def _on_probe(self) -> None:
        self._heard_at = time.monotonic()
