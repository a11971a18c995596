"""Following a run: woken by Realtime, correct by reading.

A message on the private topic ``execution:<id>`` says that something changed; what is true is read from the tables.
Without Realtime it is read every second: the same, only later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from realtime import AsyncRealtimeChannel, RealtimeSubscribeStates
from realtime.types import RealtimeChannelConfig, RealtimeChannelOptions

from runhold.cli.backend import Backend, Row

READ_ANYWAY_S: Final = 10.0
"""With Realtime: how long a lost message may go unnoticed."""

READ_EVERY_S: Final = 1.0
"""Without Realtime."""

SETTLE_S: Final = 0.05
"""One change brings several messages: they are read together."""

FINAL: Final = frozenset({"completed", "failed", "cancelled"})

_EVENTS: Final = ("status", "progress", "step", "tool")

_PRIVATE: Final = RealtimeChannelConfig(broadcast=None, presence=None, private=True)

_log = logging.getLogger(__name__)


class Hints:
    """Says when to look.

    :ivar live: Realtime is joined.
    """

    def __init__(self) -> None:
        self.live = False
        self._something = asyncio.Event()

    def give(self, *_: Any) -> None:
        self._something.set()

    def joined(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        self.live = state is RealtimeSubscribeStates.SUBSCRIBED
        self.give()  # what changed before the join came without a message

    async def wait(self) -> None:
        """Until something may have changed."""
        try:
            async with asyncio.timeout(READ_ANYWAY_S if self.live else READ_EVERY_S):
                await self._something.wait()
                await asyncio.sleep(SETTLE_S)
        except TimeoutError:
            pass
        self._something.clear()


@asynccontextmanager
async def hints(backend: Backend, topic: str, *events: str) -> AsyncGenerator[Hints, None]:
    """Listen on a private topic for as long as the block lasts. It never fails: then one reads more often."""
    given = Hints()
    client = backend.client
    channel = client.channel(topic, RealtimeChannelOptions(config=_PRIVATE))
    for event in events or _EVENTS:
        channel.on_broadcast(event, given.give)
    joining = asyncio.create_task(_join(channel, given), name=f"join {topic}")
    try:
        yield given
    finally:
        joining.cancel()
        await asyncio.wait([joining])
        if given.live:
            await client.remove_channel(channel)


async def _join(channel: AsyncRealtimeChannel, given: Hints) -> None:
    try:
        await channel.subscribe(given.joined)
    except Exception as error:
        _log.info("no Realtime, reading every %g s instead: %s", READ_EVERY_S, error)


async def follow(backend: Backend, execution_id: str) -> AsyncGenerator[tuple[Row, list[Row]], None]:
    """The run and its timeline, again and again whenever they may have changed, the last time when it has ended."""
    async with hints(backend, f"execution:{execution_id}") as given:
        while True:
            run = await backend.run(execution_id)
            yield run, await backend.timeline(execution_id)
            if run["status"] in FINAL:
                return
            await given.wait()
