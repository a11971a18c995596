"""A worker that starts anew when its code or its settings change: `runhold dev` and `runhold worker --reload`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import watchfiles

from runhold.cli.exits import CommandError
from runhold.cli.worker_process import tailing, worker_spec
from runhold.environment.file import NAME as ENV_FILE
from runhold.environment.file import find_env_file
from runhold.local.child import Child, ChildSpec
from runhold.local.errors import ChildEnded
from runhold.runtime.loading import source_folder

RELOAD: Final = "--reload"

Changes = set[tuple[Any, str]]

logger = logging.getLogger(__name__)


class RestartedWorker:
    """A worker's process, replaced by a new one after every change.

    :param tell: gets a sentence about each end and each start.
    """

    def __init__(self, spec: ChildSpec, tell: Callable[[str], None]) -> None:
        self._spec = spec
        self._tell = tell
        self._child: Child | None = None

    async def keep(self, changes: AsyncIterator[Changes]) -> NoReturn:
        """Keep a worker running until cancelled. One that ends by itself is started again with the next change."""
        while True:
            working = asyncio.create_task(self._work(), name="worker")
            try:
                changed = await anext(changes)
                names = ", ".join(sorted({Path(path).name for _, path in changed}))
                self._tell(f"{names} changed: the worker ends its steps, then a new worker starts.")
            finally:
                await _end(working)

    def hurry(self) -> None:
        """End a worker that is stopping at once: to a worker a second signal means that."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    async def _work(self) -> None:
        try:
            self._child, _ = await Child.start(self._spec)
        except ChildEnded:
            self._tell(
                "The worker could not start, as its log says. A new worker starts when a file changes."
            )
            return
        try:
            await self._child.ended()
        finally:
            await self._child.stop()
            self._child = None
        self._tell("The worker ended, as its log says. A new worker starts when a file changes.")


async def changes(folders: Sequence[Path], env_files: Collection[Path] = ()) -> AsyncGenerator[Changes, None]:
    """Changes of Python files in ``folders`` and below, and of ``env_files``, until cancelled.

    :raises CommandError: a folder can't be watched.
    """
    apart = {path.parent for path in env_files if not _is_below(path, folders)}
    found: asyncio.Queue[Changes] = asyncio.Queue()
    python = watchfiles.PythonFilter()

    def matters(change: Any, path: str) -> bool:
        return Path(path) in env_files or python(change, path)

    async def watch(paths: Collection[Path], *, recursive: bool) -> None:
        awatch: Any = getattr(watchfiles, "awatch")  # noqa: B009 - typed in part only
        try:
            async for each in awatch(*paths, watch_filter=matters, recursive=recursive):
                found.put_nowait(each)
        except (
            OSError,
            RuntimeError,
        ) as error:  # a folder that is gone, or more folders than the system watches
            where = ", ".join(map(str, paths))
            raise CommandError(
                f"{where} can't be watched for changes: {error}. Start in a smaller folder, or without {RELOAD}."
            ) from error

    watching = [asyncio.create_task(watch(_outermost(folders), recursive=True), name="watch the code")]
    if apart:
        watching.append(asyncio.create_task(watch(apart, recursive=False), name="watch the settings"))
    try:
        while True:
            getting = asyncio.create_task(found.get())
            try:
                await asyncio.wait([getting, *watching], return_when=asyncio.FIRST_COMPLETED)
                for each in watching:
                    if each.done():
                        each.result()
                yield getting.result()
            finally:
                getting.cancel()
    finally:
        for each in watching:
            each.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def run_reloading(arguments: Sequence[str], module: str, *, grace_s: float) -> int:
    """Run a worker that starts anew when its code or its settings change, until a signal; the exit status.

    :param arguments: those of `runhold`, with which a worker is started.
    :param module: where the agents are.
    :raises CommandError: the code can't be watched.
    """
    folder = Path.cwd()
    code = source_folder(module)
    if not code.is_dir():
        raise CommandError(
            f"There is no folder {code}: give the path of a Python file, or a dotted module name."
        )
    env_files = {folder / ENV_FILE, find_env_file(folder)}
    signals: list[int] = []
    task = asyncio.current_task()
    assert task is not None
    with tempfile.TemporaryDirectory(prefix="runhold-") as place:
        log = Path(place) / "worker.log"
        spec = worker_spec(
            arguments, environment=os.environ, log=log, grace_s=grace_s, ready_within_s=math.inf
        )
        async with tailing(log, _write) as show_log:

            def tell(sentence: str) -> None:
                show_log()
                logger.info("%s", sentence)

            worker = RestartedWorker(spec, tell)

            def stop(number: int) -> None:
                signals.append(number)
                if len(signals) == 1:
                    task.cancel()
                else:
                    worker.hurry()

            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
            with contextlib.suppress(asyncio.CancelledError):  # only a signal cancels this task
                await worker.keep(changes([folder, code], env_files))
    return 0 if len(signals) < 2 else 128 + signals[1]


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end, however often this is cancelled: no process may be left."""
    task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _write(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone; the worker is stopped all the same
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """``folders`` without those that are inside another one."""
    return [
        folder for folder in dict.fromkeys(folders) if not any(other in folder.parents for other in folders)
    ]
