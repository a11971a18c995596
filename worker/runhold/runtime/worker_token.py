"""The token of a worker that has a role of its own, ``runhold_worker``, instead of the key to everything.

Whether it is genuine is the project's to say. What stands in it is read here without a look at the signature, so that a
token that can't work is told in a sentence before anything starts, and one that ends soon while there is time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import jwt

from runhold.errors import ConfigError
from runhold.runtime.user_client import SigningKey

logger = logging.getLogger(__name__)

ROLE: Final = "runhold_worker"
"""The Postgres role, as the migrations make it."""

DAY_S: Final = 24 * 60 * 60.0

WARN_BEFORE_S: Final = 7 * DAY_S
"""Time enough to notice a warning and to give all workers a new token."""

LATEST_S: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

NEW_ONE: Final = "`runhold worker-token` makes a new one"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerToken:
    """What a token says.

    :ivar expires_at: seconds since 1970.
    """

    expires_at: float

    @property
    def until(self) -> str:
        """The day on which it ends (UTC), for people."""
        return datetime.fromtimestamp(self.expires_at, UTC).strftime("%Y-%m-%d")

    def ends_soon(self, now: float) -> bool:
        """Whether it is time for a new one."""
        return self.expires_at - now <= WARN_BEFORE_S


def mint_worker_token(key: SigningKey, *, now: float, ttl_s: float) -> str:
    """A token for workers, good for ``ttl_s`` seconds from ``now``."""
    claims = {"role": ROLE, "iss": "runhold", "iat": int(now), "exp": int(now + ttl_s)}
    return key.sign(claims)


def read_worker_token(token: str, *, now: float) -> WorkerToken:
    """What the token says; nothing of it is ever part of an error.

    :param now: seconds since 1970.
    :raises ConfigError: no worker can work with it; one sentence.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        role, expires_at = claims.get("role"), claims.get("exp")
    except jwt.PyJWTError:
        raise ConfigError(f"RUNHOLD_WORKER_TOKEN is no token: {NEW_ONE}.") from None
    if role != ROLE:
        raise ConfigError(f"RUNHOLD_WORKER_TOKEN is of another role than {ROLE}: {NEW_ONE}.")
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
        raise ConfigError(
            f"RUNHOLD_WORKER_TOKEN does not say when it ends, so Realtime refuses it: {NEW_ONE}."
        )
    read = WorkerToken(expires_at=min(max(float(expires_at), 0.0), LATEST_S))
    if read.expires_at <= now:
        raise ConfigError(f"RUNHOLD_WORKER_TOKEN ended on {read.until}: {NEW_ONE}.")
    return read


async def warn_before_the_end(
    presented: Callable[[], WorkerToken | None], *, clock: Callable[[], float] = time.time
) -> None:
    """Log a warning when the token that is presented ends soon, at once and then daily. Never returns."""
    while True:
        try:
            token = presented()
        except ConfigError as error:
            logger.warning("%s", error)
            token = None
        now = clock()
        if token is None:
            await asyncio.sleep(DAY_S)
        elif token.ends_soon(now):
            logger.warning(
                "RUNHOLD_WORKER_TOKEN ends on %s, and then this worker does unless .env has a new one: %s",
                token.until,
                NEW_ONE,
            )
            await asyncio.sleep(DAY_S)
        else:
            await asyncio.sleep(min(DAY_S, token.expires_at - WARN_BEFORE_S - now))
