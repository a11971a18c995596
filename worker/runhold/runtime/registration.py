"""Registering: under which id, with what answer, and who is told when it does not work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID, uuid4

from runhold.agents import Agent
from runhold.errors import (
    APPLY_MIGRATIONS,
    ConfigError,
    StoreError,
    WorkerDead,
)
from runhold.loop.ports import Definition, JsonObject
from runhold.runtime.clock import lease_now
from runhold.runtime.config import WorkerConfig
from runhold.runtime.lease import Lease
from runhold.runtime.start import Start
from runhold.store.gateway import WorkerInfo
from runhold.store.records import Registration, TypeSettings

logger = logging.getLogger(__name__)

REGISTER_AGAIN_S: Final = 5.0
"""Upper bound of the pause between attempts to register anew while the database is away."""

SCHEMA_VERSION: Final = 1
"""What ``runhold.schema_version()`` answers in the migrations that this worker was built for."""

MAX_FRESH_IDS: Final = 3
"""Ids tried at once: one is used up when it dies between a registration whose answer was lost and the next."""


class RegisterPort(Protocol):
    """The one call that registering needs."""

    async def register(
        self, worker: WorkerInfo, definitions: Sequence[JsonObject], *, deadline_s: float
    ) -> Registration: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A worker that the database knows.

    :ivar definitions: what its agents are, by type, under the ids that the database gave them.
    :ivar types: what operators said about them when it registered.
    :ivar database_time: when that was, by the database's clock.
    """

    worker_id: UUID
    definitions: Mapping[str, Definition]
    types: Mapping[str, TypeSettings]
    lease: Lease
    database_time: datetime | None = None


async def register(
    config: WorkerConfig,
    agents: Mapping[str, Agent],
    port: RegisterPort,
    *,
    version: str,
    stop: asyncio.Event,
    for_the_first_time: bool,
) -> Registered | None:
    """Register under a new id, however long that takes; None: ``stop`` was set meanwhile.

    :raises ConfigError: the schema is of another version. Or, the first time: there is no Supabase project at the URL,
        or what failed still fails after ``config.start_timeout_s`` seconds.
    :raises Refused: the first time: the database refuses what is registered.
    """
    given = {name: agent.definition() for name, agent in agents.items()}
    worker = WorkerInfo(
        id=uuid4(),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        version=version,
        capacity=config.capacity,
        lease_ms=round(config.lease_s * 1000),
    )
    start = Start(config) if for_the_first_time else None
    used_up = 0
    while not stop.is_set():
        lease, sent_at = Lease(), lease_now()
        try:
            answer = await port.register(worker, list(given.values()), deadline_s=0)
        except StoreError as error:
            pause_s = random.uniform(0, REGISTER_AGAIN_S)
            if isinstance(error, WorkerDead):
                # registered by a call whose answer was lost, and declared dead before the next one
                worker = replace(worker, id=uuid4())
                used_up += 1
                if used_up < MAX_FRESH_IDS:
                    continue
            if start is not None:
                pause_s = start.pause_s(error)
            logger.debug("not registered yet, once more in %.1f s: %s", pause_s, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            continue
        _require_schema(answer.schema_version)
        lease.renew(sent_at, answer.lease_ms)
        # the answer took longer than the lease: what we claimed now would be dropped again
        if lease.is_lost:
            logger.warning("registering took longer than the lease of %g s: once more", config.lease_s)
            continue
        definitions = {name: _definition(answer.definitions[name], name, given[name]) for name in agents}
        return Registered(
            worker_id=worker.id,
            definitions=definitions,
            types=answer.types,
            lease=lease,
            database_time=answer.now,
        )
    return None


def _require_schema(found: int) -> None:
    """:raises ConfigError: the database's functions are not those that this worker knows how to call."""
    if found < SCHEMA_VERSION:
        raise ConfigError(
            f"The database's migrations are of version {found}, older than this worker's ({SCHEMA_VERSION}): "
            f"run {APPLY_MIGRATIONS}, then start it again."
        )
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"The database's migrations are of version {found}, newer than this worker's ({SCHEMA_VERSION}): "
            "upgrade runhold where this worker runs."
        )


def _definition(definition_id: UUID, agent_type: str, given: JsonObject) -> Definition:
    fields = ("version", "model", "instructions", "tools", "params", "limits")
    return Definition(id=definition_id, agent_type=agent_type, **{name: given[name] for name in fields})
