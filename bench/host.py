"""A process of a system under test: ``python -m bench.host ORDER``. It ends when its standard input does."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import os
import sys
import threading
from collections.abc import AsyncIterator

from bench.systems import Order, load


class Pipe:
    """The :class:`~bench.systems.protocol.Post` over standard input and output, a JSON object per line."""

    def __init__(self, loop: asyncio.AbstractEventLoop, profile: cProfile.Profile | None) -> None:
        self._profile = profile
        self._batches: asyncio.Queue[range | None] = asyncio.Queue()
        self._ends: list[tuple[int, float, float]] = []
        self.over = asyncio.Event()
        # A thread: pipes and files alike can be waited for, and the loop pays nothing while nothing comes.
        threading.Thread(target=self._listen, args=(loop,), daemon=True, name="orders").start()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for line in sys.stdin:
                told = json.loads(line)
                batch = range(told["first"], told["first"] + told["count"])
                loop.call_soon_threadsafe(self._batches.put_nowait, batch)
            loop.call_soon_threadsafe(self._batches.put_nowait, None)
            loop.call_soon_threadsafe(self.over.set)

    def _say(self, **event: object) -> None:
        os.write(1, (json.dumps(event) + "\n").encode())

    def ready(self) -> None:
        if self._profile is not None:
            self._profile.enable()  # what is imported before is no part of a run
        self._say(event="ready")

    async def batches(self) -> AsyncIterator[range]:
        while (batch := await self._batches.get()) is not None:
            yield batch
            if self._ends:
                self._say(event="done", ends=self._ends)
                self._ends = []

    def submitted(self, at: float) -> None:
        self._say(event="submitted", at=at)

    def ended(self, run: int, started: float, ended: float) -> None:
        self._ends.append((run, started, ended))

    def held(self, count: int) -> None:
        self._say(event="held", count=count)


async def main(order: Order) -> None:
    """Do as told, until it is done or the benchmark lets go."""
    system = load(order.system)
    if order.role == "prepare":
        await system.prepare(order)
        return
    profile = None if order.profile is None else cProfile.Profile()
    pipe = Pipe(asyncio.get_running_loop(), profile)
    doing = asyncio.create_task((system.work if order.role == "work" else system.submit)(order, pipe))
    over = asyncio.create_task(pipe.over.wait())
    done, _ = await asyncio.wait({doing, over}, return_when=asyncio.FIRST_COMPLETED)
    if doing in done:
        doing.result()  # an error is told by the traceback
        return
    if profile is not None:
        profile.dump_stats(str(order.profile))
    doing.cancel()
    # A system that does not end in time has been measured already.
    await asyncio.wait({doing}, timeout=5)


if __name__ == "__main__":
    asyncio.run(main(Order.from_json(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # threads that a library left behind do not hold the process
