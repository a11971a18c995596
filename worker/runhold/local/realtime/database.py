"""Connections of the server: a session that opens itself, and multi-statement queries on it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeAlias, cast

from psycopg import AsyncConnection, sql
from psycopg.abc import Query
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

Row: TypeAlias = tuple[Any, ...]

CONNECT_TIMEOUT_S = 5

# What values look like as text: the same on the connection that streams them and on those that cast them
# back.
_VALUE_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}


def connection_info(database_url: str, *, name: str, settings: Mapping[str, str] | None = None) -> str:
    """`database_url` completed with an application name and settings; its own `options` come first."""
    known = conninfo_to_dict(database_url)
    options = " ".join(
        [
            str(known.get("options") or ""),
            *(f"-c {key}={value}" for key, value in {**_VALUE_SETTINGS, **(settings or {})}.items()),
        ]
    ).strip()
    return make_conninfo(
        database_url,
        application_name=name,
        options=options,
        client_encoding="UTF8",
        connect_timeout=known.get("connect_timeout") or CONNECT_TIMEOUT_S,
    )


def trusted(text: str) -> sql.SQL:
    """SQL text made by Postgres itself (`format_type`, `pg_get_expr`): already quoted, so not to be quoted
    again.
    """
    return sql.SQL(cast("LiteralString", text))


class Session:
    """One autocommit connection, opened at first use and again after it broke. One user at a time.

    Queries are composed on this side and sent in one piece, so `begin; …; rollback` costs one round trip.
    Whatever a query leaves open is rolled back, also when it is cancelled half-way.
    """

    def __init__(self, database_url: str, *, name: str, statement_timeout_s: float) -> None:
        self._conninfo = connection_info(
            database_url,
            name=name,
            # Policies may call functions that rely on the path the API uses.
            settings={
                "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
                "search_path": "public,extensions",
            },
        )
        self._connection: AsyncConnection[Row] | None = None
        self._lock = asyncio.Lock()

    async def run(self, query: Query) -> list[list[Row]]:
        """Run one or more statements; answers the rows of each that returned rows. Raises `psycopg.Error`."""
        async with self._open() as connection, connection.cursor() as cursor:
            await cursor.execute(query)
            results: list[list[Row]] = []
            more: bool | None = True
            while more:
                if cursor.description is not None:
                    results.append(await cursor.fetchall())
                more = cursor.nextset()
            return results

    async def close(self) -> None:
        """Close the connection; the next query opens a new one."""
        async with self._lock:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await connection.close()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[AsyncConnection[Row], None]:
        async with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = await AsyncConnection.connect(
                    self._conninfo, autocommit=True, prepare_threshold=None
                )
            connection = self._connection
            try:
                yield connection
            finally:
                status = connection.info.transaction_status
                if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                    await connection.rollback()
                elif status is not TransactionStatus.IDLE:
                    # Broken, or cancelled with a query still running: nothing a new connection does not do
                    # better.
                    self._connection = None
                    await connection.close()
