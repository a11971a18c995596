"""One joined topic of one socket: its rights, its subscriptions, what it sends and receives."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import psycopg

from runhold.local.realtime import jsontext
from runhold.local.realtime.authorization import BROADCAST, PRESENCE, Authorizer
from runhold.local.realtime.bindings import Binding, binding_ids, parse_binding
from runhold.local.realtime.database import Session
from runhold.local.realtime.errors import SubscriptionError, TokenError
from runhold.local.realtime.frames import TOPIC_PREFIX, Broadcast, Incoming, Outgoing
from runhold.local.realtime.hub import Group, Hub
from runhold.local.realtime.jsontext import Json, JsonObject
from runhold.local.realtime.subscriptions import Subscription, SubscriptionRegistry, check_binding
from runhold.local.realtime.tokens import OPAQUE_KEY_PREFIX, Claims, Keyring

logger = logging.getLogger("runhold.realtime.channels")

BROADCAST_LIMIT_BYTES = 3_000_000  # as hosted on paid plans
UNKNOWN_ERROR = "Unknown Error on Channel"


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What all sockets share."""

    keyring: Keyring
    hub: Hub
    registry: SubscriptionRegistry
    authorizer: Authorizer
    session: Session


class Outlet(Protocol):
    """The socket, as a channel sees it. `headers`: the `x-…` headers of its handshake, for policies."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def send(self, frame: Outgoing) -> None: ...

    def send_broadcast(self, topic: str, message: Broadcast) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRequest:
    """The payload of a join. Parts may be missing, null or of a wrong type, which all mean the default."""

    token: str | None
    private: bool
    receives_own: bool
    acknowledged: bool
    replication_ready: bool
    presence_enabled: bool
    bindings: list[JsonObject]

    @classmethod
    def parse(cls, payload: JsonObject) -> "JoinRequest":
        """Read a join's payload."""
        config = _object(payload.get("config"))
        broadcast, presence = _object(config.get("broadcast")), _object(config.get("presence"))
        bindings = config.get("postgres_changes")
        token = payload.get("access_token") or payload.get("user_token")
        return cls(
            token=token if isinstance(token, str) else None,
            private=_flag(config.get("private")),
            receives_own=_flag(broadcast.get("self")),
            acknowledged=_flag(broadcast.get("ack")),
            replication_ready=_flag(broadcast.get("replication_ready")),
            presence_enabled=_flag(presence.get("enabled")),
            bindings=[binding for binding in bindings if isinstance(binding, dict)]
            if isinstance(bindings, list)
            else [],
        )


