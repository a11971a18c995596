"""Runs scripts for Node that drive a browser by harness.mjs, and sees to it that nothing of the browser stays."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

Drive = Callable[..., Awaitable[str]]
"""`await drive("script.mjs", NAME=value, …)` gives what the script printed; AssertionError if it failed."""

HERE = Path(__file__).parent
MARK = "RUNHOLD_BROWSER_TEST"
"""The variable by which the processes of one script, down to the browser's helpers, are known."""


def driver(environment: Mapping[str, str]) -> Drive:
    """What runs scripts of this folder with these variables and those of the call."""

    async def drive(script: str, **variables: str) -> str:
        mark = str(uuid.uuid4())
        process = await asyncio.create_subprocess_exec(
            "node",
            script,
            cwd=HERE,
            env={**os.environ, **environment, **variables, MARK: mark},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complained = await process.communicate()
            assert process.returncode == 0, complained.decode()[-6000:]
            assert processes_with(mark) == [], "the script left parts of its browser behind"
            return printed.decode()
        finally:
            for pid in processes_with(mark):
                os.kill(pid, signal.SIGKILL)
            await process.wait()

    return drive


def processes_with(mark: str) -> list[int]:
    """The living processes that inherited this value of the variable."""
    variable = f"{MARK}={mark}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and variable in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found
