"""Runs one program and never lets it outlive whoever started it.

Run as a script, apart from the package, with the standard library only, so that it starts in milliseconds:

    tether.py --log FILE --ready REGEX [--user UID:GID] [--stop SIGNAL:SECONDS …] -- PROGRAM ARGUMENT …

The starter holds the other end of the tether's standard input. When that ends (the starter closed it, exited,
crashed or was killed with SIGKILL), the program gets each `--stop` signal in turn, with that many seconds to obey, then
SIGKILL for its whole process group. Should the tether itself be killed, Linux delivers the first stop signal
(`PR_SET_PDEATHSIG`).

The program's output goes to the log file, written here and not by the starter, so that a starter that is busy or
stopped never blocks the program on a full pipe. Standard output says the program's process number, then the first
line of its output that matches `--ready`.

The exit status is the program's own; 128 + N if signal N ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from typing import IO, BinaryIO, NoReturn

PR_SET_PDEATHSIG = 1
READ_BYTES = 65536
MAX_LINE_BYTES = 65536
"""A longer line is not a ready line; the buffer is cut so that it cannot grow without end."""


class Tethered:
    """The program, its output and the order to stop."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.stops: list[tuple[int, float]] = [parse_stop(stop) for stop in arguments.stop]
        self.ready: re.Pattern[bytes] | None = re.compile(arguments.ready.encode())
        self.log: BinaryIO = open(arguments.log, "ab", buffering=0)  # noqa: SIM115 (lives as long as the process)
        self.line = b""
        self.deadline: float | None = None
        user, group = parse_user(arguments.user)
        first_stop = self.stops[0][0] if self.stops else signal.SIGKILL
        self.program: subprocess.Popen[bytes] = subprocess.Popen(
            arguments.program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            umask=0o077,
            # This process has one thread, so running Python between fork and exec is safe here.
            preexec_fn=lambda: die_with_parent(first_stop),
        )
        self.tell(b"%d\n" % self.program.pid)

    def tell(self, line: bytes) -> None:
        """Say a line to the starter, who may be gone already; then its end of stdin says so too."""
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), line)

    def take_output(self, data: bytes) -> None:
        """Log what the program said and pass the ready line on."""
        self.log.write(data)
        if self.ready is None:
            return
        *lines, self.line = (self.line + data).split(b"\n")
        self.line = self.line[-MAX_LINE_BYTES:]
        for line in lines:
            if self.ready.search(line):
                self.ready = None
                self.tell(line + b"\n")
                return

    def stop_next(self) -> None:
        """Send the next stop signal; after the last, kill the whole group."""
        if self.stops:
            number, seconds = self.stops.pop(0)
            with contextlib.suppress(ProcessLookupError):
                self.program.send_signal(number)
            self.deadline = time.monotonic() + seconds
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.program.pid, signal.SIGKILL)
            self.deadline = time.monotonic() + 1.0

    def run(self) -> int:
        """Serve until the program has ended; answers its exit status."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        stopping = False

        def ask_to_stop(_number: int, _frame: object) -> None:
            nonlocal stopping
            stopping = True

        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, ask_to_stop)
        signal.signal(signal.SIGINT, ask_to_stop)
        signal.signal(signal.SIGHUP, ask_to_stop)
        output = self.program.stdout
        assert output is not None
        selector = selectors.DefaultSelector()
        selector.register(woken, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while self.program.poll() is None:
            if stopping and self.deadline is None:
                self.stop_next()
            wait = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            for key, _ in selector.select(wait):
                if key.fileobj is output:
                    data = os.read(output.fileno(), READ_BYTES)
                    if data:
                        self.take_output(data)
                    else:
                        selector.unregister(output)
                elif key.fileobj is sys.stdin:
                    if not os.read(sys.stdin.fileno(), READ_BYTES):
                        selector.unregister(sys.stdin)
                        stopping = True
                else:
                    os.read(woken, READ_BYTES)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.stop_next()
        self.drain(output)
        code = self.program.returncode
        return code if code >= 0 else 128 - code

    def drain(self, output: IO[bytes]) -> None:
        """Log the last words. Not until end of file: a grandchild may still hold the pipe."""
        os.set_blocking(output.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(output.fileno(), READ_BYTES):
                self.take_output(data)


def parse_stop(text: str) -> tuple[int, float]:
    """`INT:10` → (SIGINT, 10 seconds)."""
    name, _, seconds = text.partition(":")
    return signal.Signals[f"SIG{name}"], float(seconds)


def parse_user(text: str | None) -> tuple[int | None, int | None]:
    """`65534:65534` → the numeric user and group to run as; nothing → as the tether."""
    if text is None:
        return None, None
    user, _, group = text.partition(":")
    return int(user), int(group)


def die_with_parent(number: int) -> None:
    """Ask Linux to send this signal to the program when the tether dies. Elsewhere a killed tether leaves its program.

    Called after the change of user, which would clear the request.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent == 1 or os.getppid() != parent:
        os._exit(1)  # the tether died before the request was in force


def main() -> NoReturn:
    """Parse the command line, run the program, exit as it did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True, help="file that the output is appended to")
    parser.add_argument("--ready", required=True, help="regular expression of the ready line")
    parser.add_argument("--user", help="UID:GID to run as")
    parser.add_argument("--stop", action="append", default=[], help="SIGNAL:SECONDS, in order")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.program[:1] == ["--"]:
        del arguments.program[0]
    sys.exit(Tethered(arguments).run())


if __name__ == "__main__":
    main()
