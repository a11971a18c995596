"""The one place that knows realtime-py: a connection that hears events on private topics, or says that it does not.

A connection is never mended. The library reconnects five times and then dies in a task of its own, drops channels
without rejoining, and looks joined when it is not; so whoever sees trouble closes the connection and opens a new
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from realtime import RealtimeSubscribeStates
from realtime.types import RealtimeChannelConfig, RealtimeChannelOptions
from supabase import AsyncClient, AsyncClientOptions, acreate_client

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S: Final = 15.0
"""For connecting and joining all topics."""

CLOSE_TIMEOUT_S: Final = 3.0

Topics = Mapping[str, Mapping[str, Callable[[], None]]]
"""topic → event → what to call. Callbacks must not raise: the library's listener would die silently."""


class Connection(Protocol):
    """A joined connection."""

    trouble: asyncio.Event
    """Set when it is known not to hear any more. It may also be deaf without knowing it."""

    async def aclose(self) -> None:
        """Let go of it. Never raises, never takes long."""
        ...


Connect = Callable[[str, str, Topics], Any]
"""(url, key, topics) → awaitable :class:`Connection`. Raises if it can't connect or join."""


class NotJoined(Exception):
    """Realtime did not let us join."""


class _RealtimePy:
    def __init__(self, client: AsyncClient) -> None:
        self.trouble = asyncio.Event()
        self._client = client

    async def join(self, topics: Topics) -> None:
        config = RealtimeChannelConfig(broadcast=None, presence=None, private=True)
        for topic, events in topics.items():
            channel = self._client.channel(topic, RealtimeChannelOptions(config=config))
            for event, callback in events.items():
                channel.on_broadcast(event, lambda _, callback=callback: callback())
            states: list[str] = []

            def note(
                state: RealtimeSubscribeStates, error: Exception | None, states: list[str] = states
            ) -> None:
                states.append(f"{state.value} {error or ''}".strip())
                if state is not RealtimeSubscribeStates.SUBSCRIBED:
                    self.trouble.set()

            await channel.subscribe(note)
            if self.trouble.is_set() or not states:
                raise NotJoined(f"{topic}: {', '.join(states) or 'no answer'}")

    async def aclose(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.remove_all_channels(), CLOSE_TIMEOUT_S)


async def connect(url: str, key: str, topics: Topics) -> Connection:
    """Connect with realtime-py and join ``topics``, all private."""
    options = AsyncClientOptions(
        auto_refresh_token=False,
        persist_session=False,
        realtime={"auto_reconnect": False, "max_retries": 1},
    )
    connection = _RealtimePy(await acreate_client(url, key, options))
    try:
        await asyncio.wait_for(connection.join(topics), JOIN_TIMEOUT_S)
    except BaseException:
        await connection.aclose()
        raise
    return connection
