"""Waiting for the first of a few futures."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def until_any(futures: Collection[asyncio.Future[Any]], timeout_s: float | None = None) -> None:
    """Return as soon as one of ``futures`` is done, or ``timeout_s`` seconds have passed.

    The futures are left alone, also when whoever waits is cancelled. Whatever was to run goes first, also when one of
    them is done already: a task that was just made has begun when this returns. Like :func:`asyncio.wait`, at half of
    its cost: a step waits up to four times, and with a fast model that is a good part of its work.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = None if timeout_s is None else loop.call_later(timeout_s, wake)
    for future in futures:
        future.add_done_callback(wake)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        for future in futures:
            future.remove_done_callback(wake)
