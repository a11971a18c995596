"""Private channels: may this caller read or write this topic?

The answer is in the policies on `realtime.messages`. The server tries: it inserts a probe row and looks
whether the caller can see it, or inserts one as the caller; both in a transaction that is rolled back.
"""

import logging
import uuid
from collections.abc import Mapping

import psycopg
from psycopg import sql

from runhold.local.realtime import jsontext
from runhold.local.realtime.database import Session
from runhold.local.realtime.errors import ChannelRefused
from runhold.local.realtime.jsontext import Json
from runhold.local.realtime.tokens import Claims

logger = logging.getLogger("runhold.realtime.authorization")

BROADCAST = "broadcast"
PRESENCE = "presence"


class Authorizer:
    """Asks the policies. `session` is shared by all sockets; each question is one round trip."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def readable(
        self, topic: str, claims: Claims, headers: Mapping[str, str], extensions: list[str]
    ) -> set[str]:
        """Answer which of the extensions the caller may read on this topic (without prefix).

        A policy that fails counts as no right at all, and is logged. Raises ChannelRefused if the database does
        not answer, or not in time.
        """
        probes = {str(uuid.uuid4()): extension for extension in extensions}
        rows = [
            sql.SQL("({}, {}, {})").format(sql.Literal(probe), sql.Literal(topic), sql.Literal(extension))
            for probe, extension in probes.items()
        ]
        query = sql.SQL(
            "begin; insert into realtime.messages (id, topic, extension) values {}; {};"
            " select id::text from realtime.messages where id = any ({}::uuid[]); rollback"
        ).format(sql.SQL(", ").join(rows), _act_as(topic, claims, headers), sql.Literal(list(probes)))
        try:
            results = await self._session.run(query)
        except psycopg.errors.InsufficientPrivilege as exc:
            logger.info("no read right on %r for role %s: %s", topic, claims.role, exc)
            return set()
        except psycopg.errors.QueryCanceled as exc:
            logger.warning("read check on %r for role %s took too long, refused: %s", topic, claims.role, exc)
            raise ChannelRefused("QueryCanceled", "Query was cancelled, please try again") from exc
        except psycopg.OperationalError as exc:
            logger.warning("read check on %r failed, refused: the database does not answer: %s", topic, exc)
            raise ChannelRefused(
                "UnableToConnectToProject", "Realtime was unable to connect to the project database"
            ) from exc
        except psycopg.Error as exc:
            logger.warning("read check on %r for role %s failed, refused: %s", topic, claims.role, exc)
            return set()
        return {probes[row[0]] for row in results[-1]}

    async def may_write(self, topic: str, claims: Claims, headers: Mapping[str, str], extension: str) -> bool:
        """Answer whether the caller may send messages of this extension on this topic.

        A policy that fails counts as no, and is logged.
        """
        query = sql.SQL(
            "begin; {}; insert into realtime.messages (topic, extension) values ({}, {}); rollback"
        ).format(_act_as(topic, claims, headers), sql.Literal(topic), sql.Literal(extension))
        try:
            await self._session.run(query)
        except psycopg.errors.InsufficientPrivilege:
            return False
        except psycopg.Error as exc:
            logger.warning("write check on %r for role %s failed, refused: %s", topic, claims.role, exc)
            return False
        return True


def _act_as(topic: str, claims: Claims, headers: Mapping[str, str]) -> sql.Composed:
    header_values: dict[str, Json] = dict(headers)
    settings = {
        "role": claims.role,
        "realtime.topic": topic,
        "request.jwt.claims": claims.text,
        "request.jwt.claim.sub": claims.subject,
        "request.jwt.claim.role": claims.role,
        "request.headers": jsontext.dumps(header_values),
    }
    return sql.SQL("select {}").format(
        sql.SQL(", ").join(
            sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
            for name, value in settings.items()
        )
    )
