"""Runs of systems without a queue: whoever starts a run does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.systems.protocol import Order, Post


async def do_batches(order: Order, post: Post, run_once: Callable[[int], Awaitable[None]]) -> None:
    """Do each batch with as many runs at once as ordered; of several processes each takes its share."""
    async for batch in post.batches():
        runs = iter(batch[order.process :: order.processes])

        async def slot() -> None:
            for run in runs:  # noqa: B023 (awaited before the next batch)
                began = time.time()
                await run_once(run)
                post.ended(run, began, time.time())

        async with asyncio.TaskGroup() as slots:
            for _ in range(order.in_flight):
                slots.create_task(slot())
