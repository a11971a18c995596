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
from runhold.local.realtime.errors import ChannelRefused, SubscriptionError
from runhold.local.realtime.frames import TOPIC_PREFIX, Broadcast, Incoming, Outgoing
from runhold.local.realtime.hub import Group, Hub
from runhold.local.realtime.joins import JoinRequest, no_read_right
from runhold.local.realtime.jsontext import Json, JsonObject
from runhold.local.realtime.presence import Presence
from runhold.local.realtime.replay import stored_messages
from runhold.local.realtime.subscriptions import Subscription, SubscriptionRegistry, check_binding
from runhold.local.realtime.tokens import OPAQUE_KEY_PREFIX, Claims, Keyring

logger = logging.getLogger("runhold.realtime.channels")

BROADCAST_LIMIT_BYTES = 3_000_000  # as hosted on paid plans


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What all sockets share."""

    keyring: Keyring
    hub: Hub
    presence: Presence
    registry: SubscriptionRegistry
    authorizer: Authorizer
    session: Session


class Outlet(Protocol):
    """The socket, as a channel sees it. `headers`: the `x-…` headers of its handshake, for policies."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def send(self, frame: Outgoing) -> None: ...

    def send_broadcast(self, topic: str, message: Broadcast, *, join_ref: str | None = None) -> None: ...


