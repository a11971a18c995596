"""One living stack per folder, and a record of the one that lives.

The lock is the kernel's: it goes with the process that holds it, so a stack that was killed leaves nothing to clean up.
`running.json` says who holds the lock; without a held lock it is a fossil and ignored.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

from runhold.local.errors import StackAlreadyRunning
from runhold.local.state import read_object, write_private

LOCK_FILE = "lock"
RUNNING_FILE = "running.json"
TRIES = 40
RETRY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    """Who holds a folder. `pid` is the supervisor's; `url` is empty for a stack without its API."""

    pid: int
    url: str
    database_url: str = field(repr=False)
    superuser_url: str = field(repr=False)


class FolderLock:
    """Held from the first to the last moment of a stack."""

    def __init__(self, folder: Path, handle: int) -> None:
        self._folder = folder
        self._handle = handle

    @classmethod
    async def acquire(cls, folder: Path) -> FolderLock:
        """Take the folder. Raises StackAlreadyRunning, saying who has it.

        Waits a little for a holder who cannot be named: one that was just killed and whose lock the kernel is about to
        free, or one that is only starting or just ending.
        """
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for attempt in itertools.count():
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    running = find_running(folder)
                    if running is not None or attempt >= TRIES:
                        raise StackAlreadyRunning(describe(folder, running)) from None
                await asyncio.sleep(RETRY_S)
        except BaseException:
            os.close(handle)
            raise
        (folder / RUNNING_FILE).unlink(missing_ok=True)
        return cls(folder, handle)

    def announce(self, running: RunningStack) -> None:
        """Tell others how to reach this stack."""
        write_private(self._folder / RUNNING_FILE, dataclasses.asdict(running))

    def release(self) -> None:
        """Give the folder back. Releasing twice is harmless."""
        if self._handle >= 0:
            (self._folder / RUNNING_FILE).unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1


def is_held(folder: Path) -> bool:
    """Whether a living stack has the folder."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask at once do not take each other for a stack.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def find_running(folder: Path) -> RunningStack | None:
    """The living stack of the folder; None if there is none, or it is only just starting or ending."""
    if not is_held(folder):
        return None
    try:
        running = RunningStack(**read_object(folder / RUNNING_FILE))  # pyright: ignore[reportArgumentType]
    except FileNotFoundError:
        return None
    return running if _is_alive(running.pid) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no Linux
        return True
    return state not in ("Z", "X")  # killed: its last thread is about to free the lock


def describe(folder: Path, running: RunningStack | None) -> str:
    """One sentence about who holds a folder."""
    if running is None:
        return (
            f"Another process is starting or stopping the stack of {folder} right now: try again in a moment."
        )
    at = running.url or running.database_url.rpartition("@")[2]
    return f"The stack of {folder} is already running at {at} (process {running.pid})."
