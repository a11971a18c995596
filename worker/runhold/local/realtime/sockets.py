"""One WebSocket: frames in, frames out, and the joins and leaves of its channels."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from aiohttp import ClientConnectionError, WSMsgType, web

from runhold.local.realtime.channels import Channel, Services, read_rights, reply
from runhold.local.realtime.errors import ChannelRefused, FrameError
from runhold.local.realtime.frames import (
    TOPIC_PREFIX,
    Broadcast,
    Incoming,
    Outgoing,
    Version,
    decode_binary,
    decode_text,
    encode,
    encode_broadcast,
)
from runhold.local.realtime.joins import JoinRequest, no_read_right
from runhold.local.realtime.tokens import OPAQUE_KEY_PREFIX

logger = logging.getLogger("runhold.realtime.sockets")

FRAME_LIMIT_BYTES = 5_000_000
# Clients send a heartbeat every 25 s; a socket silent for longer is dead.
SILENCE_LIMIT_S = 60.0
# A client that reads slower than it is sent to is cut off before it fills the memory; it reconnects and
# rejoins.
OUTBOX_LIMIT_BYTES = 64 * 1024 * 1024

_HEARTBEAT_TOPIC = "phoenix"


class Socket:
    """A connected client. Frames are handled one at a time, in their order."""

    def __init__(
        self,
        response: web.WebSocketResponse,
        *,
        services: Services,
        version: Version,
        api_key: str,
        headers: Mapping[str, str],
        abort: Callable[[], None],
    ) -> None:
        """`headers`: the `x-…` headers of the handshake. `abort`: drops the connection without waiting for
        anything.
        """
        self._headers = headers
        self._response = response
        self._services = services
        self._version = version
        self._api_key = api_key
        self._abort = abort
        self._channels: dict[str, Channel] = {}
        self._outbox: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._outbox_bytes = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """The `x-…` headers of the handshake (see Outlet)."""
        return self._headers

    async def run(self) -> None:
        """Serve the client until one of both sides closes."""
        tasks = {
            asyncio.create_task(self._read(), name="realtime-socket-reader"),
            asyncio.create_task(self._write(), name="realtime-socket-writer"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for channel in self._channels.values():
                channel.shut()
            self._channels.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # raises what ended it, if that was a fault of ours

    async def close(self, code: int, reason: str) -> None:
        """Close the connection from this side."""
        await self._response.close(code=code, message=reason.encode())

    def send(self, frame: Outgoing) -> None:
        """Queue a frame."""
        self._queue(encode(self._version, frame))

    def send_broadcast(self, topic: str, message: Broadcast, *, join_ref: str | None = None) -> None:
        """Queue a broadcast, if this client can receive it. `join_ref`: of the channel, for a replay."""
        data = encode_broadcast(self._version, topic, message, join_ref=join_ref)
        if data is None:
            logger.debug("raw broadcast %r not sent to a %s socket", message.event, self._version.value)
        else:
            self._queue(data)

    def _queue(self, data: str | bytes) -> None:
        self._outbox_bytes += len(data)
        if self._outbox_bytes > OUTBOX_LIMIT_BYTES:
            logger.warning(
                "client reads too slowly: %d bytes wait for it, dropping the connection", self._outbox_bytes
            )
            self._abort()
            return
        self._outbox.put_nowait(data)

    async def _write(self) -> None:
        while True:
            data = await self._outbox.get()
            self._outbox_bytes -= len(data)
            try:
                if isinstance(data, str):
                    await self._response.send_str(data)
                else:
                    await self._response.send_bytes(data)
            except ClientConnectionError:
                return  # the client has gone

    async def _read(self) -> None:
        while True:
            try:
                message = await self._response.receive(timeout=SILENCE_LIMIT_S)
            except TimeoutError:
                logger.info("client silent for %.0f s, closing", SILENCE_LIMIT_S)
                await self.close(1000, "silent")
                return
            if message.type is WSMsgType.ERROR:
                logger.info("socket failed: %s", message.data)
                return
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            try:
                frame = (
                    decode_text(self._version, message.data)
                    if message.type is WSMsgType.TEXT
                    else decode_binary(self._version, message.data)
                )
            except FrameError as exc:
                logger.warning("frame ignored: %s", exc)
                continue
            try:
                await self._handle(frame)
            except Exception:
                # One channel crashed, not the socket: its client is told to join again.
                logger.exception("%s on %r failed", frame.event, frame.topic)
                self._crash(frame)

    async def _handle(self, frame: Incoming) -> None:
        channel = self._channels.get(frame.topic)
        if frame.topic == _HEARTBEAT_TOPIC and frame.event == "heartbeat":
            self.send(reply(frame, {}, join_ref=None))
        elif frame.event == "phx_join":
            await self._join(frame)
        elif frame.event == "phx_leave":
            self.send(reply(frame, {}, join_ref=channel.join_ref if channel else frame.join_ref))
            if channel is not None:
                # At once: realtime-py takes the next phx_close of this topic for its own, also after a new
                # join.
                self._forget(channel)
                channel.close()
        elif channel is None:
            self.send(reply(frame, {"reason": "unmatched topic"}, status="error", join_ref=frame.join_ref))
        else:
            await channel.handle(frame)

    async def _join(self, frame: Incoming) -> None:
        if not frame.topic.startswith(TOPIC_PREFIX):
            self._refuse(frame, "unmatched topic")
            return
        sub_topic = frame.topic.removeprefix(TOPIC_PREFIX)
        if not sub_topic:
            self._refuse(frame, "TopicNameRequired: You must provide a topic name")
            return
        former = self._channels.pop(frame.topic, None)
        if former is not None:
            former.close()
        try:
            channel = await self._admit(frame, sub_topic, JoinRequest.parse(frame.payload))
        except ChannelRefused as exc:
            self._refuse(frame, str(exc))
            return
        self._channels[frame.topic] = channel
        await channel.open(frame)

    async def _admit(self, frame: Incoming, sub_topic: str, request: JoinRequest) -> Channel:
        """Verify the token, ask the policies and load what is to be replayed. Raises ChannelRefused."""
        token = request.token
        if token is None or token.startswith(OPAQUE_KEY_PREFIX):
            token = self._api_key
        claims = self._services.keyring.verify(token)
        readable = await read_rights(
            self._services,
            self,
            sub_topic,
            claims,
            private=request.private,
            presence=request.presence_enabled,
        )
        if not readable:
            raise no_read_right(sub_topic)
        request.check_replay(sub_topic, readable)
        channel = Channel(
            outlet=self,
            services=self._services,
            frame=frame,
            request=request,
            token=token,
            claims=claims,
            readable=readable,
            on_end=self._forget,
        )
        await channel.load()
        return channel

    def _refuse(self, frame: Incoming, reason: str) -> None:
        self.send(reply(frame, {"reason": reason}, status="error", join_ref=frame.join_ref))

    def _forget(self, channel: Channel) -> None:
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    def _crash(self, frame: Incoming) -> None:
        channel = self._channels.pop(frame.topic, None)
        join_ref = frame.join_ref
        if channel is not None:
            channel.shut()
            join_ref = channel.join_ref
        self.send(
            Outgoing(topic=frame.topic, event="phx_error", payload="{}", ref=join_ref, join_ref=join_ref)
        )
