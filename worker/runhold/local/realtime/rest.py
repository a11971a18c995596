"""Broadcast over HTTP: a batch of messages, or one message whose payload is the body."""

import logging
from urllib.parse import unquote

from aiohttp import web

from runhold.local.realtime import jsontext
from runhold.local.realtime.authorization import BROADCAST
from runhold.local.realtime.channels import BROADCAST_LIMIT_BYTES, Services
from runhold.local.realtime.errors import TokenError
from runhold.local.realtime.frames import Broadcast
from runhold.local.realtime.jsontext import Json
from runhold.local.realtime.tokens import Claims

logger = logging.getLogger("runhold.realtime.rest")

BATCH_PATH = "/realtime/v1/api/broadcast"


class BroadcastApi:
    """The two endpoints. Both answer 202 with an empty body."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def send_batch(self, request: web.Request) -> web.Response:
        """`{"messages": [{"topic", "event", "payload", "private"}]}`. Private ones without write right are
        skipped.
        """
        claims = self._claims(request)
        if claims is None:
            return _message(401, "Unauthorized")
        try:
            body = jsontext.loads(await request.read())
        except ValueError:
            return _errors({"messages": ["is not JSON"]})
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list):
            return _errors({"messages": ["can't be blank"]})
        problems = [_problems(message) for message in messages]
        if any(problems):
            return _errors({"messages": [*problems]})
        writable: dict[str, bool] = {}
        for message in messages:
            assert isinstance(message, dict)
            topic, event = str(message["topic"]), str(message["event"])
            private = message.get("private") is True
            if not self._services.hub.has_members((topic, private)):
                continue  # nobody would hear it, so the policies need not be asked; the answer is the same
            if private and topic not in writable:
                writable[topic] = await self._may_write(request, topic, claims)
            if private and not writable[topic]:
                logger.info("message on %r skipped: role %s has no write right", topic, claims.role)
                continue
            self._publish(
                topic, Broadcast.of_json(event, jsontext.dumps(message["payload"])), private=private
            )
        return web.Response(status=202)

    async def send_one(self, request: web.Request, topic: str, event: str) -> web.Response:
        """The body is the payload: JSON, or raw bytes as application/octet-stream. `topic` and `event` are
        decoded.
        """
        claims = self._claims(request)
        if claims is None:
            return _message(401, "Unauthorized")
        content_type = request.content_type if "Content-Type" in request.headers else ""
        body = await request.read()
        if content_type == "application/octet-stream":
            message = Broadcast.of_bytes(event, body)
        elif content_type == "application/json":
            try:
                text = body.decode()
                jsontext.loads(text)
            except ValueError:
                return _errors({"payload": ["is not JSON"]})
            message = Broadcast.of_json(event, text)
        else:
            return _message(415, "Unsupported Media Type")
        private = request.query.get("private") == "true"
        if private and not await self._may_write(request, topic, claims):
            return _message(403, "Unauthorized")
        if message.size > BROADCAST_LIMIT_BYTES:
            return _errors({"payload": ["payload_size_exceeded"]})
        self._publish(topic, message, private=private)
        return web.Response(status=202)

    def _publish(self, topic: str, message: Broadcast, *, private: bool) -> None:
        if message.size > BROADCAST_LIMIT_BYTES:
            logger.warning("message of %d bytes on %r dropped: too large", message.size, topic)
        else:
            self._services.hub.publish((topic, private), message)

    async def _may_write(self, request: web.Request, topic: str, claims: Claims) -> bool:
        return await self._services.authorizer.may_write(topic, claims, custom_headers(request), BROADCAST)

    def _claims(self, request: web.Request) -> Claims | None:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        token = (
            bearer.strip()
            if scheme.lower() == "bearer" and bearer.strip()
            else request.headers.get("apikey", "")
        )
        try:
            return self._services.keyring.verify(token)
        except TokenError as exc:
            logger.info("broadcast refused: %s", exc)
            return None


def single_target(raw_path: str) -> tuple[str, str] | None:
    """Topic and event of `…/broadcast/{topic}/events/{event}`, or None.

    On the path as it was sent: both names may contain an encoded "/".
    """
    parts = raw_path.removeprefix(f"{BATCH_PATH}/").split("/")
    if not raw_path.startswith(f"{BATCH_PATH}/") or len(parts) != 3 or parts[1] != "events":
        return None
    topic, event = unquote(parts[0]), unquote(parts[2])
    return (topic, event) if topic and event else None


def custom_headers(request: web.Request) -> dict[str, str]:
    """The `x-…` headers, for policies that read `request.headers`."""
    return {name.lower(): value for name, value in request.headers.items() if name.lower().startswith("x-")}


def _problems(message: Json) -> dict[str, Json]:
    if not isinstance(message, dict):
        return {"message": ["is invalid"]}
    problems: dict[str, Json] = {}
    for name in ("topic", "event"):
        value = message.get(name)
        if not isinstance(value, str) or not value:
            problems[name] = ["can't be blank" if value in (None, "") else "is invalid"]
    payload = message.get("payload")
    if not isinstance(payload, dict):
        problems["payload"] = ["can't be blank" if payload is None else "is invalid"]
    return problems


def _errors(errors: dict[str, Json]) -> web.Response:
    return web.json_response({"errors": errors}, status=422)


def _message(status: int, text: str) -> web.Response:
    return web.json_response({"message": text}, status=status)
