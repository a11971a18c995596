"""Failures before a worker was ready once: which prove that it can never start, and which may pass."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import Final

from runhold.errors import ConfigError, Refused, StoreError, WorkerDead
from runhold.runtime.config import WorkerConfig
from runhold.store.answers import DATA, MISSING_FUNCTION, GatewayAnswer, explained, kind_of, missing_function
from runhold.store.client import BACKOFF_CAP_S

PROOFS: Final = 3
"""So many answers in a row, a second apart, prove that there is no Supabase project: a proxy that has no route yet, or
a resolver that starts, gives such an answer for a moment."""

PROOF_PAUSE_S: Final = 1.0

STALE_SCHEMA_S: Final = 5.0
"""PostgREST reloads its schema cache seconds after a migration; until then it knows no new function."""


class Start:
    """The failures of one start.

    :param clock: seconds that only grow.
    """

    def __init__(self, config: WorkerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._began = clock()
        self._attempts = 0
        self._proofs = 0
        self._missing_since: float | None = None

    def pause_s(self, error: StoreError) -> float:
        """Seconds until the next attempt.

        :raises ConfigError: the worker can't start: one sentence.
        :raises Refused: the database refuses what is registered.
        """
        now = self._clock()
        if isinstance(error, Refused) and not isinstance(error, WorkerDead) and kind_of(error) is DATA:
            raise error
        self._require_functions(error, now)
        self._require_project(error)
        self._attempts += 1
        pause_s = (
            PROOF_PAUSE_S
            if self._proofs
            else random.uniform(0.1, min(BACKOFF_CAP_S, 0.2 * 2 ** min(self._attempts, 10)))
        )
        if now + pause_s - self._began > self._config.start_timeout_s:
            raise self._too_late(error) from error
        return pause_s

    def _require_functions(self, error: StoreError, now: float) -> None:
        """:raises ConfigError: the database has lacked our functions for longer than any cache is stale."""
        if not isinstance(error, Refused) or error.code != MISSING_FUNCTION:
            self._missing_since = None
            return
        self._missing_since = now if self._missing_since is None else self._missing_since
        if now - self._missing_since >= STALE_SCHEMA_S:
            raise missing_function(str(error).rstrip(".")) from error

    def _require_project(self, error: StoreError) -> None:
        """:raises ConfigError: what is at the URL is no Supabase project."""
        if isinstance(error, GatewayAnswer) and error.is_of_a_web_server:
            what = f"it answers {error.status} {error.says}".rstrip()
        elif _is_unknown_host(error):
            what = "there is no such host"
        else:
            self._proofs = 0
            return
        self._proofs += 1
        if self._proofs >= PROOFS:
            raise ConfigError(
                f"SUPABASE_URL leads to no Supabase project ({self._config.url}): {what}. Give the project's URL, such "
                "as https://abcdefgh.supabase.co."
            ) from error

    def _too_late(self, error: StoreError) -> ConfigError:
        told = explained(error, has_token=self._config.access.token is not None)
        if isinstance(told, ConfigError):
            return told
        what = str(error).rstrip(".")
        if isinstance(error, Refused):
            return ConfigError(f"The database at {self._config.url} can't be used: {what} [{error.code}].")
        return ConfigError(f"Nothing answers at SUPABASE_URL ({self._config.url}): {what}.")


def _is_unknown_host(error: BaseException) -> bool:
    """Whether the name of the host does not exist, as opposed to not being known for the moment."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, socket.gaierror):
            return seen.errno in _NO_SUCH_NAME
        seen = seen.__cause__ or seen.__context__
    return False


_NO_SUCH_NAME: Final = frozenset(
    number for name in ("EAI_NONAME", "EAI_NODATA") if isinstance(number := getattr(socket, name, None), int)
)
