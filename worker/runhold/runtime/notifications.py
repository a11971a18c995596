"""Tells reviewers outside of Supabase: delivers the outbox of review requests, at least once.

A ``Channel`` knows how to send; here is only who sends what when. What is down or hangs holds a few of the slots for
a few seconds; everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from typing import ClassVar, Final, Protocol
from uuid import UUID

from runhold.errors import StoreError
from runhold.store.records import Notification

logger = logging.getLogger(__name__)

IDLE_LOOK_S: Final = 60.0
"""Between looks at the outbox that nothing gave a reason for. Heartbeats say when something is due."""

MIN_PAUSE_S: Final = 0.2
"""Between two looks, whatever the reasons: many deliveries that end at once lead to one."""

SLOTS: Final = 64
"""Deliveries at once. An endpoint gets four of them at most."""


class NotificationPort(Protocol):
    """The calls of the outbox. ``Gateway`` has them."""

    async def notifications(self, worker_id: UUID, n: int, channels: Sequence[str]) -> list[Notification]: ...

    async def notified(self, worker_id: UUID, notification_id: UUID, error: str | None) -> None: ...


class Undeliverable(Exception):
    """This attempt failed; the text says why and holds no secret."""


class Channel(Protocol):
    """One way to tell people. Opens nothing before its first delivery.

    :ivar name: as in ``agent_types.notify``.
    :ivar attempt_s: seconds for one delivery in all: far below the minute of a claim, so that its outcome is stored
        under it.
    """

    name: ClassVar[str]

    @property
    def attempt_s(self) -> float: ...

    async def deliver(self, message: Notification) -> None:
        """Send it, once.

        :raises Undeliverable: it can't be known to have arrived.
        """
        ...

    async def aclose(self) -> None:
        """Close what is open."""
        ...


class Notifier:
    """Looks at the outbox and delivers what is due, each message in a task of its own.

    :param channels: the ways to tell people that this worker has. Messages for others are left to other workers.
    """

    def __init__(
        self,
        port: NotificationPort,
        worker_id: UUID,
        channels: Sequence[Channel],
        *,
        idle_look_s: float = IDLE_LOOK_S,
    ) -> None:
        self._port = port
        self._worker_id = worker_id
        self._channels = {channel.name: channel for channel in channels}
        self._idle_look_s = idle_look_s
        self._news = asyncio.Event()
        self._look_at = self._next_idle_look()
        self._under_way: set[asyncio.Task[None]] = set()

    def expect(self, in_s: float | None) -> None:
        """Something is due in so many seconds; None: nothing is known to be."""
        if in_s is not None:
            self._look_at = min(self._look_at, time.monotonic() + in_s)
            self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled. What is under way then is sent again by another worker."""
        try:
            while True:
                await self._until_due()
                self._look_at = self._next_idle_look()
                await self._look()
                await asyncio.sleep(MIN_PAUSE_S)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
            for channel in self._channels.values():
                await channel.aclose()

    async def _until_due(self) -> None:
        while (pause := self._look_at - time.monotonic()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)

    def _next_idle_look(self) -> float:
        return time.monotonic() + self._idle_look_s * random.uniform(0.75, 1.25)

    async def _look(self) -> None:
        free = SLOTS - len(self._under_way)
        if free <= 0:
            return  # the first that ends gives a reason to look again
        try:
            due = await self._port.notifications(self._worker_id, free, tuple(self._channels))
        except StoreError as error:
            logger.debug("the outbox can't be read now: %s", error)
            return
        for each in due:
            task = asyncio.create_task(self._deliver(each), name=f"notification {each.id}")
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self.expect(0)  # its endpoint may get the next one

    async def _deliver(self, message: Notification) -> None:
        error = await self._attempt(message)
        if error is not None:
            logger.warning(
                "attempt %d to tell of a review (%s, %s) failed: %s",
                message.attempt,
                message.channel,
                message.id,
                error,
            )
        try:
            await self._port.notified(self._worker_id, message.id, error)
        except StoreError as failure:
            logger.warning("a notification is sent again, its outcome could not be stored: %s", failure)

    async def _attempt(self, message: Notification) -> str | None:
        """Why it could not be delivered; None: it was."""
        channel = self._channels[message.channel]
        try:
            async with asyncio.timeout(channel.attempt_s):
                await channel.deliver(message)
        except Undeliverable as reason:
            return str(reason)
        except TimeoutError:
            return f"no answer within {channel.attempt_s:g} s"
        except Exception as fault:  # of ours: it must not keep its slot, nor be tried again at once
            logger.exception("a notification can't be sent (%s, %s)", message.channel, message.id)
            return f"the worker can't send it: {type(fault).__name__}"
        return None
