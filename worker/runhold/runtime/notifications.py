"""Tells reviewers outside of Supabase: delivers the outbox of review requests to webhooks, at least once.

Requests are signed as https://www.standardwebhooks.com says: ``webhook-id`` stays the same however often a message
is sent, ``webhook-signature`` is an HMAC-SHA256 over id, timestamp and body. An endpoint that is down or hangs holds
a few of the slots for a few seconds; everything else goes on.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import random
import time
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from runhold.errors import ConfigError, StoreError
from runhold.store.records import Notification

logger = logging.getLogger(__name__)

POLL_S: Final = 5.0
"""Between looks at the outbox: what a person who is told waits at most, beside the delivery itself."""

ATTEMPT_S: Final = 10.0
"""For one delivery in all. Far below the minute of a claim, so that its outcome is stored under the claim."""

SLOTS: Final = 64
"""Deliveries at once. An endpoint gets four of them with each look."""

_SECRET_PREFIX: Final = "whsec_"


class NotificationPort(Protocol):
    """The calls of the outbox. ``Gateway`` has them."""

    async def notifications(self, worker_id: UUID, n: int) -> list[Notification]: ...

    async def notified(self, worker_id: UUID, notification_id: UUID, error: str | None) -> None: ...


class Undeliverable(Exception):
    """This attempt failed; the text says why and holds no secret."""


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``.

    :param secret: ``whsec_`` and then base64, of 24 bytes or more.
    :raises Undeliverable: the secret is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:  # no base64, or not even ASCII
        key = b""
    if not secret.startswith(_SECRET_PREFIX) or len(key) < 24:
        raise Undeliverable("the secret must be whsec_ and base64 of at least 24 bytes")
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def refuse_address(url: str, *, development: bool) -> None:
    """Only https, and nothing on this machine, unless in development: there, plain http to this machine is fine.

    :raises Undeliverable: nothing may be sent there.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Undeliverable("the webhook's address can't be read") from None
    loopback = is_loopback(parts.hostname or "")
    if loopback and not development:
        raise Undeliverable("a webhook on the worker's own machine is for development only")
    if parts.scheme != "https" and not loopback:
        raise Undeliverable("a webhook must be an https:// address")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Notifier:
    """Looks at the outbox and delivers what is due, each message in a task of its own.

    :param secrets: the worker's webhook secrets by the names of their variables.
    :param development: whether plain http to this machine is allowed.
    """

    def __init__(
        self,
        port: NotificationPort,
        worker_id: UUID,
        *,
        secrets: Mapping[str, str],
        development: bool,
        poll_s: float = POLL_S,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        self._port = port
        self._worker_id = worker_id
        self._secrets = secrets
        self._development = development
        self._poll_s = poll_s
        self._attempt_s = attempt_s
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until cancelled. What is under way then is sent again by another worker."""
        limits = httpx.Limits(max_connections=SLOTS, max_keepalive_connections=SLOTS // 4)
        try:
            async with httpx.AsyncClient(
                timeout=self._attempt_s, limits=limits, follow_redirects=False
            ) as http:
                while True:
                    await self._look(http)
                    await asyncio.sleep(self._poll_s * random.uniform(0.75, 1.25))
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _look(self, http: httpx.AsyncClient) -> None:
        free = SLOTS - len(self._under_way)
        if free <= 0:
            return
        try:
            due = await self._port.notifications(self._worker_id, free)
        except (StoreError, ConfigError) as error:
            logger.warning("the outbox can't be read now: %s", error)
            return
        for each in due:
            task = asyncio.create_task(self._deliver(http, each), name=f"notification {each.id}")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, http: httpx.AsyncClient, message: Notification) -> None:
        error: str | None = None
        try:
            await self._post(http, message)
        except Undeliverable as reason:
            error = str(reason)
            logger.warning(
                "attempt %d to tell of a review (%s) failed: %s", message.attempt, message.id, error
            )
        try:
            await self._port.notified(self._worker_id, message.id, error)
        except (StoreError, ConfigError) as failure:
            logger.warning("a notification is sent again, its outcome could not be stored: %s", failure)

    async def _post(self, http: httpx.AsyncClient, message: Notification) -> None:
        refuse_address(message.url, development=self._development)
        secret = self._secrets.get(message.secret_name)
        if not secret:
            raise Undeliverable(f"this worker has no {message.secret_name} in its environment")
        message_id, timestamp, body = f"msg_{message.id}", int(time.time()), message.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "runhold",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, message_id, timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(self._attempt_s),
                http.stream("POST", message.url, content=body, headers=headers) as response,
            ):
                if not response.is_success:  # a redirect, too: it is not followed
                    raise Undeliverable(f"it answered {response.status_code}")
        except TimeoutError:
            raise Undeliverable(f"no answer within {self._attempt_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Undeliverable(f"no answer: {type(error).__name__}") from error
