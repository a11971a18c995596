"""The server: HTTP and WebSocket front, change feed behind it, all of it started, watched and stopped
together.
"""

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

import psycopg
from aiohttp import WSCloseCode, web

from runhold.local.realtime.authorization import Authorizer
from runhold.local.realtime.changes import ChangeRouter
from runhold.local.realtime.channels import Services
from runhold.local.realtime.config import RealtimeConfig
from runhold.local.realtime.database import Session
from runhold.local.realtime.dispatcher import Dispatcher
from runhold.local.realtime.errors import FeedEnded, RealtimeError, RealtimeStartError, TokenError
from runhold.local.realtime.feed import ChangeFeed
from runhold.local.realtime.frames import Version
from runhold.local.realtime.hub import Hub
from runhold.local.realtime.presence import Presence
from runhold.local.realtime.rest import BATCH_PATH, BroadcastApi, custom_headers, single_target
from runhold.local.realtime.sockets import FRAME_LIMIT_BYTES, Socket
from runhold.local.realtime.subscriptions import SubscriptionRegistry
from runhold.local.realtime.tokens import Keyring

logger = logging.getLogger("runhold.realtime")

SOCKET_PATH = "/realtime/v1/websocket"
HEALTH_PATH = "/health"

# One policy of one user may hold up everybody's changes for this long, then it counts as a refusal.
CHANGE_STATEMENT_TIMEOUT_S = 2.0
CHECK_STATEMENT_TIMEOUT_S = 5.0
# Clients answer a close at once; one that does not is cut off.
CLOSE_TIMEOUT_S = 1.0


