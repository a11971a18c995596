"""Waiting for something that another process does."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from postgrest import APIError

from runhold.errors import Refused, is_retryable

PATIENCE_S: Final = 60.0
"""How long something is waited for before it counts as never coming. Far longer than anything takes."""

POLL_S: Final = 0.02


async def eventually(check: Callable[[], Any], what: str = "it", *, patience_s: float = PATIENCE_S) -> Any:
    """Ask ``check`` until it gives something true, and return that.

    :raises AssertionError: it did not within ``patience_s`` seconds.
    """
    deadline = time.monotonic() + patience_s
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come in {patience_s:g} s")
        await asyncio.sleep(POLL_S)


def is_outage(error: BaseException) -> bool:
    """Whether a client's call got no answer, or one that says only: not now."""
    if isinstance(error, APIError):
        code = str(error.code)  # without a body of PostgREST's, it is the HTTP status
        return is_retryable(Refused("", code=code)) or (len(code) == 3 and code.startswith("5"))
    return isinstance(error, httpx.TransportError)
