"""A webhook's endpoint: a real HTTP server on loopback that does what a test says, request by request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = int | Callable[[], Awaitable[int]]


@dataclass
class Endpoint:
    """``answers`` are given in order, the last one for ever: a status, or what to await for it."""

    answers: list[Answer]
    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list[tuple[dict[str, str], bytes]])
    """Headers (lower case) and body of all that came."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append((headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            status = answer if isinstance(answer, int) else await answer()
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\nlocation: {self.url}\r\nconnection: close\r\n\r\n".encode()
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def endpoint(*answers: Answer) -> AsyncIterator[Endpoint]:
    made = Endpoint(list(answers))
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield made
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def hang() -> int:
    """Never answers."""
    await asyncio.get_running_loop().create_future()
    return 200
