"""Who keeps an event loop from turning, seen from another thread."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


def blocker_of(loop: asyncio.AbstractEventLoop, thread_id: int) -> str:
    """The task that ``loop`` is in and the line it is at, to be read after *it stood still*; empty if unknown.

    :param thread_id: the thread that runs ``loop``.
    """
    task = asyncio.current_task(loop)
    frame = sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage]
    named = f" in {task.get_name()}" if task is not None else ""
    if frame is None:
        return named
    code = frame.f_code
    return f"{named} ({Path(code.co_filename).name}:{frame.f_lineno}, {code.co_name})"
