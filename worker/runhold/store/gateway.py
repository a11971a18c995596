"""Every worker RPC, typed in and out. ``docs/reference/worker-protocol.md`` is the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Protocol, cast
from uuid import UUID

from runhold.errors import StoreError
from runhold.loop.ports import Definition, JsonObject, Run
from runhold.store.client import Access, AccessSource, FixedAccess, Rpc, connect
from runhold.store.outages import Outages
from runhold.store.records import (
    Claim,
    Heartbeat,
    ModelPrice,
    Notification,
    Registration,
    UserClaims,
    read_claim,
    read_definitions,
    read_heartbeat,
    read_notifications,
    read_prices,
    read_registration,
    read_run,
    read_user_claims,
    read_verdict,
)

CALL_TIMEOUT_S: Final = 10.0
"""One attempt of one call. A third of the default lease: a later answer would be of no use."""

POOL_SIZE: Final = 4
"""Connections for records, claims and the occasional other call: each of them runs one at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """Who registers.

    :ivar id: new for every registration; a dead one is never used again.
    :ivar capacity: runs at once.
    :ivar lease_ms: the lease that this worker asks for, in milliseconds.
    """

    id: UUID
    hostname: str
    pid: int
    version: str
    capacity: int
    lease_ms: int


class RecordPort(Protocol):
    """The one call that the group commit needs."""

    async def record(self, worker_id: UUID, entries: Sequence[bytes]) -> list[JsonObject]:
        """Store encoded entries; one attempt, one raw verdict per entry, in order."""
        ...


