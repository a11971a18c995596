"""Distance: a TCP relay that adds a fixed time to every round trip, alike for all systems."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK_BYTES = 256 * 1024


class Delay:
    """Relays loopback connections to a server; what is sent to it takes ``round_trip_s`` more.

    All of it in one direction: an event loop's timers are whole milliseconds, rounded up, so halves would be more.

    What is sent is not slowed down: bytes that follow each other arrive so, too, as on a long wire.

    :ivar port: where clients connect.
    """

    def __init__(self, host: str, port: int, round_trip_s: float) -> None:
        self.port = 0
        self._target = (host, port)
        self._round_trip_s = round_trip_s
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)
            await asyncio.gather(
                self._pump(reader, up_writer, self._round_trip_s), self._pump(up_reader, writer, 0)
            )
        except (OSError, asyncio.CancelledError):  # nobody is there, or the delay ends
            writer.close()
        finally:
            self._relays.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        """One direction: what is read now is written later, in order."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                if (pause := due - loop.time()) > 0:
                    await asyncio.sleep(pause)
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(CHUNK_BYTES):
                waiting.put_nowait((loop.time() + delay_s, data))
            waiting.put_nowait((loop.time() + delay_s, b""))
            await writing
        except OSError:
            pass
        finally:
            writing.cancel()
            with contextlib.suppress(OSError):
                writer.close()
