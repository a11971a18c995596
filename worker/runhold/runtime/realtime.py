"""The one place that knows realtime-py: a connection that hears events on private topics, or says that it does not.

A connection is never mended. The library reconnects a few times and then dies in a task of its own, drops channels
without rejoining, does not miss the answers to its heartbeats, and looks joined when it is not; so whoever sees
trouble closes the connection and opens a new one, which also asks for a new token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final, Protocol

from realtime import AsyncRealtimeClient, RealtimeSubscribeStates
from realtime.types import (
    RealtimeChannelBroadcastConfig,
    RealtimeChannelConfig,
    RealtimeChannelOptions,
)

from runhold.errors import ConfigError
from runhold.store.client import Access

logger = logging.getLogger(__name__)

MIN_VERSION: Final = (2, 34)
"""Earlier ones go silent for ever when the server closes a socket with 1000 or 1001, as it does at each deploy, and
write the key into the log."""

JOIN_TIMEOUT_S: Final = 15.0
"""For connecting and joining all topics."""

CLOSE_TIMEOUT_S: Final = 1.0
"""For the server to take leave. A frozen one never does, and then the socket is torn down."""

Topics = Mapping[str, Mapping[str, Callable[[], None]]]
"""topic → event → what to call."""


class Connection(Protocol):
    """A joined connection.

    :ivar trouble: set when it is known not to hear any more. It may also be deaf without knowing it.
    :ivar why: then, what happened.
    """

    trouble: asyncio.Event
    why: str

    async def aclose(self) -> None:
        """Let go of it. Never raises, never takes long, leaves no task and no socket."""
        ...


Connect = Callable[[str, Access, Topics, Callable[[], None]], Awaitable[Connection]]
"""(url, access, topics, on_ready) → a joined connection. Raises if it can't connect or join. ``on_ready`` is called
whenever the server says that from here on it delivers: a join may be answered seconds before that."""


class NotJoined(Exception):
    """Realtime did not let us join."""


def require_version(found: str | None = None) -> None:
    """Refuse a realtime-py that is known to go deaf.

    :raises ConfigError: it is older than :data:`MIN_VERSION`.
    """
    found = found or version("realtime")
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if numbers < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise ConfigError(
            f"The package realtime {found} is too old, its connections go deaf: pip install 'realtime>={least}'."
        )


async def connect(url: str, access: Access, topics: Topics, on_ready: Callable[[], None]) -> Connection:
    """Connect with realtime-py and join ``topics``, all private, on one socket."""
    logging.getLogger("websockets.client").addFilter(_hide_handshakes)
    connection = _RealtimePy(url, access, on_ready)
    try:
        await asyncio.wait_for(connection.join(topics), JOIN_TIMEOUT_S)
    except BaseException:
        await connection.aclose()
        raise
    return connection


class _RealtimePy:
    def __init__(self, url: str, access: Access, on_ready: Callable[[], None]) -> None:
        self.trouble = asyncio.Event()
        self.why = ""
        self._on_ready = on_ready
        self._client = AsyncRealtimeClient(
            f"{url.rstrip('/')}/realtime/v1", access.api_key, auto_reconnect=False, max_retries=1
        )
        self._token = access.token

    async def join(self, topics: Topics) -> None:
        if self._token:
            await self._client.set_auth(self._token)
        await self._client.connect()
        listening: Any = self._client._listen_task  # pyright: ignore
        if listening is not None:
            listening.add_done_callback(self._unread)
        broadcast = RealtimeChannelBroadcastConfig(replication_ready=True)
        config = RealtimeChannelConfig(broadcast=broadcast, presence=None, private=True)
        for topic, events in topics.items():
            channel = self._client.channel(topic, RealtimeChannelOptions(config=config))
            for event, callback in events.items():
                channel.on_broadcast(event, partial(_call, callback))
            channel.on_system(partial(_call, self._on_ready))
            states: list[str] = []
            await channel.subscribe(partial(self._note, topic, states))
            if self.trouble.is_set() or not states:
                raise NotJoined(self.why or f"{topic}: no answer")

    async def aclose(self) -> None:
        client = self._client
        socket: Any = client._ws_connection  # pyright: ignore[reportPrivateUsage]
        for channel in client.get_channels():
            channel.rejoin_timer.reset()
            channel.join_push.destroy()
        try:
            await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)
        except Exception:  # nobody there to take leave of
            if socket is not None:
                socket.transport.abort()
            with contextlib.suppress(Exception):
                await client.close()  # what the first one did not come to: the library's tasks

    def _note(
        self, topic: str, states: list[str], state: RealtimeSubscribeStates, error: Exception | None
    ) -> None:
        states.append(state.value)
        if state is not RealtimeSubscribeStates.SUBSCRIBED:
            self._lost(f"{topic} {state.value} {error or ''}".strip())

    def _unread(self, _: object) -> None:
        self._lost("the socket is read no more")

    def _lost(self, why: str) -> None:
        self.why = self.why or why
        self.trouble.set()


def _call(callback: Callable[[], None], _: object) -> None:
    """A callback that raised would end the library's listener, which tells nobody."""
    try:
        callback()
    except Exception:
        logger.exception("a wake-up was lost by an error of ours")


def _hide_handshakes(record: logging.LogRecord) -> bool:
    """At DEBUG, websockets writes what it sends: the key in the URL, and in the join. Not of these connections."""
    request = getattr(getattr(record, "websocket", None), "request", None)
    return record.levelno > logging.DEBUG or "apikey=" not in getattr(request, "path", "")
