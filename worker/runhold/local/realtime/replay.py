"""Broadcast replay: the stored messages of a private topic, sent again to a channel that joins."""

import logging

import psycopg
from psycopg import sql

from runhold.local.realtime.database import Session
from runhold.local.realtime.errors import ChannelRefused
from runhold.local.realtime.frames import Broadcast
from runhold.local.realtime.jsontext import Json, JsonObject

logger = logging.getLogger("runhold.realtime.replay")

REPLAY_LIMIT = 25

_CODE = "UnableToReplayMessages"
# Years 1 to 9999, in milliseconds since 1970: what a timestamp of Postgres and of hosted projects can hold.
_EARLIEST_MS, _LATEST_MS = -62_135_596_800_000, 253_402_300_799_999


async def stored_messages(session: Session, topic: str, request: JsonObject) -> list[Broadcast]:
    """Read the messages that the join option `replay` names, oldest first.

    `request`: `since` in milliseconds since 1970 (default 0), and `limit`, brought into 1..25 (default 25).
    `topic`: without prefix. Raises ChannelRefused if a value is invalid or the database does not answer.
    """
    since = _integer(request.get("since"), default=0)
    limit = max(1, min(_integer(request.get("limit"), default=REPLAY_LIMIT), REPLAY_LIMIT))
    if not _EARLIEST_MS <= since <= _LATEST_MS:
        raise _invalid()
    # Rows of one transaction have one time: their place in the table then gives their order.
    query = sql.SQL(
        """
        select id::text, event, payload::text, binary_payload
        from realtime.messages
        where topic = {} and private and extension = 'broadcast' and event is not null
          and inserted_at >= timestamp 'epoch' + {} * interval '1 millisecond'
          and inserted_at < now() at time zone 'UTC' + interval '1 minute'
        order by inserted_at desc, ctid desc
        limit {}
        """
    ).format(sql.Literal(topic), sql.Literal(since), sql.Literal(limit))
    try:
        [rows] = await session.run(query)
    except psycopg.Error as exc:
        logger.warning("messages on %r could not be replayed, the join is refused: %s", topic, exc)
        raise ChannelRefused(_CODE, "Realtime was unable to replay messages") from exc
    return [
        Broadcast.of_json(event, payload or "{}", message_id=message_id, replayed=True)
        if binary is None
        else Broadcast.of_bytes(event, binary, message_id=message_id, replayed=True)
        for message_id, event, payload, binary in reversed(rows)
    ]


def public_refusal() -> ChannelRefused:
    """Answer the refusal of a replay on a public channel."""
    return ChannelRefused(_CODE, "Replay is not allowed for public channels")


def _integer(value: Json, *, default: int) -> int:
    if value is None or value is False:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid()
    return value


def _invalid() -> ChannelRefused:
    return ChannelRefused(_CODE, "Replay params are not valid")
