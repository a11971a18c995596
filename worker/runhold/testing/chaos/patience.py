"""Waiting for something that another process does."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from postgrest import APIError

from runhold.errors import Refused
from runhold.store.answers import is_retryable

PATIENCE_S: Final = 60.0
"""How long something is waited for before it counts as never coming. Far longer than anything takes."""

POLL_S: Final = 0.02
"""The longest pause between two looks. What comes soon is looked for more often."""

MIN_POLL_S: Final = 0.001


async def eventually(check: Callable[[], Any], what: str = "it", *, patience_s: float = PATIENCE_S) -> Any:
    """Ask ``check`` until it gives something true, and return that.

    :raises AssertionError: it did not within ``patience_s`` seconds.
    """
    began = time.monotonic()
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        waited_s = time.monotonic() - began
        if waited_s > patience_s:
            raise AssertionError(f"{what} did not come in {patience_s:g} s")
        await asyncio.sleep(min(max(MIN_POLL_S, waited_s / 10), POLL_S))


def is_outage(error: BaseException) -> bool:
    """Whether a client's call got no answer, or one that says only: not now."""
    if isinstance(error, APIError):
        code = str(error.code)  # without a body of PostgREST's, it is the HTTP status
        return is_retryable(Refused("", code=code)) or (len(code) == 3 and code.startswith("5"))
    return isinstance(error, httpx.TransportError)
