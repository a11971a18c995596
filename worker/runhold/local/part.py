"""One program of a stack, which may be stopped and started while the others go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runhold.local.child import Child
from runhold.local.errors import ChildEnded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Part:
    """PostgreSQL, the API or Realtime. Stopped here, it does not end its stack; by itself it does.

    Its methods belong to the event loop that started the stack, and are called one at a time.
    """

    def __init__(self, launch: Callable[[], Awaitable[Child]], *, crash: signal.Signals) -> None:
        self._launch = launch
        self._crash = crash
        self._child: Child | None = None
        self._wanted = False
        self._changed = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._wanted

    async def start(self) -> None:
        """Start it, on the same port as ever, and wait until it serves. Harmless if it runs. Raises ChildEnded.

        The API and Realtime need the database for their start, later on they wait for it.
        """
        if self._wanted:
            return
        await self.stop()  # an earlier stop may have been cancelled in the middle
        self._child = await self._launch()
        self._want(True)

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop it in order, or as a crash does (`immediate`), and wait for its end. Harmless if it does not run.

        PostgreSQL that is stopped immediately recovers from its log at the next start; without `durable` that may fail.
        """
        child = self._child
        if child is None:
            return
        self._want(False)
        # A frozen program hears no polite request.
        child.send_signal(self._crash if immediate else signal.SIGCONT)
        await child.stop()
        self._child = None

    @asynccontextmanager
    async def frozen(self) -> AsyncGenerator[None]:
        """It stands still for the time of the block (SIGSTOP): connections stay open and nothing answers.

        Of PostgreSQL only the process that accepts new connections.
        """
        child = self._child
        if child is None:
            yield
            return
        child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            child.send_signal(signal.SIGCONT)

    async def ended(self) -> ChildEnded:
        """Wait until it ends by itself, and answer an error that tells so."""
        while True:
            changed, child = self._changed, self._child
            if child is not None and self._wanted:
                error = await child.ended()
                if self._wanted and self._child is child:
                    return error
            await changed.wait()

    def _want(self, wanted: bool) -> None:
        self._wanted = wanted
        self._changed.set()
        self._changed = asyncio.Event()
