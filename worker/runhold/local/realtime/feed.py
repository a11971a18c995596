"""The change feed: Postgres' logical replication stream, as decoded transactions.

Streams `pgoutput` through libpq's COPY BOTH mode. The replication slot is temporary: it disappears with the
connection and keeps no WAL behind, so whatever commits while the feed is away is lost to subscribers (as it
is on hosted projects during a failover). A permanent slot would fail for ever once a migration has recreated
the publication.
"""

import asyncio
import logging
import os
import secrets
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from runhold.local.realtime.database import Row, connection_info
from runhold.local.realtime.errors import FeedEnded, RealtimeStartError
from runhold.local.realtime.pgoutput import Decoder, Transaction

logger = logging.getLogger("runhold.realtime.feed")

CHANGES_PUBLICATION = "supabase_realtime"
MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"

RECONNECT_DELAY_S = 0.25
RECONNECT_DELAY_LIMIT_S = 5.0
# A migration may drop a publication and create it again a moment later; it would fail if we did so in
# between.
MISSING_PUBLICATION_PATIENCE_S = 2.0
# Creating a slot waits for every transaction that is writing; longer than this and the start fails.
SLOT_TIMEOUT_S = 30.0
SLOT_NOTICE_S = 2.0

_POSTGRES_EPOCH_S = 946_684_800


class ChangeFeed:
    """Delivers every committed transaction of the two publications, in commit order.

    `deliver` gets each one; `connected` is awaited whenever a new stream has begun, before its first
    transaction, also after a failure: connections opened before it may be dead.
    """

    def __init__(
        self,
        database_url: str,
        *,
        deliver: Callable[[Transaction], None],
        connected: Callable[[], Awaitable[None]],
    ) -> None:
        self._database_url = database_url
        self._deliver = deliver
        self._connected = connected
        self._started_once = False
        self._streaming = asyncio.Event()

    @property
    def streaming(self) -> bool:
        """True while the stream is open."""
        return self._streaming.is_set()

    async def wait_until_streaming(self) -> None:
        """Return once the stream is open."""
        await self._streaming.wait()

    async def run(self) -> None:
        """Stream until cancelled, reconnecting after every loss.

        Raises RealtimeStartError if Postgres cannot stream at all, `psycopg.Error` or FeedEnded if the very
        first attempt fails: then it is the settings, not a passing loss.
        """
        delay = RECONNECT_DELAY_S
        while True:
            opened_at = time.monotonic()
            try:
                async with self._stream() as pgconn:
                    await self._connected()
                    logger.info("feed streaming")
                    self._started_once = True
                    self._streaming.set()
                    await self._read(pgconn)
            except (psycopg.Error, FeedEnded) as exc:
                if not self._started_once:
                    raise
                logger.warning("feed lost, changes until it is back are not delivered: %s", str(exc).strip())
            finally:
                self._streaming.clear()
            if time.monotonic() - opened_at > RECONNECT_DELAY_LIMIT_S:
                delay = RECONNECT_DELAY_S
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_DELAY_LIMIT_S)

    @asynccontextmanager
    async def _stream(self) -> AsyncGenerator[PGconn, None]:
        await self._prepare_database()
        connection = await AsyncConnection.connect(
            connection_info(self._database_url, name="runhold realtime feed") + " replication=database",
            autocommit=True,
        )
        try:
            pgconn = connection.pgconn
            slot = f"runhold_realtime_{os.getpid()}_{secrets.token_hex(4)}"
            await self._create_slot(pgconn, slot)
            options = f"proto_version '1', publication_names '{CHANGES_PUBLICATION},{MESSAGES_PUBLICATION}'"
            await _command(
                pgconn,
                f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})",
                ExecStatus.COPY_BOTH,
            )
            yield pgconn
        finally:
            # Without a goodbye: the walsender notices the closed socket and takes its slot along.
            await connection.close()

    async def _prepare_database(self) -> None:
        """Check `wal_level` and create missing publications: a stream that names one that is absent ends at
        once.
        """
        async with await AsyncConnection.connect(
            connection_info(self._database_url, name="runhold realtime setup"), autocommit=True
        ) as connection:
            wal_level = await (await connection.execute("show wal_level")).fetchone()
            if wal_level is None or wal_level[0] != "logical":
                raise RealtimeStartError(
                    "Postgres runs without wal_level=logical: set it and restart Postgres"
                )
            patience_ends = time.monotonic() + MISSING_PUBLICATION_PATIENCE_S
            while missing := await _missing_publications(connection):
                if self._started_once and time.monotonic() < patience_ends:
                    await asyncio.sleep(0.1)
                    continue
                for name in missing:
                    await _create_publication(connection, name)

    async def _create_slot(self, pgconn: PGconn, slot: str) -> None:
        command = f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        creation = asyncio.create_task(
            _command(pgconn, command, ExecStatus.TUPLES_OK), name="realtime-create-slot"
        )
        try:
            done, _ = await asyncio.wait({creation}, timeout=SLOT_NOTICE_S)
            if not done:
                logger.warning("waiting for open writing transactions to end: %s", await self._writers())
                done, _ = await asyncio.wait({creation}, timeout=SLOT_TIMEOUT_S - SLOT_NOTICE_S)
            if not done:
                raise FeedEnded(
                    f"no replication slot within {SLOT_TIMEOUT_S:.0f} s, because of open writing"
                    f" transactions ({await self._writers()}): end them"
                )
            creation.result()
        finally:
            creation.cancel()

    async def _writers(self) -> str:
        async with await AsyncConnection.connect(
            connection_info(self._database_url, name="runhold realtime setup"), autocommit=True
        ) as connection:
            cursor = await connection.execute(
                """
                select format('pid %s (%s, %s, open for %s s)', pid, usename,
                coalesce(nullif(application_name, ''),
                       'unnamed'), extract(epoch from clock_timestamp() - xact_start)::int)
                from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid() order by
                xact_start
                """
            )
            return ", ".join(row[0] for row in await cursor.fetchall()) or "none visible to this role"

    async def _read(self, pgconn: PGconn) -> None:
        decoder = Decoder()
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        descriptor = pgconn.socket
        loop.add_reader(descriptor, readable.set)
        try:
            while True:
                size, data = pgconn.get_copy_data(1)
                if size > 0:
                    self._take(pgconn, decoder, data)
                elif size == 0:
                    readable.clear()
                    await readable.wait()
                    pgconn.consume_input()
                else:
                    result = pgconn.get_result()
                    raise FeedEnded(_message(result) if result else "the stream ended")
        finally:
            loop.remove_reader(descriptor)

    def _take(self, pgconn: PGconn, decoder: Decoder, data: memoryview) -> None:
        kind = data[0:1].tobytes()
        if kind == b"w":
            transaction = decoder.feed(data[25:])
            if transaction is not None:
                self._deliver(transaction)
                _report(pgconn, transaction.end_lsn)
        elif kind == b"k":
            wal_end, _sent_at, reply_asked = struct.unpack("!qqb", data[1:18])
            if reply_asked:
                _report(pgconn, wal_end)


