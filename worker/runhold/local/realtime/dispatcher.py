"""From committed transactions to clients, in commit order."""

import asyncio
import logging
import time

import psycopg
from psycopg import sql

from runhold.local.realtime.changes import ChangeRouter, Delivery
from runhold.local.realtime.database import Session
from runhold.local.realtime.frames import Broadcast
from runhold.local.realtime.hub import Hub
from runhold.local.realtime.pgoutput import Change, Transaction

logger = logging.getLogger("runhold.realtime.dispatcher")

VISIBILITY_POLL_S = 0.001
# A transaction may stay invisible after its commit only while it waits for a synchronous standby.
VISIBILITY_LIMIT_S = 5.0
# While Postgres restarts, changes already received wait for it this often and long.
ATTEMPTS = 20
ATTEMPT_DELAY_S = 0.25


class Dispatcher:
    """The one consumer of the feed. `session` is its own, shared only with `router`."""

    def __init__(self, session: Session, router: ChangeRouter, hub: Hub) -> None:
        self._session = session
        self._router = router
        self._hub = hub
        self._queue: asyncio.Queue[Transaction] = asyncio.Queue()
        self._last_xmax: int | None = None

    def deliver(self, transaction: Transaction) -> None:
        """Take a transaction (called by the feed)."""
        if transaction.changes:
            self._queue.put_nowait(transaction)

    async def run(self) -> None:
        """Dispatch until cancelled."""
        while True:
            transaction = await self._queue.get()
            if not any(map(self._is_awaited, transaction.changes)):
                continue
            await self._wait_until_visible(transaction.xid)
            self._router.start_transaction()
            for change in transaction.changes:
                if _is_message(change):
                    self._publish(change)
                for delivery in await self._deliveries(change, transaction.committed_us):
                    delivery.send()

    def _is_awaited(self, change: Change) -> bool:
        """Whether anybody is there to be told of the change. Whoever joins later was not meant: it is committed."""
        row = change.new or {}
        if self._router.is_awaited(change):
            return True
        topic, private = row.get("topic"), row.get("private")
        return _is_message(change) and topic is not None and self._hub.has_members((topic, private == "t"))

    async def _deliveries(self, change: Change, committed_us: int) -> list[Delivery]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._router.deliveries(change, committed_us)
            except psycopg.OperationalError as exc:
                if exc.sqlstate is not None or attempt == ATTEMPTS:
                    logger.exception("%s of %s not delivered", change.kind, change.relation.table)
                    return []
                await asyncio.sleep(ATTEMPT_DELAY_S)
            except psycopg.Error:
                logger.exception("%s of %s not delivered", change.kind, change.relation.table)
                return []
        return []

    def _publish(self, change: Change) -> None:
        """A row inserted into realtime.messages is a broadcast."""
        row = change.new or {}
        topic, event, private = row.get("topic"), row.get("event"), row.get("private")
        if change.kind != "INSERT" or topic is None or event is None or private is None:
            return
        binary, message_id = row.get("binary_payload"), row.get("id")
        message = (
            Broadcast.of_json(event, row.get("payload") or "{}", message_id=message_id)
            if binary is None
            else Broadcast.of_bytes(event, bytes.fromhex(binary.removeprefix("\\x")), message_id=message_id)
        )
        self._hub.publish((topic, private == "t"), message)

    async def _wait_until_visible(self, xid: int) -> None:
        """Return when other sessions can see the transaction's rows.

        Its commit is streamed up to 30 ms before that: row-security checks would find nothing, and clients
        would query too early.
        """
        deadline = time.monotonic() + VISIBILITY_LIMIT_S
        while time.monotonic() < deadline:
            try:
                if await self._is_visible(xid):
                    return
            except psycopg.Error as exc:
                logger.warning("cannot see whether transaction %d is visible: %s", xid, exc)
                await asyncio.sleep(ATTEMPT_DELAY_S)
                continue
            await asyncio.sleep(VISIBILITY_POLL_S)
        logger.error("transaction %d still invisible after %.0f s, dispatching it", xid, VISIBILITY_LIMIT_S)

    async def _is_visible(self, xid: int) -> bool:
        if self._last_xmax is None:
            [[(xmax,)]] = await self._session.run(
                "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            )
            self._last_xmax = int(xmax)
        [[(visible, xmax)]] = await self._session.run(
            sql.SQL(
                "select pg_visible_in_snapshot({}::text::xid8, s), pg_snapshot_xmax(s)::text::bigint"
                " from pg_current_snapshot() s"
            ).format(sql.Literal(str(widen(xid, self._last_xmax))))
        )
        self._last_xmax = int(xmax)
        return bool(visible)


def _is_message(change: Change) -> bool:
    return (change.relation.schema, change.relation.table) == ("realtime", "messages")


def widen(xid: int, near: int) -> int:
    """The 64-bit transaction id with the low 32 bits `xid` that is nearest to `near`."""
    epoch = 1 << 32
    offset = (xid - near) % epoch
    return near + (offset if offset < epoch // 2 else offset - epoch)
