"""The process that worker processes are forked from: ``python -m runhold.testing.chaos.fork_server FD``.

Importing supabase and openai takes more than a second of processor time; a fork of a process that has done so takes
milliseconds. Each fork is a process and a session of its own that runs ``python -m runhold …``, and can be killed like
any other.

It obeys one command per line on the socket ``FD``, and answers each with one line:

    {"start": ["worker", "agent.py"], "env": {…}, "folder": "…", "log": "…"}  → {"pid": 4711}
    {"poll": 4711}   → {"status": null} while it runs, then {"status": -9}: the exit status, or minus the signal
    {"wait": 4711}   → the same, once it has ended

An ended process stays a zombie until it is asked about, so its number means no other process. When the socket ends (its
holder closed it, exited or was killed), every process that was started is killed, with all of its session.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, NoReturn

PRELOADED: Final = (
    "runhold.cli.app",
    "runhold.runtime.worker",
    "runhold.testing",
    "supabase",
    "openai",
    "genai_prices.data",
)
"""What every worker imports: the libraries, and the parts that import them only when they are called."""

PR_SET_PDEATHSIG: Final = 1


class Server:
    """Starts processes and knows which of them have ended."""

    def __init__(self, commands: socket.socket) -> None:
        self._commands = commands
        self._living: set[int] = set()
        self._ended: dict[int, int] = {}

    def serve(self) -> None:
        """Obey until the socket ends, then leave nothing behind."""
        try:
            with self._commands.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    answer = self._obey(json.loads(line))
                    self._commands.sendall(json.dumps(answer).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            for pid in self._living:
                for kill in (os.killpg, os.kill):  # one that was just forked leads no group yet
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)

    def _obey(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if "start" in command:
            return {"pid": self._start(command)}
        if "wait" in command:
            return {"status": self._status(command["wait"], 0)}
        return {"status": self._status(command["poll"], os.WNOHANG)}

    def _status(self, pid: int, options: int) -> int | None:
        if pid in self._living:
            found, status = os.waitpid(pid, options)
            if not found:
                return None
            self._living.discard(pid)
            self._ended[pid] = os.waitstatus_to_exitcode(status)
        return self._ended[pid]

    def _start(self, command: Mapping[str, Any]) -> int:
        # Opened here, so that a folder that is not there is told to whoever asked.
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            become(command, log, parent, self._commands.fileno())
        os.close(log)
        self._living.add(pid)
        self._ended.pop(pid, None)
        return pid


def become(command: Mapping[str, Any], log: int, parent: int, commands: int) -> NoReturn:
    """Turn this fork into ``python -m runhold …`` and end as that does."""
    status = 1
    try:
        os.setsid()
        die_with(parent)
        os.close(commands)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, its in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours, its)
        os.environ.clear()
        os.environ.update(command["env"])
        os.chdir(command["folder"])
        sys.argv = ["runhold", *command["start"]]
        sys.path[0] = ""
        runpy.run_module("runhold", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def die_with(parent: int) -> None:
    """On Linux: be killed when the fork server is. Elsewhere a killed one leaves its workers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Import what takes long, then serve."""
    # Ctrl-C is for whoever started us, and ends us through the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is here stays shared: a collection in a worker does not touch, and so copy, its pages
    Server(commands).serve()


if __name__ == "__main__":
    main()
