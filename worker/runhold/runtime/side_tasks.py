"""Tasks that a worker lives by: each has a name, and the worker does not outlive one of them unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from runhold.errors import RunholdError


class SideTaskDied(RunholdError):
    """A task that must run as long as the worker ended. ``__cause__`` says why, if it raised."""


class SideTasks:
    """Starts side tasks and notices the first one that ends."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._first_end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work``, which is to go on until it is cancelled."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks[name] = task

    async def one_died(self) -> None:
        """Wait until a task ends that should not have.

        :raises SideTaskDied: always.
        """
        await asyncio.shield(self._first_end)

    async def stop(self, *names: str) -> None:
        """End these (all, if none is named) and wait until they are gone."""
        tasks = [self._tasks.pop(name) for name in names or tuple(self._tasks)]
        for task in tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self._first_end.done():
            return
        cause = None if task.cancelled() else task.exception()
        why = f"{type(cause).__name__}: {cause}" if cause else "it ended without an error"
        died = SideTaskDied(f"The worker's {task.get_name()} stopped ({why}), so the worker stops.")
        died.__cause__ = cause
        self._first_end.set_exception(died)
        self._first_end.exception()  # also if nobody waits for it
