"""Tells reviewers by a webhook.

Requests are signed as https://www.standardwebhooks.com says: ``webhook-id`` stays the same however often a message
is sent, ``webhook-signature`` is an HMAC-SHA256 over id, timestamp and body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import urlsplit

import httpx

from runhold.runtime.hosts import is_loopback
from runhold.runtime.notifications import SLOTS, Undeliverable
from runhold.store.records import Notification
from runhold.tls import tls_context

ATTEMPT_S: Final = 10.0
"""For one delivery in all."""

_SECRET_PREFIX: Final = "whsec_"


class Webhook:
    """Posts messages to the addresses that agent types name.

    :param secrets: the worker's webhook secrets by the names of their variables.
    :param development: whether plain http to this machine is allowed.
    """

    name: ClassVar[str] = "webhook"

    def __init__(
        self, secrets: Mapping[str, str], *, development: bool, attempt_s: float = ATTEMPT_S
    ) -> None:
        self.attempt_s = attempt_s
        self._secrets = secrets
        self._development = development
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def deliver(self, message: Notification) -> None:
        """Post it and wait for the status.

        :raises Undeliverable: any answer but 2xx, or none.
        """
        url, secret_name = str(message.target["url"]), str(message.target["secret_name"])
        refuse_address(url, development=self._development)
        secret = self._secrets.get(secret_name)
        if not secret:
            raise Undeliverable(f"this worker has no {secret_name} in its environment")
        message_id, timestamp, body = f"msg_{message.id}", int(time.time()), message.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "runhold",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, message_id, timestamp, body),
        }
        try:
            async with self._client(url).stream("POST", url, content=body, headers=headers) as response:
                if not response.is_success:  # a redirect, too: it is not followed
                    raise Undeliverable(f"it answered {response.status_code}")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Undeliverable(f"no answer: {type(error).__name__}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, url: str) -> httpx.AsyncClient:
        scheme = urlsplit(url).scheme
        if scheme not in self._clients:
            limits = httpx.Limits(max_connections=SLOTS, max_keepalive_connections=SLOTS // 4)
            self._clients[scheme] = httpx.AsyncClient(
                verify=tls_context(url), timeout=self.attempt_s, limits=limits, follow_redirects=False
            )
        return self._clients[scheme]


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
