"""When to try a model call again: the clock, the backoff and what a provider's headers ask for."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

BACKOFF_BASE_S: Final = 0.5
"""Wait before the second attempt, before jitter; doubles with every further one."""

BACKOFF_MAX_S: Final = 8.0
"""No single wait is longer, so that a step of 30 s still gets several attempts."""

RETRY_AFTER_JITTER: Final = 0.1
"""Share of the asked wait that is added at random: many runs are told the same second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Every reading of time and chance in this package goes through one of these, so that tests move time.

    :ivar monotonic: seconds, for deadlines.
    :ivar wall: seconds since the epoch, for ``Retry-After`` dates of servers that send no ``Date``.
    :ivar sleep: waits that many seconds.
    :ivar random: a number in [0, 1).
    :ivar timeout: the scope that ends a call after that many seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random.random
    timeout: Callable[[float], asyncio.Timeout] = asyncio.timeout


def wait_s(attempt: int, retry_after_s: float | None, clock: Clock) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (1, 2, 3 …); never less than was asked for."""
    if retry_after_s is not None:
        return retry_after_s * (1 + RETRY_AFTER_JITTER * clock.random())
    # The exponent is bounded because 2.0 ** 1024 overflows.
    full = min(BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 16), BACKOFF_MAX_S)
    return full * (0.5 + clock.random() / 2)


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds that the provider asks us to wait, or None if it names no moment in the future.

    Read from ``retry-after-ms`` (OpenAI), else ``Retry-After`` in seconds or as an HTTP date. A date is
    compared with the answer's own ``Date``, so that a wrong clock here or there does not matter.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _ahead(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _ahead(seconds)
    moment = _http_date(text)
    if moment is None:
        return None
    sent = _http_date(headers.get("date"))
    return _ahead(moment - (clock.wall() if sent is None else sent))


def _ahead(seconds: float) -> float | None:
    return seconds if seconds > 0 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _http_date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError):
        return None