def _report(pgconn: PGconn, lsn: int) -> None:
    """Tell Postgres all is received up to `lsn`: it need not wait for us at shutdown, nor time us out."""
    now_us = int((time.time() - _POSTGRES_EPOCH_S) * 1_000_000)
    pgconn.put_copy_data(struct.pack("!cqqqqb", b"r", lsn, lsn, lsn, now_us, 0))
    pgconn.flush()


async def _command(pgconn: PGconn, command: str, expected: ExecStatus) -> None:
    """Run one replication command without blocking the loop. Raises FeedEnded unless the status is as
    expected.
    """
    pgconn.send_query(command.encode())
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    descriptor = pgconn.socket
    loop.add_reader(descriptor, readable.set)
    try:
        pgconn.flush()
        while pgconn.is_busy():
            readable.clear()
            await readable.wait()
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None or result.status != expected:
            raise FeedEnded(_message(result) if result else f"no answer to {command.split()[0]}")
        if expected is not ExecStatus.COPY_BOTH:
            while pgconn.get_result() is not None:
                pass
    finally:
        loop.remove_reader(descriptor)


def _message(result: PGresult) -> str:
    return result.error_message.decode(errors="replace").strip() or f"unexpected status {result.status}"


async def _missing_publications(connection: AsyncConnection[Row]) -> list[str]:
    cursor = await connection.execute(
        "select name from unnest(%s::text[]) name where name not in (select pubname from pg_publication)",
        [[CHANGES_PUBLICATION, MESSAGES_PUBLICATION]],
    )
    return [row[0] for row in await cursor.fetchall()]


async def _create_publication(connection: AsyncConnection[Row], name: str) -> None:
    logger.warning("publication %s is missing: creating it", name)
    try:
        if name == MESSAGES_PUBLICATION:
            await connection.execute(
                sql.SQL(
                    "create publication {} for table realtime.messages"
                    " with (publish = 'insert', publish_via_partition_root = true)"
                ).format(sql.Identifier(name))
            )
        else:
            await connection.execute(sql.SQL("create publication {}").format(sql.Identifier(name)))
        # Migrations run as postgres and must be able to alter it.
        await connection.execute(
            sql.SQL("alter publication {} owner to postgres").format(sql.Identifier(name))
        )
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        logger.info("publication %s was created by someone else meanwhile", name)