class Gateway:
    """The worker's RPCs: safe to repeat, and (except record) repeated until ``deadline_s`` seconds passed."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    @classmethod
    async def open(
        cls,
        url: str,
        access: Access | AccessSource,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        connections: int = POOL_SIZE,
        outages: Outages | None = None,
    ) -> Gateway:
        """A gateway with connections of its own. Opens none yet."""
        source = FixedAccess(access) if isinstance(access, Access) else access
        client = await connect(url, source.current, timeout_s=timeout_s, connections=connections)
        return cls(Rpc(client, source, outages))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._rpc.aclose()

    async def register(
        self, worker: WorkerInfo, definitions: Sequence[JsonObject], *, deadline_s: float = CALL_TIMEOUT_S
    ) -> Registration:
        """Announce a new worker and what its agents are."""
        params = {"worker": asdict(worker), "definitions": definitions}
        return await self._rpc.call(
            "agent_worker_register", params, deadline_s=deadline_s, read=read_registration
        )

    async def claim(
        self,
        worker_id: UUID,
        seq: int,
        definitions: Mapping[str, UUID],
        n: int,
        *,
        deadline_s: float = CALL_TIMEOUT_S,
    ) -> Claim:
        """Take up to ``n`` pending runs. The same ``seq`` again answers the same runs, no new ones."""
        params = {"worker_id": worker_id, "seq": seq, "definitions": definitions, "n": n}
        return await self._rpc.call("agent_worker_claim", params, deadline_s=deadline_s, read=read_claim)

    async def record(self, worker_id: UUID, entries: Sequence[bytes]) -> list[JsonObject]:
        """Store encoded entries; one attempt, one raw verdict per entry, in order."""
        body = b'{"worker_id":"%s","entries":[%s]}' % (str(worker_id).encode(), b",".join(entries))
        return await self._rpc.post("agent_worker_record", body, read=partial(_read_verdicts, len(entries)))

    async def heartbeat(
        self, worker_id: UUID, held: Sequence[UUID], last_seq: int, *, deadline_s: float = CALL_TIMEOUT_S
    ) -> Heartbeat:
        """Renew the lease; ``held`` are our runs, all of those claimed up to ``last_seq`` that still are."""
        params = {"worker_id": worker_id, "held": held, "last_seq": last_seq}
        return await self._rpc.call(
            "agent_worker_heartbeat", params, deadline_s=deadline_s, read=read_heartbeat
        )

    async def release(
        self,
        worker_id: UUID,
        executions: Sequence[UUID],
        reason: str,
        *,
        counted: bool = False,
        deadline_s: float = CALL_TIMEOUT_S,
    ) -> int:
        """Give runs back to the queue. Returns how many were ours to give.

        :param counted: the attempt is used up.
        """
        params = {"worker_id": worker_id, "executions": executions, "reason": reason, "counted": counted}
        return await self._rpc.call(
            "agent_worker_release", params, deadline_s=deadline_s, read=lambda answer: int(answer["released"])
        )

    async def stop(self, worker_id: UUID, *, draining: bool, deadline_s: float = CALL_TIMEOUT_S) -> None:
        """Mark the worker draining, or (false) say goodbye."""
        params = {"worker_id": worker_id, "draining": draining}
        await self._rpc.call("agent_worker_stop", params, deadline_s=deadline_s, read=_read_object)

    async def sweep(self, *, deadline_s: float = CALL_TIMEOUT_S) -> JsonObject:
        """Requeue runs of dead workers, expire reviews, repair. Returns counts."""
        return await self._rpc.call("agent_sweep", {}, deadline_s=deadline_s, read=_read_object)

    async def notifications(
        self, worker_id: UUID, n: int, channels: Sequence[str], *, deadline_s: float = CALL_TIMEOUT_S
    ) -> list[Notification]:
        """Take up to ``n`` messages of the outbox that are due; for a minute, then others may."""
        params = {"worker_id": worker_id, "n": n, "channels": channels}
        return await self._rpc.call(
            "agent_worker_notifications", params, deadline_s=deadline_s, read=read_notifications
        )

    async def notified(
        self, worker_id: UUID, notification_id: UUID, error: str | None, *, deadline_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Say that a message was delivered, or (``error``) why not."""
        params = {"worker_id": worker_id, "id": notification_id, "error": error}
        await self._rpc.call("agent_worker_notified", params, deadline_s=deadline_s, read=_read_object)

    async def definitions(
        self, ids: Sequence[UUID], *, deadline_s: float = CALL_TIMEOUT_S
    ) -> list[Definition]:
        """Older definitions by id: what agents were when steps were decided."""
        return await self._rpc.call(
            "agent_worker_definitions", {"ids": ids}, deadline_s=deadline_s, read=read_definitions
        )

    async def prices(self, models: Sequence[str], *, deadline_s: float = CALL_TIMEOUT_S) -> list[ModelPrice]:
        """What operators entered as prices of ``models``: those in force, and those ahead."""
        return await self._rpc.call(
            "agent_worker_prices", {"models": models}, deadline_s=deadline_s, read=read_prices
        )

    async def log(
        self, worker_id: UUID, execution_id: UUID, fence: int, *, deadline_s: float = CALL_TIMEOUT_S
    ) -> Run:
        """A claimed run that was too large for the claim's answer, whole."""
        params = {"worker_id": worker_id, "execution_id": execution_id, "fence": fence}
        run = await self._rpc.call("agent_worker_log", params, deadline_s=deadline_s, read=_read_run_if_ours)
        if run is None:
            raise StoreError("it belongs to another worker by now")
        return run

    async def user_claims(
        self, worker_id: UUID, execution_id: UUID, fence: int, *, deadline_s: float = CALL_TIMEOUT_S
    ) -> UserClaims | None:
        """What a token for the run's user carries now; None: this worker does not hold the run under ``fence``.

        :raises Refused: RH022, the user may no longer act.
        """
        params = {"worker_id": worker_id, "execution_id": execution_id, "fence": fence}
        return await self._rpc.call(
            "agent_worker_user_claims", params, deadline_s=deadline_s, read=read_user_claims
        )


def _read_verdicts(count: int, answer: Any) -> list[JsonObject]:
    """One raw verdict per entry, each of which can be read: what can't is asked for again, and no run's fault."""
    given = cast("list[Any]", answer) if isinstance(answer, list) else []
    if len(given) != count or not all(isinstance(item, dict) for item in given):
        raise StoreError("it is not one verdict per entry")
    for verdict in given:
        if verdict["verdict"] not in ("busy", "gap"):
            read_verdict(verdict)
    return given


def _read_run_if_ours(answer: Any) -> Run | None:
    return None if answer is None else read_run(answer)


def _read_object(answer: Any) -> JsonObject:
    if not isinstance(answer, dict):
        raise StoreError(f"it is {type(answer).__name__}, not an object")
    return cast("JsonObject", answer)
