"""Socket frames: JSON objects (1.0.0), JSON arrays (2.0.0) and the binary broadcast frames of 2.0.0."""

from dataclasses import dataclass, field
from enum import StrEnum

from runhold.local.realtime import jsontext
from runhold.local.realtime.errors import FrameError
from runhold.local.realtime.jsontext import Json, JsonObject

TOPIC_PREFIX = "realtime:"

_PUSH_KIND = 3
_BROADCAST_KIND = 4
_RAW_ENCODING = 0
_JSON_ENCODING = 1
_LENGTH_LIMIT = 255  # lengths in binary frames are one byte


class Version(StrEnum):
    """Serializer a socket asked for with `vsn`."""

    V1 = "1.0.0"
    V2 = "2.0.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Broadcast:
    """One broadcast message on its way to the members of a topic.

    `text`: the JSON text of the whole `broadcast` payload, exactly as it will be sent; None for raw bytes.
    `raw`: the bytes of a binary broadcast, which only 2.0.0 sockets can receive. `message_id`: id of the row
    in `realtime.messages` for messages that came from the database. `meta`: what clients receive beside the
    payload, as JSON text; empty for messages that did not come from the database.
    """

    event: str
    text: str | None = None
    raw: bytes = b""
    message_id: str | None = None
    meta: str = ""

    @classmethod
    def of_json(
        cls, event: str, payload: str, *, message_id: str | None = None, replayed: bool = False
    ) -> "Broadcast":
        """From the JSON text of the inner payload. The text is kept as it is: numbers keep every digit."""
        meta = _meta(message_id, replayed)
        member = f',"meta":{meta}' if meta else ""
        text = f'{{"type":"broadcast","event":{jsontext.dumps(event)},"payload":{payload}{member}}}'
        return cls(event=event, text=text, message_id=message_id, meta=meta)

    @classmethod
    def of_bytes(
        cls, event: str, payload: bytes, *, message_id: str | None = None, replayed: bool = False
    ) -> "Broadcast":
        """From raw bytes."""
        return cls(event=event, raw=payload, message_id=message_id, meta=_meta(message_id, replayed))

    @property
    def size(self) -> int:
        """Bytes of content, to compare with the size limit."""
        return len(self.raw) if self.text is None else len(self.text.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """One decoded client frame. `broadcast` is set for event `broadcast`, in place of the payload."""

    topic: str
    event: str
    ref: str | None
    join_ref: str | None
    payload: JsonObject = field(default_factory=dict[str, Json])
    broadcast: Broadcast | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """One frame to a client. `payload` is JSON text, so that values of Postgres reach the client digit for
    digit.
    """

    topic: str
    event: str
    payload: str
    ref: str | None = None
    join_ref: str | None = None


def decode_text(version: Version, text: str) -> Incoming:
    """Decode a text frame. Raises FrameError."""
    try:
        value = jsontext.loads(text)
    except ValueError as exc:
        raise FrameError(f"not JSON: {exc}") from exc
    if version is Version.V1:
        join_ref, ref, topic, event, payload = _fields_of_object(value)
    else:
        join_ref, ref, topic, event, payload = _fields_of_array(value)
    if not isinstance(topic, str) or not isinstance(event, str):
        raise FrameError("topic and event must be strings")
    if not isinstance(payload, dict):
        raise FrameError("payload must be an object")
    broadcast: Broadcast | None = None
    if event == "broadcast":
        name = payload.get("event")
        broadcast = Broadcast(event=name if isinstance(name, str) else "", text=jsontext.dumps(payload))
    return Incoming(
        topic=topic, event=event, ref=_ref(ref), join_ref=_ref(join_ref), payload=payload, broadcast=broadcast
    )


def decode_binary(version: Version, data: bytes) -> Incoming:
    """Decode a binary push (kind 3), which is always a broadcast. Raises FrameError."""
    if version is Version.V1:
        raise FrameError("binary frames need vsn 2.0.0")
    if len(data) < 7 or data[0] != _PUSH_KIND:
        raise FrameError("not a binary push")
    lengths, encoding = data[1:6], data[6]
    parts: list[str] = []
    offset = 7
    for length in lengths:
        if offset + length > len(data):
            raise FrameError("binary push is shorter than its lengths say")
        parts.append(data[offset : offset + length].decode(errors="replace"))
        offset += length
    join_ref, ref, topic, event, _metadata = parts
    body = data[offset:]
    if encoding == _JSON_ENCODING:
        try:
            text = body.decode()
            jsontext.loads(text)
        except ValueError as exc:
            raise FrameError(f"payload of a binary push is not JSON: {exc}") from exc
        broadcast = Broadcast.of_json(event, text)
    elif encoding == _RAW_ENCODING:
        broadcast = Broadcast.of_bytes(event, body)
    else:
        raise FrameError(f"unknown payload encoding {encoding}")
    return Incoming(
        topic=topic, event="broadcast", ref=ref or None, join_ref=join_ref or None, broadcast=broadcast
    )


def encode(version: Version, frame: Outgoing) -> str:
    """Encode a frame as text. 1.0.0 always has the key `ref`: realtime-py drops frames without it."""
    ref, topic, event = jsontext.dumps(frame.ref), jsontext.dumps(frame.topic), jsontext.dumps(frame.event)
    if version is Version.V1:
        return f'{{"topic":{topic},"event":{event},"payload":{frame.payload},"ref":{ref}}}'
    return f"[{jsontext.dumps(frame.join_ref)},{ref},{topic},{event},{frame.payload}]"


def encode_broadcast(
    version: Version, topic: str, message: Broadcast, *, join_ref: str | None = None
) -> str | bytes | None:
    """Encode a broadcast. None = the client cannot get it: raw bytes on 1.0.0, or names over 255 bytes."""
    if message.text is not None:
        return encode(
            version, Outgoing(topic=topic, event="broadcast", payload=message.text, join_ref=join_ref)
        )
    if version is Version.V1:
        return None
    fields = [topic.encode(), message.event.encode(), message.meta.encode()]
    if any(len(part) > _LENGTH_LIMIT for part in fields):
        return None
    head = bytes([_BROADCAST_KIND, *(len(part) for part in fields), _RAW_ENCODING])
    return b"".join([head, *fields, message.raw])


def _meta(message_id: str | None, replayed: bool) -> str:
    if message_id is None:
        return ""
    return jsontext.dumps({"replayed": True, "id": message_id} if replayed else {"id": message_id})


def _fields_of_object(value: Json) -> tuple[Json, Json, Json, Json, Json]:
    if not isinstance(value, dict):
        raise FrameError("a 1.0.0 frame must be an object")
    missing = [name for name in ("topic", "event", "payload", "ref") if name not in value]
    if missing:
        raise FrameError(f"frame lacks {', '.join(missing)}")
    return value.get("join_ref"), value["ref"], value["topic"], value["event"], value["payload"]


def _fields_of_array(value: Json) -> tuple[Json, Json, Json, Json, Json]:
    if not isinstance(value, list) or len(value) != 5:
        raise FrameError("a 2.0.0 frame must be an array of five")
    join_ref, ref, topic, event, payload = value
    return join_ref, ref, topic, event, payload


def _ref(value: Json) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise FrameError("ref and join_ref must be strings or null")
