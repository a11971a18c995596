"""Threads for tools that block."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest

from runhold.runtime.threads import DaemonThreads


def test_calls_run_and_their_ends_are_told() -> None:
    threads = DaemonThreads(2, name="tool")

    def broken() -> None:
        raise ValueError("odd")

    assert threads.submit(max, 1, 2).result(5) == 2
    with pytest.raises(ValueError, match="odd"):
        threads.submit(broken).result(5)
    assert threads.submit(lambda: threading.current_thread().daemon).result(5)
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(max, 1, 2)


def test_threads_are_reused_and_never_more_than_allowed() -> None:
    threads = DaemonThreads(3, name="tool")
    names: set[str] = set()
    for _ in range(10):
        names.add(threads.submit(lambda: threading.current_thread().name).result(5))
        time.sleep(0.01)  # until it is idle again
    assert len(names) == 1
    busy = threading.Event()
    at_once: list[Future[str]] = []

    def hold() -> str:
        busy.wait(5)
        return threading.current_thread().name

    at_once = [threads.submit(hold) for _ in range(8)]
    time.sleep(0.05)
    assert sum(future.running() for future in at_once) == 3
    assert at_once[-1].cancel()
    busy.set()
    assert len({future.result(5) for future in at_once[:-1]}) == 3
    threads.shutdown()


def test_every_call_gets_a_thread_while_there_are_any() -> None:
    threads = DaemonThreads(8, name="tool")
    barrier = threading.Barrier(8)
    for _ in range(30):
        for future in [threads.submit(barrier.wait, 5) for _ in range(8)]:
            future.result(5)
    threads.shutdown()


async def test_they_serve_an_event_loop() -> None:
    threads = DaemonThreads(2, name="tool")
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(threads, lambda: 7) == 7
    threads.shutdown()


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import time\nfrom runhold.runtime.threads import DaemonThreads\n"
        "threads = DaemonThreads(1, name='tool')\nthreads.submit(time.sleep, 60)\ntime.sleep(0.1)\n"
        "threads.shutdown()\nprint('done')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