class Channel:
    """A joined topic. Create it when the caller's token is verified and its read rights are known.

    `readable`: the extensions it may read. `on_end` is called once, when the channel ends by itself: its token
    expired or lost its rights.
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
        self._writable: dict[str, bool] = {}
        self._presence_enabled = request.presence_enabled
        # Until the join is answered, broadcasts of others wait here.
        self._waiting: list[Broadcast] | None = []
        self._replayed: list[Broadcast] = []
        self._replayed_ids: set[str | None] = set()
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

    async def load(self) -> None:
        """Join the group, and read the messages to replay.

        In this order: what is sent meanwhile waits, so that the client misses nothing and receives nothing twice.
        Raises ChannelRefused; the channel is shut then.
        """
        self._open = True
        self._services.hub.join(self._group, self)
        if self._request.replay is None:
            return
        try:
            self._replayed = await stored_messages(
                self._services.session, self.sub_topic, self._request.replay
            )
        except BaseException:
            self.shut()
            raise
        self._replayed_ids = {message.message_id for message in self._replayed}

    async def open(self, frame: Incoming) -> None:
        """Register everywhere, answer the join, then say whether its subscriptions hold.

        Registration comes first: what commits right after the client knows it is subscribed must reach it.
        """
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
        for message in self._replayed:
            self._outlet.send_broadcast(self.topic, message, join_ref=self.join_ref)
        waiting, self._waiting, self._replayed = self._waiting or [], None, []
        for message in waiting:
            self.receive(message)
        if self._request.replication_ready:
            self._system("ok", "system", "Replication connection established")
        if self._presence_enabled:
            self._send_presence_state()
        await self._check_bindings()

    def shut(self) -> None:
        """Deregister everywhere, silently."""
        self._open = False
        self._unsubscribe()
        self._services.hub.leave(self._group, self)
        self._services.presence.untrack(self._group, self)
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
                await self._change_presence(frame)
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
        if not await self._may_write(BROADCAST):
            logger.info(
                "broadcast on %r dropped: role %s has no write right", self.sub_topic, self._claims.role
            )
            if self._request.acknowledged:
                self._reply(frame, {"reason": "Unauthorized"}, status="error")
            return
        self._services.hub.publish(self._group, message, without=None if self._request.receives_own else self)
        if self._request.acknowledged:
            self._reply(frame, {})

    async def _may_write(self, extension: str) -> bool:
        if not self._request.private:
            return True
        if extension not in self._writable:
            self._writable[extension] = await self._services.authorizer.may_write(
                self.sub_topic, self._claims, self._outlet.headers, extension
            )
        return self._writable[extension]

    async def _change_presence(self, frame: Incoming) -> None:
        """Track or untrack the client. Pushes of presence are always answered."""
        event = frame.payload.get("event")
        match event.lower() if isinstance(event, str) else event:
            case "track":
                await self._track(frame)
            case "untrack":
                self._services.presence.untrack(self._group, self)
                self._reply(frame, {})
            case None:
                self._reply(frame, {})
            case _:
                logger.info("unknown presence event %r on %r refused", event, self.sub_topic)
                self._reply(frame, {}, status="error")

    async def _track(self, frame: Incoming) -> None:
        if not await self._may_write(PRESENCE):
            logger.info("track on %r refused: role %s has no write right", self.sub_topic, self._claims.role)
            self._reply(frame, {}, status="error")
            return
        data = frame.payload.get("payload", {})
        if not isinstance(data, dict):
            self._reply(frame, {"reason": "Presence track payload must be a map"}, status="error")
            return
        if len(jsontext.dumps(data).encode()) > BROADCAST_LIMIT_BYTES:
            self._end("Track message size exceeded")
            return
        # Whoever tracks takes part in presence, also if its join did not ask for it.
        late = not self._presence_enabled
        if late:
            try:
                self._readable = await self._read_rights(presence=True)
            except ChannelRefused:
                self._reply(frame, {}, status="error")
                return
            self._presence_enabled = True
        if not self._open:
            return  # ended while the policies were asked
        self._services.presence.track(self._group, self, self._request.presence_key, data)
        self._reply(frame, {})
        if late:
            self._send_presence_state()

    def _send_presence_state(self) -> None:
        if PRESENCE in self._readable:
            self._send("presence_state", self._services.presence.state(self._group), join_ref=self.join_ref)

    async def _change_token(self, frame: Incoming) -> None:
        token = frame.payload.get("access_token")
        if not isinstance(token, str) or token.startswith(OPAQUE_KEY_PREFIX) or token == self._token:
            return
        try:
            claims = self._services.keyring.verify(token)
            self._token, self._claims = token, claims
            self._writable.clear()
            self._arm_expiry()
            readable = await self._read_rights(presence=self._presence_enabled)
            if not readable:
                raise no_read_right(self.sub_topic)
        except ChannelRefused as exc:
            self._end(exc.text)
            return
        if not self._readable <= readable:
            self._end(f"You no longer have permission to read from this Channel topic: {self.sub_topic}")
            return
        self._readable = readable
        if self._open:
            self._unsubscribe()
            self._subscribe()
            await self._check_bindings()

    async def _read_rights(self, *, presence: bool) -> set[str]:
        return await read_rights(
            self._services,
            self._outlet,
            self.sub_topic,
            self._claims,
            private=self._request.private,
            presence=presence,
        )

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

    # What others send (see Member)

    def receive(self, message: Broadcast) -> None:
        """Send a broadcast to the client, unless it has been replayed to it."""
        if not self._open or BROADCAST not in self._readable:
            return
        if self._waiting is not None:
            self._waiting.append(message)
        elif message.message_id is None or message.message_id not in self._replayed_ids:
            self._outlet.send_broadcast(self.topic, message)

    def receive_presence(self, diff: str) -> None:
        """Send a change of presence to the client. Before its join is answered it knows no state to change."""
        if self._open and self._waiting is None and PRESENCE in self._readable:
            self._outlet.send(Outgoing(topic=self.topic, event="presence_diff", payload=diff))

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
    services: Services, outlet: Outlet, sub_topic: str, claims: Claims, *, private: bool, presence: bool
) -> set[str]:
    """Answer the extensions that a caller may read on a topic: all of them on a public one.

    On a private one the policies decide; `presence` says whether they are asked about presence, too. Raises
    ChannelRefused.
    """
    if not private:
        return {BROADCAST, PRESENCE}
    extensions = [BROADCAST, PRESENCE] if presence else [BROADCAST]
    return await services.authorizer.readable(sub_topic, claims, outlet.headers, extensions)


def reply(frame: Incoming, response: JsonObject, *, status: str = "ok", join_ref: str | None) -> Outgoing:
    """The answer to a frame."""
    payload = jsontext.dumps({"status": status, "response": response})
    return Outgoing(topic=frame.topic, event="phx_reply", payload=payload, ref=frame.ref, join_ref=join_ref)
