"""A worker as a process of its own: how it is started, and how its log is passed on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runhold.local.child import ChildSpec

WORKER_READY: Final = r"worker ready"
WORKER_READY_WITHIN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.1

END_S: Final = 10.0
"""How long a worker may take to give its runs back after its grace."""


def worker_spec(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    grace_s: float,
    ready_within_s: float = WORKER_READY_WITHIN_S,
) -> ChildSpec:
    """How to run ``runhold`` with these ``arguments``, which start a worker.

    :param grace_s: the seconds that the worker itself waits for steps to end.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ChildSpec(
        name="The worker",
        program=[sys.executable, "-u", "-m", "runhold", *arguments],
        log=log,
        ready=WORKER_READY,
        ready_within_s=ready_within_s,
        stops=(f"TERM:{grace_s + END_S:g}", "TERM:1"),
        environment=environment,
        folder=Path.cwd(),
    )


def without_project() -> dict[str, str]:
    """The environment without another project's URL and keys."""
    others = ("SUPABASE_", "RUNHOLD_WORKER_TOKEN", "RUNHOLD_EMAIL", "RUNHOLD_PASSWORD", "DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


class _Tail:
    """Reads what a growing file gained."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = log.stat().st_size if log.exists() else 0
        self._rest = b""

    def lines(self) -> list[str]:
        if not self._log.exists():
            return []
        if self._log.stat().st_size < self._position:
            self._position = 0  # a new file
        with self._log.open("rb") as file:
            file.seek(self._position)
            *lines, self._rest = (self._rest + file.read()).split(b"\n")
            self._position = file.tell()
        return [line.decode(errors="replace") for line in lines]


async def _again_and_again(pass_on: Callable[[], None]) -> None:
    while True:
        pass_on()
        await asyncio.sleep(LOOK_EVERY_S)


@contextlib.asynccontextmanager
async def tailing(log: Path, tell: Callable[[str], Any]) -> AsyncGenerator[Callable[[], None], None]:
    """Pass on the lines that a file gains while the block lasts; the block gets what passes on the newest at once."""
    tail = _Tail(log)

    def pass_on() -> None:
        for line in tail.lines():
            tell(line)

    task = asyncio.create_task(_again_and_again(pass_on), name=f"tail {log.name}")
    try:
        yield pass_on
    finally:
        task.cancel()
        await asyncio.wait([task])
        pass_on()
