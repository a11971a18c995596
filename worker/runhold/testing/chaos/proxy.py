"""What stands between one worker and the stack: it relays everything, and does what was armed, or what the weather
is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, TCPConnector, WSMsgType, web
from multidict import CIMultiDict

from runhold.testing.chaos.moments import in_answer, in_request
from runhold.testing.chaos.points import Points, Victim, Way

HOST: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
RPC: Final = "/rest/v1/rpc/"

IDLE_S: Final = 2.0
"""How long an idle connection to the stack is kept: less than the stack keeps it, which might close it just as we use
it."""

_OF_ONE_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "te", "trailer"}
)


class Proxy:
    """One worker's way to the stack: its ``SUPABASE_URL`` is :attr:`url`.

    :ivar victim: the worker whom crash points hit.
    """

    def __init__(self, upstream: str, points: Points) -> None:
        """
        :param upstream: the stack's origin.
        """
        self.victim: Victim | None = None
        self._upstream = upstream.rstrip("/")
        self._points = points
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._realtime_flows = asyncio.Event()
        self._realtime_flows.set()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        )
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        try:
            await self._runner.setup()
            await self.come_back()
        except BaseException:  # cancelled on the way: nobody will leave what was never entered
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self.cut_all()
        assert self._runner is not None
        await self._runner.cleanup()
        await self._session.close()

    @property
    def url(self) -> str:
        """The origin that the worker is given."""
        return f"http://{HOST}:{self._port}"

    # ------------------------------------------------------------------------------------------- weather

    async def go_away(self) -> None:
        """Connections are cut, and new ones refused, until :meth:`come_back`."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.cut_all()

    async def come_back(self) -> None:
        """Listen, on the same port as before."""
        if self._site is None:
            assert self._runner is not None
            site = web.TCPSite(self._runner, HOST, self._port, backlog=256, reuse_address=True)
            await site.start()
            self._site = site
            self._port = int(self._runner.addresses[-1][1])

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        """The API is down."""
        await self.go_away()
        try:
            yield
        finally:
            await self.come_back()

    def freeze_realtime(self) -> None:
        """The WebSocket stays open and says nothing, in either direction; new ones get no answer."""
        self._realtime_flows.clear()

    def thaw_realtime(self) -> None:
        """It flows again, with what was kept back."""
        self._realtime_flows.set()

    def cut_all(self) -> int:
        """Cut every connection now, in the middle of whatever it carries; how many."""
        assert self._runner is not None
        connections = self._runner.server.connections if self._runner.server is not None else []
        transports = [each.transport for each in connections if each.transport is not None]
        for transport in transports:
            transport.abort()
        return len(transports)

    # ------------------------------------------------------------------------------------------ relaying

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay_socket(request)
        body = await request.read()
        function = request.path.removeprefix(RPC) if request.path.startswith(RPC) else ""
        happenings = in_request(function, body)
        way = await self._points.meet("before", self.victim, happenings)
        if way != "go_on":
            return _astray(request, way)
        try:
            async with self._session.request(
                request.method, self._upstream + request.raw_path, data=body, headers=_relayed(request.headers),
                allow_redirects=False,
            ) as answer:  # fmt: skip
                content = await answer.read()
                headers, status = _relayed(answer.headers), answer.status
        except ClientConnectionError:
            return _cut_off(request)
        if status < 400:
            happenings = in_answer(function, content) or happenings
            way = await self._points.meet("after", self.victim, happenings)
        if way == "cut":
            return await _cut_answer(request, status, headers, content)
        if way != "go_on":
            return _astray(request, way)
        return web.Response(status=status, headers=headers, body=content)

    async def _relay_socket(self, request: web.Request) -> web.StreamResponse:
        await self._realtime_flows.wait()
        try:
            up = await self._session.ws_connect(
                self._upstream + request.raw_path, max_msg_size=0, autoping=False, autoclose=True
            )
        except ClientConnectionError:
            return _cut_off(request)
        down = web.WebSocketResponse(max_msg_size=0, autoping=False)
        await down.prepare(request)
        ways = [asyncio.create_task(self._pump(*way)) for way in ((up, down), (down, up))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await up.close()
        return down

    async def _pump(self, source: Any, sink: Any) -> None:
        """Hand on what comes, until the source closes."""
        async for message in source:
            await self._realtime_flows.wait()
            with contextlib.suppress(ConnectionError):
                if message.type is WSMsgType.TEXT:
                    await sink.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await sink.send_bytes(message.data)
                elif message.type is WSMsgType.PING:
                    await sink.ping(message.data)
                elif message.type is WSMsgType.PONG:
                    await sink.pong(message.data)
        await self._realtime_flows.wait()
        await sink.close(code=source.close_code or 1001)


def _relayed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers that are not about one connection alone."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_ONE_HOP)


def _astray(request: web.Request, way: Way) -> web.StreamResponse:
    """What is answered where nothing is relayed."""
    if way == "refuse":
        return web.json_response({"message": "Service Unavailable"}, status=503)
    return _cut_off(request)


def _cut_off(request: web.Request) -> web.StreamResponse:
    """Cut the connection: there will be no answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)  # for aiohttp alone: nobody gets it


async def _cut_answer(
    request: web.Request, status: int, headers: CIMultiDict[str], content: bytes
) -> web.StreamResponse:
    """Half of the answer, and then nothing."""
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = max(len(content), 2)
    await response.prepare(request)
    await response.write(content[: len(content) // 2] or b" ")
    if request.transport is not None:
        request.transport.close()
    return response
