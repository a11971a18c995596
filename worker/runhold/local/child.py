"""One supervised program of the stack: started through the tether, awaited until ready, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runhold.local.errors import ChildEnded

TETHER = Path(__file__).with_name("tether.py")
LOG_KEPT_BYTES = 10_000_000
"""A log larger than this is set aside as `….log.1` at the next start."""
TAIL_LINES = 8
"""How much of the log an error shows."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """How to run a program.

    `ready` is a regular expression: the first line of output that matches means ready. `stops` are signals with the
    seconds each gets before the next, then SIGKILL. `user` is the numeric (uid, gid) to run as.
    """

    name: str
    program: Sequence[str]
    log: Path
    ready: str
    ready_within_s: float
    stops: Sequence[str] = ("TERM:5",)
    environment: Mapping[str, str]
    folder: Path
    user: tuple[int, int] | None = None


class Child:
    """A running program. Ends with the process that holds this object, whatever happens to that."""

    def __init__(self, spec: ChildSpec, tether: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self._tether = tether
        self._pid: int | None = None

    @classmethod
    async def start(cls, spec: ChildSpec) -> tuple[Child, str]:
        """Start the program and wait for its ready line, which is answered too. Raises ChildEnded if it never comes."""
        set_aside(spec.log)
        # The log may quote data, so it is as private as the folder that holds it.
        os.close(os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        user = [] if spec.user is None else ["--user", f"{spec.user[0]}:{spec.user[1]}"]
        stops = [part for stop in spec.stops for part in ("--stop", stop)]
        tether = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(TETHER),
            *("--log", str(spec.log), "--ready", spec.ready, *user, *stops, "--", *spec.program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(spec.environment),
            cwd=spec.folder,
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which stops its children in order
        )
        child = cls(spec, tether)
        try:
            return child, await child._ready_line()
        except BaseException:
            await child.stop()
            raise

    async def _ready_line(self) -> str:
        assert self._tether.stdout is not None
        try:
            async with asyncio.timeout(self.spec.ready_within_s):
                pid = await self._tether.stdout.readline()
                self._pid = int(pid) if pid else None
                line = await self._tether.stdout.readline()
        except TimeoutError:
            raise ChildEnded(
                f"{self.spec.name} was not ready within {self.spec.ready_within_s:g} seconds; "
                f"see {self.spec.log}.{self.tail()}"
            ) from None
        if not line:
            raise await self._ended("ended while starting")
        return line.decode(errors="replace").rstrip("\r\n")

    async def _ended(self, how: str) -> ChildEnded:
        code = await self._tether.wait()
        assert self._tether.stderr is not None
        complaint = (await self._tether.stderr.read()).decode(errors="replace").strip()
        complaint = f" {complaint.splitlines()[-1]}" if complaint else ""
        return ChildEnded(
            f"{self.spec.name} {how} (exit status {code}); see {self.spec.log}.{complaint}{self.tail()}"
        )

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet, as far as is known."""
        return self._tether.returncode is None

    async def ended(self) -> ChildEnded:
        """Wait until the program ends, and answer an error that tells so."""
        await self._tether.wait()
        return await self._ended("ended by itself")

    def send_signal(self, number: signal.Signals) -> None:
        """Send the program a signal, if it still runs."""
        if self.running and self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def stop(self) -> None:
        """Stop the program and wait for its end. Stopping twice is harmless."""
        assert self._tether.stdin is not None
        self._tether.stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._tether.stdin.wait_closed()
        await self._tether.wait()

    def tail(self) -> str:
        """The last lines of the log, for an error's text."""
        with contextlib.suppress(FileNotFoundError), self.spec.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
            return "".join(f"\n  {line}" for line in lines)
        return ""


def set_aside(log: Path) -> None:
    """Keep logs from growing for ever: start a new one when the old is large."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_KEPT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
