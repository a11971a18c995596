"""The processes of one system, as the benchmark sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.machine import family
from bench.place import ROOT, python_of
from bench.systems import Order, System

READY_S: Final = 60.0
STOP_S: Final = 10.0
TAIL_LINES: Final = 15


class HostFailed(Exception):
    """A process of a system did not do as told; the text has the end of its log."""


class Host:
    """One process, running ``bench.host``."""

    def __init__(self, order: Order, process: asyncio.subprocess.Process, log: Path) -> None:
        self.order = order
        self.pid = process.pid
        self.held = 0
        self._process = process
        self._log = log
        self._events: dict[str, asyncio.Queue[dict[str, Any]]] = {
            name: asyncio.Queue() for name in ("ready", "submitted", "done", "held")
        }
        self._reading = asyncio.create_task(self._read(), name=f"events of {order.system}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "held":
                self.held = event["count"]
            self._events[event["event"]].put_nowait(event)

    async def event(self, name: str, *, within_s: float) -> dict[str, Any]:
        """Wait for the next event of that name.

        :raises HostFailed: it ended, or did not come.
        """
        getting = asyncio.create_task(self._events[name].get())
        try:
            await asyncio.wait(
                {getting, self._reading}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED
            )
            if getting.done():
                return getting.result()
            how = "ended" if self._reading.done() else f"took longer than {within_s:g} s"
            raise HostFailed(f"{self.order.system}: {how} before {name!r}.\n{self.tail()}")
        finally:
            getting.cancel()

    async def send(self, batch: range) -> None:
        """Give it a batch."""
        assert self._process.stdin is not None
        line = json.dumps({"first": batch.start, "count": len(batch)}) + "\n"
        self._process.stdin.write(line.encode())
        await self._process.stdin.drain()

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        """kill -9, with all that it started."""
        for pid in reversed(family(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Let it end in order; kill it if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
        finally:
            if self.running:
                self.kill()
            await self._process.wait()
            self._reading.cancel()

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


async def start(system: System, order: Order, folder: Path) -> Host:
    """Start a process and wait until it is ready."""
    log = folder / f"{order.system}-{order.role}-{order.process}.log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            python_of(in_project=system.in_project),
            *("-m", "bench.host", order.to_json()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            limit=64 * 1024 * 1024,
            start_new_session=True,  # Ctrl-C reaches the benchmark only, which stops its processes in order
        )
    host = Host(order, process, log)
    try:
        if order.role == "prepare":
            assert process.stdin is not None
            if await process.wait() != 0:
                raise HostFailed(f"{order.system} can't make its tables.\n{host.tail()}")
        else:
            await host.event("ready", within_s=READY_S)
    except BaseException:
        await host.stop()
        raise
    return host


@asynccontextmanager
async def running(system: System, orders: list[Order], folder: Path) -> AsyncGenerator[list[Host]]:
    """Processes while the block lasts, all ready."""
    starting = [asyncio.create_task(start(system, order, folder)) for order in orders]
    try:
        yield await asyncio.gather(*starting)
    finally:
        for task in starting:
            task.cancel()
        begun = await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(host.stop() for host in begun if isinstance(host, Host)))