class Channel:
    """A joined topic. Create it when the caller's token is verified and, if private, its read right found.

    `on_end` is called once, when the channel ends by itself: its token expired or lost its rights.
    """

    def __init__(
        self,
        *,
        outlet: Outlet,
        services: Services,
        frame: Incoming,
        request: JoinRequest,
        token: str,
        claims: Claims,
        readable: set[str],
        on_end: Callable[["Channel"], None],
    ) -> None:
        self.topic = frame.topic
        self.sub_topic = frame.topic.removeprefix(TOPIC_PREFIX)
        self.join_ref = frame.join_ref
        self._outlet = outlet
        self._services = services
        self._request = request
        self._token: str = token
        self._claims = claims
        self._readable = readable
        self._on_end = on_end
        self._may_write: bool | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._open = False
        self._binding_ids = binding_ids(request.bindings)
        self._bindings: list[Binding] = []
        self._binding_error: SubscriptionError | None = None
        self._subscriptions: list[Subscription] = []

    @property
    def claims(self) -> Claims:
        """Whose rights the channel has now."""
        return self._claims

    @property
    def _group(self) -> Group:
        return self.sub_topic, self._request.private

    # Life cycle

    async def open(self, frame: Incoming) -> None:
        """Register everywhere, answer the join, then say whether its subscriptions hold.

        Registration comes first: what commits right after the client knows it is subscribed must reach it.
        """
        self._open = True
        self._services.hub.join(self._group, self)
        try:
            self._bindings = [
                parse_binding(request, binding_id)
                for request, binding_id in zip(self._request.bindings, self._binding_ids, strict=True)
            ]
        except SubscriptionError as exc:
            self._binding_error = exc
        self._subscribe()
        self._arm_expiry()
        echoes: list[Json] = [
            {**request, "id": binding_id}
            for request, binding_id in zip(self._request.bindings, self._binding_ids, strict=True)
        ]
        self._reply(frame, {"postgres_changes": echoes})
        if self._request.presence_enabled:
            # Nobody can track here, so the state is empty for ever; the clients wait for it.
            self._send("presence_state", {}, join_ref=self.join_ref)
        if self._request.replication_ready:
            self._system("ok", "system", "Replication connection established")
        await self._check_bindings()

    def shut(self) -> None:
        """Deregister everywhere, silently."""
        self._open = False
        self._unsubscribe()
        self._services.hub.leave(self._group, self)
        if self._expiry is not None:
            self._expiry.cancel()

    def close(self) -> None:
        """Deregister, and tell the client."""
        self.shut()
        self._outlet.send(
            Outgoing(
                topic=self.topic, event="phx_close", payload="{}", ref=self.join_ref, join_ref=self.join_ref
            )
        )

    def _end(self, text: str) -> None:
        if self._open:
            self._system("error", "system", text)
            self.close()
            self._on_end(self)

    def _arm_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        seconds = self._services.keyring.seconds_left(self._claims)
        if seconds is not None:
            self._expiry = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._expire)

    def _expire(self) -> None:
        expires_at = self._claims.expires_at
        seconds = self._services.keyring.seconds_left(self._claims)
        if expires_at is None or seconds is None or seconds > 0:
            self._arm_expiry()  # timers may be early, and the clock may have been set back
        else:
            self._end(self._services.keyring.expired_text(expires_at))

    # What the client pushes

    async def handle(self, frame: Incoming) -> None:
        """One frame of the client, other than join and leave."""
        match frame.event:
            case "broadcast":
                await self._broadcast(frame)
            case "access_token":
                await self._change_token(frame)
            case "presence":
                # Not served locally. An answer lets `track` fail at once instead of after its time limit.
                self._reply(
                    frame,
                    {"reason": "Presence is not available on the local Realtime server"},
                    status="error",
                )
            case _:
                pass  # unknown events are not answered

    async def _broadcast(self, frame: Incoming) -> None:
        message = frame.broadcast
        if message is None:
            return
        if message.size > BROADCAST_LIMIT_BYTES:
            logger.warning("broadcast of %d bytes on %r dropped: too large", message.size, self.sub_topic)
            if self._request.acknowledged:
                self._reply(frame, {"error": "payload_size_exceeded"}, status="error")
            return
        if self._request.private and not await self._writable():
            logger.info(
                "broadcast on %r dropped: role %s has no write right", self.sub_topic, self._claims.role
            )
            return
        self._services.hub.publish(self._group, message, without=None if self._request.receives_own else self)
        if self._request.acknowledged:
            self._reply(frame, {})

    async def _writable(self) -> bool:
        if self._may_write is None:
            self._may_write = await self._services.authorizer.may_write(
                self.sub_topic, self._claims, self._outlet.headers, BROADCAST
            )
        return self._may_write

    async def _change_token(self, frame: Incoming) -> None:
        token = frame.payload.get("access_token")
        if not isinstance(token, str) or token.startswith(OPAQUE_KEY_PREFIX) or token == self._token:
            return
        try:
            claims = self._services.keyring.verify(token)
        except TokenError as exc:
            self._end(exc.text)
            return
        self._token, self._claims, self._may_write = token, claims, None
        self._arm_expiry()
        if self._request.private:
            try:
                readable = await read_rights(
                    self._services, self._outlet, self.sub_topic, self._request, claims
                )
            except psycopg.Error:
                logger.exception("read check on %r failed", self.sub_topic)
                self._end(UNKNOWN_ERROR)
                return
            if not self._readable <= readable:
                self._end(f"You no longer have permission to read from this Channel topic: {self.sub_topic}")
                return
            self._readable = readable
        if self._open:
            self._unsubscribe()
            self._subscribe()
            await self._check_bindings()

    # Changes of tables

    def _subscribe(self) -> None:
        if self._binding_error is None:
            self._subscriptions = [Subscription(self, binding) for binding in self._bindings]
            for subscription in self._subscriptions:
                self._services.registry.add(subscription)

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._services.registry.remove(subscription)
        self._subscriptions = []

    async def _check_bindings(self) -> None:
        """Tell the client whether its bindings can be served. One that cannot takes all others with it."""
        if not self._request.bindings:
            return
        error = self._binding_error
        try:
            if error is None:
                for binding in self._bindings:
                    await check_binding(self._services.session, binding, self._claims.role)
        except SubscriptionError as exc:
            error = exc
        except psycopg.Error as exc:
            logger.exception("subscriptions of %r could not be checked", self.sub_topic)
            error = SubscriptionError(f"Unable to subscribe to changes: the database cannot be asked: {exc}")
        if not self._open:
            return  # ended meanwhile
        if error is None:
            self._system("ok", "postgres_changes", "Subscribed to PostgreSQL")
        else:
            self._unsubscribe()
            self._system("error", "postgres_changes", str(error))

    def push_change(self, binding_ids: list[int], data: str) -> None:
        """Send one change (see Subscriber)."""
        if self._open:
            payload = f'{{"ids":{jsontext.dumps([*binding_ids])},"data":{data}}}'
            self._outlet.send(Outgoing(topic=self.topic, event="postgres_changes", payload=payload))

    # Broadcasts of others

    def receive(self, message: Broadcast) -> None:
        """Send a broadcast to the client (see Member)."""
        if self._open and BROADCAST in self._readable:
            self._outlet.send_broadcast(self.topic, message)

    # Frames

    def _reply(self, frame: Incoming, response: JsonObject, *, status: str = "ok") -> None:
        self._outlet.send(reply(frame, response, status=status, join_ref=self.join_ref))

    def _system(self, status: str, extension: str, message: str) -> None:
        payload: JsonObject = {
            "message": message,
            "status": status,
            "extension": extension,
            "channel": self.sub_topic,
        }
        self._send("system", payload, join_ref=self.join_ref)

    def _send(self, event: str, payload: JsonObject, *, join_ref: str | None = None) -> None:
        self._outlet.send(
            Outgoing(topic=self.topic, event=event, payload=jsontext.dumps(payload), join_ref=join_ref)
        )


async def read_rights(
    services: Services, outlet: Outlet, sub_topic: str, request: JoinRequest, claims: Claims
) -> set[str]:
    """The extensions a caller may read on a topic; all of them on a public one. Raises `psycopg.Error`."""
    extensions = [BROADCAST, PRESENCE] if request.presence_enabled else [BROADCAST]
    if not request.private:
        return set(extensions)
    return await services.authorizer.readable(sub_topic, claims, outlet.headers, extensions)


def reply(frame: Incoming, response: JsonObject, *, status: str = "ok", join_ref: str | None) -> Outgoing:
    """The answer to a frame."""
    payload = jsontext.dumps({"status": status, "response": response})
    return Outgoing(topic=frame.topic, event="phx_reply", payload=payload, ref=frame.ref, join_ref=join_ref)


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _flag(value: Json) -> bool:
    return value is True or value == "true"
