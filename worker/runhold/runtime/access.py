"""What the worker presents to the project, how long it may be rejected, and where a rotated key comes from."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from runhold.errors import ConfigError, KeyRejected
from runhold.runtime.config import WorkerConfig
from runhold.runtime.worker_token import WorkerToken
from runhold.store.answers import denied
from runhold.store.client import Access

logger = logging.getLogger(__name__)

REREAD_S: Final = 1.0
"""Between two looks into the environment file while the key is rejected."""

STRETCH_S: Final = 60.0
"""Rejections that are farther apart are not of one stretch: nobody asked in between, or nobody answered."""


class KeptAccess:
    """An ``AccessSource`` that takes a rotated key from the environment file, and gives up after ``give_up_s``.

    A key in the file is tried because it differs from the rejected one, not because it is right: while both are
    rejected, both are tried in turn. Used by the event loop that made it and by the heartbeat's thread.
    """

    def __init__(self, config: WorkerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = self._first = config
        self._give_up_s = config.give_up_s
        self._clock = clock
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._gave_up: asyncio.Future[None] = self._loop.create_future()
        self._rejected_since: float | None = None
        self._rejected_at = 0.0
        self._reread_at = float("-inf")
        self._complaint = ""
        self._tried: set[Access] = {config.access}

    @property
    def current(self) -> Access:
        """What to present now."""
        return self._config.access

    def token(self) -> WorkerToken | None:
        """What the token says that is presented now, if it is one.

        :raises ConfigError: it ended meanwhile.
        """
        return self._config.token()

    async def until_given_up(self) -> None:
        """Wait until what is presented has been rejected for too long.

        :raises ConfigError: always: one sentence.
        """
        await asyncio.shield(self._gave_up)

    def rejected(self, access: Access, error: KeyRejected) -> None:
        """``access`` was rejected: look for another one, or give up."""
        with self._lock:
            if access != self.current:
                return  # it was replaced while the call was under way
            now = self._clock()
            if self._rejected_since is None or now - self._rejected_at > max(STRETCH_S, self._give_up_s / 2):
                self._rejected_since = now
            self._rejected_at = now
            if now - self._rejected_since >= self._give_up_s:
                self._give_up(error, now - self._rejected_since)
            elif now - self._reread_at >= REREAD_S:
                self._reread_at = now
                self._try_another()

    def accepted(self, access: Access) -> None:
        """PostgREST took ``access``."""
        if self._rejected_since is None:
            return
        with self._lock:
            if access == self.current:
                self._rejected_since = None
                self._reread_at = float("-inf")

    def _try_another(self) -> None:
        try:
            other = self._config.reread()
        except ConfigError as error:
            other = None
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.warning("%s has no key that could be used instead: %s", self._config.env_file, error)
        if other is None and self._config is not self._first:
            other = self._first
        if other is None or other.access == self.current:
            return
        self._config = other
        if other.access not in self._tried:
            self._tried.add(other.access)
            logger.warning(
                "the key or token was rejected; the one that is now in %s is used from here on",
                other.env_file,
                extra={"action": "key_rotated"},
            )

    def _give_up(self, error: KeyRejected, seconds: float) -> None:
        sentence = denied(
            f"{str(error).rstrip('.')}, for {seconds:.0f} s", has_token=self.current.token is not None
        )
        self._loop.call_soon_threadsafe(self._end, sentence)

    def _end(self, sentence: ConfigError) -> None:
        if not self._gave_up.done():
            self._gave_up.set_exception(sentence)
            self._gave_up.exception()  # also if nobody waits for it
