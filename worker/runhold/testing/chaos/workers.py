"""Real worker processes, started fast, ended by real signals, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from runhold.testing.chaos.patience import eventually

LOG_TAIL: Final = 3000
"""Characters of a log that a failure shows."""


@dataclass(eq=False)
class WorkerProcess:
    """One ``runhold worker`` process: the leader of a session of its own.

    :ivar name: how the kit calls it: ``worker-3``.
    :ivar status: its exit status, minus the signal that ended it, or None while it is not known to have ended.
    :ivar suspended: it was suspended, and not resumed.
    """

    name: str
    pid: int
    log_path: Path
    _server: ForkServer = field(repr=False)
    status: int | None = None
    suspended: bool = False

    @property
    def running(self) -> bool:
        """Whether it has not ended (it may be suspended)."""
        if self.status is None:
            self.status = self._server.ask(poll=self.pid)["status"]
        return self.status is None

    @property
    def log(self) -> str:
        """What it said."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def log_tail(self) -> str:
        """The end of what it said, for a failure's text."""
        return f"--- {self.name}\n{self.log[-LOG_TAIL:]}"

    def kill(self) -> None:
        """As a machine that goes away: ``kill -9`` of its whole session. It has ended when this returns."""
        if self.running:
            self._signal_all(signal.SIGKILL)
            self.status = self._server.ask(wait=self.pid)["status"]

    def suspend(self) -> None:
        """SIGSTOP: not running, and not gone either. Its connections stay open, its clock goes on."""
        self.suspended = True
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self.suspended = False
        self._signal_all(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send a signal to the worker itself."""
        if self.running:
            os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for its end; the exit status."""
        await eventually(lambda: not self.running, f"the end of {self.name}")
        assert self.status is not None
        return self.status

    async def terminate(self) -> int:
        """As a deploy does it: SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def _signal_all(self, number: int) -> None:
        if self.running:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # so young that it has no session of its own yet
                os.kill(self.pid, number)


class ForkServer:
    """Starts worker processes by forking one process that has imported what they need.

    A context manager, plain and async; at its end, however that comes, no process stays. One serves any number of tests
    and of fleets. Modules of yours are imported by each worker itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._started: list[WorkerProcess] = []

    def start(
        self, module: str, *options: str, name: str, env: Mapping[str, str], folder: Path
    ) -> WorkerProcess:
        """Start ``runhold worker MODULE OPTIONS`` with exactly these variables in ``folder``, where its log is, too."""
        log_path = folder / f"{name}.log"
        command = {"env": dict(env), "folder": str(folder), "log": str(log_path)}
        pid = self.ask(start=["worker", module, *options], **command)["pid"]
        worker = WorkerProcess(name, pid, log_path, self)
        self._started.append(worker)
        return worker

    def open(self) -> Self:
        """Start the server. Returns before it has imported everything: the first start waits for that."""
        ours, its = socket.socketpair()
        self._commands = ours
        self._answers = ours.makefile("r", encoding="utf-8")
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runhold.testing.chaos.fork_server", str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self

    def close(self) -> None:
        """Kill what still runs. Twice is harmless."""
        if self._process is not None:
            self._answers.close()
            self._commands.close()  # which makes it kill every worker, and end
            self._process.wait()
            self._process = None
            for worker in self._started:
                if worker.status is None:
                    worker.status = -signal.SIGKILL

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command, one answer. For this module."""
        with self._lock:
            self._commands.sendall(json.dumps(command).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise RuntimeError("The process that workers are forked from has ended; its traceback is above.")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)
