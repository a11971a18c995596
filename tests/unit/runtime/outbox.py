"""An outbox in memory, a notifier that works on it, and messages for webhooks."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from runhold.errors import StoreUnavailable
from runhold.runtime.notifications import Channel, Notifier
from runhold.runtime.webhook import Webhook
from runhold.store.records import Notification

NAME = "RUNHOLD_WEBHOOK_SECRET"
KEY = b"k" * 24
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def message(url: str) -> Notification:
    target = {"url": url, "secret_name": NAME}
    return Notification(id=uuid4(), channel="webhook", target=target, body='{"a": "ü"}', attempt=1)


def webhook(**options: Any) -> Webhook:
    return Webhook(**{"secrets": {NAME: SECRET}, "development": True, **options})


@dataclass
class Outbox:
    """What failed is due again at the next look."""

    due: list[Notification]
    outcomes: dict[UUID, list[str | None]] = field(default_factory=dict[UUID, list[str | None]])
    lost: int = 0
    """So many outcomes can not be stored."""
    taken: dict[UUID, Notification] = field(default_factory=dict[UUID, Notification])
    looks: int = 0

    async def notifications(self, worker_id: UUID, n: int, channels: Sequence[str]) -> list[Notification]:
        self.looks += 1
        found = [each for each in self.due if each.channel in channels][:n]
        self.due = [each for each in self.due if each not in found]
        self.taken |= {each.id: each for each in found}
        return found

    async def notified(self, worker_id: UUID, notification_id: UUID, error: str | None) -> None:
        if self.lost:
            self.lost -= 1
            self.due.append(self.taken[notification_id])
            raise StoreUnavailable("gone")
        self.outcomes.setdefault(notification_id, []).append(error)
        if error is not None:
            self.due.append(self.taken[notification_id])

    def delivered(self, *messages: Notification) -> bool:
        return all(self.outcomes.get(each.id, [""])[-1] is None for each in messages)


@asynccontextmanager
async def notifying(outbox: Outbox, *channels: Channel, idle_look_s: float = 0.01) -> AsyncIterator[Notifier]:
    notifier = Notifier(outbox, uuid4(), channels, idle_look_s=idle_look_s)
    task = asyncio.create_task(notifier.run())
    try:
        yield notifier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