class RealtimeServer:
    """A running Realtime server, as an asynchronous context manager.

    Entering raises RealtimeStartError if the database cannot be streamed from or the port is taken. If a side
    task dies later, `wait_failed` raises, and so does leaving the context.
    """

    def __init__(self, config: RealtimeConfig) -> None:
        self._config = config
        self._change_session = Session(
            config.database_url,
            name="runhold realtime changes",
            statement_timeout_s=CHANGE_STATEMENT_TIMEOUT_S,
        )
        self._check_session = Session(
            config.database_url, name="runhold realtime checks", statement_timeout_s=CHECK_STATEMENT_TIMEOUT_S
        )
        hub, registry = Hub(), SubscriptionRegistry()
        self._services = Services(
            keyring=Keyring(
                jwt_secret=config.jwt_secret,
                publishable_key=config.publishable_key,
                secret_key=config.secret_key,
                clock=config.clock,
            ),
            hub=hub,
            presence=Presence(hub),
            registry=registry,
            authorizer=Authorizer(self._check_session),
            session=self._check_session,
        )
        self._api = BroadcastApi(self._services)
        self._dispatcher = Dispatcher(self._change_session, ChangeRouter(self._change_session, registry), hub)
        self._feed = ChangeFeed(
            config.database_url, deliver=self._dispatcher.deliver, connected=self._renew_sessions
        )
        self._sockets: set[Socket] = set()
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._stopping = False

    @property
    def url(self) -> str:
        """Base URL, without path."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"http://{host}:{self._port}"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()
        if exc is None and self._failure is not None and self._failure.done():
            self._failure.result()

    async def wait_failed(self) -> None:
        """Return never; raises RealtimeError when a side task has died and the server no longer serves."""
        assert self._failure is not None, "the server has not been started"
        await asyncio.shield(self._failure)

    async def _start(self) -> None:
        self._failure = asyncio.get_running_loop().create_future()
        # A failure nobody waits for has been logged: no second report when the future is collected.
        self._failure.add_done_callback(lambda future: None if future.cancelled() else future.exception())
        feed = self._watch(self._feed.run(), name="realtime-feed")
        self._watch(self._dispatcher.run(), name="realtime-dispatcher")
        streaming = asyncio.create_task(self._feed.wait_until_streaming(), name="realtime-start")
        await asyncio.wait({feed, streaming}, return_when=asyncio.FIRST_COMPLETED)
        streaming.cancel()
        if feed.done():
            raise _start_error(feed.exception())
        await self._prune_messages()
        application = web.Application(client_max_size=FRAME_LIMIT_BYTES)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.host, self._config.port)
        try:
            await site.start()
        except OSError as exc:
            raise RealtimeStartError(
                f"cannot listen on {self._config.host}:{self._config.port}: {exc.strerror or exc}"
            ) from exc
        self._port = int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        self._stopping = True
        closing = [
            asyncio.create_task(
                socket.close(WSCloseCode.GOING_AWAY, "server stops"), name="realtime-close-socket"
            )
            for socket in self._sockets
        ]
        if closing:
            _done, late = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
        for task in self._side_tasks:
            task.cancel()
        if self._side_tasks:
            await asyncio.wait(self._side_tasks)
        if self._runner is not None:
            await self._runner.cleanup()
        await self._change_session.close()
        await self._check_session.close()

    def _watch(self, work: Coroutine[None, None, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_task_ended)
        return task

    def _side_task_ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping or task.cancelled() or self._failure is None or self._failure.done():
            return
        cause = task.exception()
        logger.critical("%s died, the server stops", task.get_name(), exc_info=cause)
        failure = RealtimeError(f"{task.get_name()} died: {cause}")
        failure.__cause__ = cause
        self._failure.set_exception(failure)

    async def _renew_sessions(self) -> None:
        # After a restart of Postgres they are dead without knowing it.
        await self._change_session.close()
        await self._check_session.close()

    async def _prune_messages(self) -> None:
        # Hosted projects keep three days of messages as well.
        await self._check_session.run(
            "delete from realtime.messages where inserted_at < now() - interval '3 days'"
        )

    # Requests

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw_path = request.rel_url.raw_path
        if raw_path == SOCKET_PATH:
            return await self._serve_socket(request)
        return await self._answer_http(request, raw_path)

    async def _answer_http(self, request: web.Request, raw_path: str) -> web.Response:
        if raw_path == HEALTH_PATH:
            return web.json_response({"status": "ok", "feed_streaming": self._feed.streaming})
        if request.method == "POST" and raw_path == BATCH_PATH:
            return await self._api.send_batch(request)
        target = single_target(raw_path)
        if request.method == "POST" and target is not None:
            return await self._api.send_one(request, *target)
        return web.json_response({"message": "Not Found"}, status=404)

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        try:
            version = Version(request.query.get("vsn") or Version.V1)
        except ValueError:
            return web.json_response({"error": "unsupported vsn: use 1.0.0 or 2.0.0"}, status=403)
        api_key = request.headers.get("x-api-key") or request.query.get("apikey") or ""
        if not api_key:
            return web.json_response({"error": "API key is missing"}, status=401)
        try:
            self._services.keyring.verify(api_key)
        except TokenError as exc:
            logger.info("socket refused: %s", exc)
            return web.json_response({"error": exc.handshake_text}, status=401)
        # Without compression: frames are small, and it would cost more time than it saves on loopback.
        response = web.WebSocketResponse(max_msg_size=FRAME_LIMIT_BYTES, compress=False)
        await response.prepare(request)
        transport = request.transport
        socket = Socket(
            response,
            services=self._services,
            version=version,
            api_key=api_key,
            headers=custom_headers(request),
            abort=transport.abort if transport is not None else _nothing,
        )
        if self._stopping:
            await socket.close(WSCloseCode.GOING_AWAY, "server stops")
            return response
        self._sockets.add(socket)
        try:
            await socket.run()
        finally:
            self._sockets.discard(socket)
        return response


def _start_error(cause: BaseException | None) -> BaseException:
    if isinstance(cause, psycopg.Error | FeedEnded):
        error = RealtimeStartError(f"cannot stream changes from Postgres: {str(cause).strip()}")
        error.__cause__ = cause
        return error
    return cause or RealtimeStartError("the change feed ended at once")


def _nothing() -> None:
    """The client has gone before its connection could be used."""
