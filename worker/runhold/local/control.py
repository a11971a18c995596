"""Stacks in the background: start, stop, ask. What the command line is built on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runhold.local.child import set_aside
from runhold.local.errors import StackAlreadyRunning, StackError, StackNotRunning
from runhold.local.lock import RunningStack, describe, find_running, is_held
from runhold.local.stack import StackOptions, environment_of
from runhold.local.state import load_state, make_private_folder
from runhold.local.supervise import FAILED, READY

STOP_WITHIN_S = 40.0
"""Longer than all parts of a stack may take to stop, one after the other."""

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """What is known of a folder's stack. `running` is None if it does not run; `created`: whether it ever did."""

    folder: Path
    created: bool
    running: RunningStack | None


async def start_background(options: StackOptions | None = None) -> RunningStack:
    """Start a stack that outlives this process, and wait until it is ready.

    Raises StackAlreadyRunning if the folder's stack runs, and whatever its start raises as StackError.
    """
    options = options or StackOptions()
    folder = options.folder.absolute()
    make_private_folder(folder)
    running = find_running(folder)
    if running is not None:
        raise StackAlreadyRunning(describe(folder, running))
    logs = folder / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    log = logs / "supervisor.log"
    set_aside(log)
    values = {
        "folder": str(folder),
        "project": str(options.project.absolute()),
        "port": options.port,
        "api": options.api,
        "realtime": options.realtime,
        "seed": options.seed,
        "durable": options.durable,
        "postgres_settings": dict(options.postgres_settings),
    }
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # The shell ends at once and leaves the supervisor to init, so that it is nobody's zombie when it ends.
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", '"$@" &', "sh"),
            *(sys.executable, "-m", "runhold.local.supervise", json.dumps(values)),
            stdin=subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # it survives the terminal
        )
    finally:
        os.close(errors)
    assert process.stdout is not None
    said = (
        (await process.stdout.read()).decode().strip()
    )  # all of it: the supervisor closes it after one line
    await process.wait()
    if said.startswith(FAILED):
        raise StackError(json.loads(said.removeprefix(FAILED)))
    running = find_running(folder)
    if said != READY or running is None:
        raise StackError(f"The stack ended while starting; see {log}.")
    return running


async def stop_background(folder: Path) -> None:
    """Stop the folder's stack, however it was started, and wait until it has ended. Raises StackNotRunning."""
    running = find_running(folder)
    if running is None:
        raise StackNotRunning(f"No stack is running for {folder.absolute()}.")  # noqa: ASYNC240 (asks no disk)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN_S
    while is_held(folder):
        if time.monotonic() > deadline:
            raise StackError(
                f"The stack of {folder} (process {running.pid}) did not stop within {STOP_WITHIN_S:g} s."
            )
        await asyncio.sleep(LOOK_EVERY_S)


def status(folder: Path) -> StackStatus:
    """Look at a folder without changing it."""
    folder = folder.absolute()
    return StackStatus(folder=folder, created=load_state(folder) is not None, running=find_running(folder))


def read_env(folder: Path) -> dict[str, str]:
    """The variables of the folder's running stack. Raises StackNotRunning, since addresses may change with a start."""
    folder = folder.absolute()
    running, state = find_running(folder), load_state(folder)
    if running is None or state is None:
        raise StackNotRunning(f"No stack is running for {folder}; start it with `runhold stack start`.")
    return environment_of(state, running.url, running.database_url)


def erase(folder: Path) -> None:
    """Delete a stopped stack with its database, keys and logs. Raises StackAlreadyRunning."""
    folder = folder.absolute()
    if is_held(folder):
        raise StackAlreadyRunning(f"The stack of {folder} is running; stop it before it is erased.")
    state = load_state(folder)
    if state is not None:
        data = Path(state.data)
        shutil.rmtree(data, ignore_errors=True)
        if data.parent != folder:  # root's database out of reach of its user: in a folder of its own
            shutil.rmtree(data.parent, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
