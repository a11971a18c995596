"""A Realtime server that misbehaves on demand: a man in the middle of the socket between a worker and the real one.

He relays frames of protocol 1.0.0 (what realtime-py speaks) and, when a test says so, what a Realtime server does on
bad days. All else about the server is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

PATH = "/realtime/v1/websocket"

Frame = dict[str, Any]


class Line:
    """One client's socket.

    :ivar joined: topics whose joins the server granted.
    :ivar stale: its token has expired: nothing more can be joined on it.
    """

    def __init__(self, client: web.WebSocketResponse) -> None:
        self.client = client
        self.joined: list[str] = []
        self.stale = False

    async def say(self, topic: str, event: str, payload: Any, ref: str | None = None) -> None:
        """Send the client a frame of our own."""
        await self.client.send_str(
            json.dumps({"topic": topic, "event": event, "payload": payload, "ref": ref})
        )

    async def end_channels(self, message: str) -> None:
        """What the server does when a token expires or a quota is spent: the socket stays, the channels go."""
        for topic in self.joined:
            said = {
                "status": "error",
                "message": message,
                "extension": "system",
                "channel": topic.removeprefix("realtime:"),
            }
            await self.say(topic, "system", said)
            await self.say(topic, "phx_close", {})
        self.joined.clear()


class Misbehaving:
    """The man in the middle.

    :ivar url: where the worker finds him.
    :ivar lines: the sockets that are open; ``opened``: how many there were.
    :ivar asked: handshakes, refused ones included.
    :ivar joins: joins, refused ones included; ``on_stale`` of them on a socket whose token had expired.
    :ivar sent: frames that clients got.

    Switches: ``down`` refuses every handshake; ``refuse_joins`` refuses so many joins; ``channels_end`` ends every
    channel with this text as soon as it has joined; ``loses`` says which frames of the server never arrive; ``doubles``
    sends broadcasts twice; ``delay_s`` sends them late. :meth:`freeze` keeps everything, both ways.
    """

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.lines: list[Line] = []
        self.opened = self.asked = self.on_stale = 0
        self.joins: list[Frame] = []
        self.sent: list[str] = []
        self.down = False
        self.refuse_joins = 0
        self.channels_end: str | None = None
        self.loses: Callable[[Frame], bool] = lambda frame: False
        self.doubles = False
        self.delay_s = 0.0
        self._api = upstream
        self._upstream = upstream.replace("http", "ws", 1) + PATH
        self._flowing = asyncio.Event()
        self._flowing.set()

    def freeze(self) -> None:
        """The sockets stay open; nothing moves on them any more, whatever is sent."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    async def close_all(self, code: int) -> None:
        """Close all sockets, as a deploy (1001), a crash (1011) or a proxy (1000) does."""
        for line in tuple(self.lines):
            await line.client.close(code=code, drain=False)

    async def expire_tokens(self) -> None:
        """What a server does when the token that it made of the key runs out."""
        for line in tuple(self.lines):
            line.stale = True
            await line.end_channels("Token has expired 1 seconds ago")

    async def broadcast(self, topic: str, payload: Any) -> None:
        """Send a broadcast that nobody sent."""
        body = {"type": "broadcast", "event": "wake", "payload": payload}
        for line in tuple(self.lines):
            await line.say(f"realtime:{topic}", "broadcast", body)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Misbehaving]:
        """Serve on a free port; at the end every socket is gone."""
        app = web.Application()
        app.router.add_get(PATH, self._serve)
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        async with aiohttp.ClientSession() as self._http:
            try:
                yield self
            finally:
                self.thaw()
                for line in self.lines:
                    if line.client._writer is not None and line.client._writer.transport is not None:
                        line.client._writer.transport.abort()
                await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.Response:
        """All that is not the socket: to the API, unhindered."""
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "content-length")}
        body = await request.read()
        async with self._http.request(
            request.method, self._api + request.path_qs, headers=kept, data=body, auto_decompress=False
        ) as answer:
            skipped = ("transfer-encoding", "content-length", "connection")
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in skipped}
            return web.Response(status=answer.status, headers=headers, body=await answer.read())

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.down:
            return web.Response(status=503)
        client = web.WebSocketResponse(max_msg_size=0)
        await client.prepare(request)
        line = Line(client)
        self.lines.append(line)
        self.opened += 1
        try:
            async with self._http.ws_connect(self._upstream, params=request.query, max_msg_size=0) as server:
                ways = [
                    asyncio.create_task(self._to_server(line, server)),
                    asyncio.create_task(self._to_client(line, server)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self.lines.remove(line)
        with contextlib.suppress(ConnectionError):
            await client.close()
        return client

    async def _to_server(self, line: Line, server: aiohttp.ClientWebSocketResponse) -> None:
        async for message in line.client:
            await self._flowing.wait()
            if message.type is not WSMsgType.TEXT:
                return
            frame = json.loads(message.data)
            if frame["event"] == "phx_join":
                self.joins.append(frame)
                self.on_stale += line.stale
                reason = self._refusal(line)
                if reason is not None:
                    answer = {"status": "error", "response": {"reason": reason}}
                    await line.say(frame["topic"], "phx_reply", answer, frame["ref"])
                    continue
            await server.send_str(message.data)

    async def _to_client(self, line: Line, server: aiohttp.ClientWebSocketResponse) -> None:
        async for message in server:
            await self._flowing.wait()
            if message.type is not WSMsgType.TEXT:
                return
            frame = json.loads(message.data)
            if self.loses(frame):
                continue
            is_broadcast = frame["event"] == "broadcast"
            if is_broadcast and self.delay_s:
                await asyncio.sleep(self.delay_s)
            for _ in range(2 if is_broadcast and self.doubles else 1):
                self.sent.append(message.data)
                await line.client.send_str(message.data)
            joins = [each for each in self.joins if each["topic"] == frame["topic"]]
            if frame["event"] == "phx_reply" and joins and frame["ref"] == joins[-1]["ref"]:
                line.joined.append(frame["topic"])
                if self.channels_end is not None:
                    await line.end_channels(self.channels_end)

    def _refusal(self, line: Line) -> str | None:
        if line.stale:
            return "InvalidJWTToken: Token has expired 3 seconds ago"
        if self.refuse_joins > 0:
            self.refuse_joins -= 1
            return "DatabaseConnectionRateLimitReached: Too many database connections"
        return None


def is_broadcast(frame: Frame) -> bool:
    return frame["event"] == "broadcast"


def is_wake(frame: Frame) -> bool:
    return is_broadcast(frame) and frame["payload"]["event"] == "wake"
