"""A real worker session in this process: records through the real API, Realtime through the man in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from misbehaving import Misbehaving
from supabase_project import Project, forget_runs

from runhold import Agent
from runhold.models.inprocess import FunctionModel
from runhold.runtime.access import KeptAccess
from runhold.runtime.claims import Claimer
from runhold.runtime.config import WorkerConfig
from runhold.runtime.registration import register
from runhold.runtime.session import Session
from runhold.runtime.wake import Listener
from runhold.runtime.wake_report import WakeReport
from runhold.runtime.worker import _equipment
from runhold.store.gateway import Gateway
from runhold.testing import say
from runhold.testing.chaos.patience import eventually

PATIENCE_S = 30
LEASE_S = 9.0

AGENT = Agent(type="listener", model="m", instructions="x")


class Earshot:
    """One worker that listens, and somebody who inserts runs."""

    def __init__(
        self, session: Session, middle: Misbehaving, database: psycopg.AsyncConnection[Any], user: UUID
    ) -> None:
        self.middle = middle
        self.listener: Listener = session._listener
        self.claimer: Claimer = session._claimer
        self.report: WakeReport = session._wakes
        self._database = database
        self._user = user

    async def submit(self, *, after_silence: bool = False) -> UUID:
        """Insert a run; ``after_silence``, a wake-up is sent for certain, however soon after the last one."""
        if after_silence:
            await self._database.execute("select setval('runhold.last_wake', 0)")
        cursor = await self._database.execute(
            "insert into agent_executions (user_id, agent_type, input_data) values (%s, %s, '{}') returning id",
            [self._user, AGENT.type],
        )
        return (await cursor.fetchone())[0]

    async def done(self, run_id: UUID) -> None:
        """Wait until the run was claimed and went to its end."""

        async def check() -> bool:
            cursor = await self._database.execute(
                "select status = 'completed' from agent_executions where id = %s", [run_id]
            )
            return (await cursor.fetchone())[0]

        await eventually(check, f"the end of run {run_id}")

    async def run_one(self) -> None:
        await self.done(await self.submit())

    async def heard(self) -> None:
        await eventually(lambda: self.listener.is_heard, "Realtime")

    async def deaf(self) -> None:
        await eventually(lambda: not self.listener.is_heard, "silence")

    async def push_works(self) -> None:
        """Wait until a run is found because a wake-up said so."""

        async def check() -> bool:
            push, wakes = self.claimer.found["push"], self.listener.stats.events
            await self.run_one()
            return self.claimer.found["push"] > push and self.listener.stats.events > wakes

        await eventually(check, "a run found by push")


@asynccontextmanager
async def listening(
    stack: Project, middle: Misbehaving, user: UUID, *, poll_s: float = 0.2
) -> AsyncIterator[Earshot]:
    """A session at work until the end of the block; it must not end by itself."""
    config = WorkerConfig(
        url=middle.url,
        secret_key=stack.secret_key,
        worker_token=stack.env().get("RUNHOLD_WORKER_TOKEN"),
        publishable_key=stack.publishable_key,
        capacity=8,
        lease_s=LEASE_S,
        poll_s=poll_s,
    )
    stop, access = asyncio.Event(), KeptAccess(config)
    gateway = await Gateway.open(stack.url, access)
    model = FunctionModel(lambda messages, tools: say("done"), record=False)
    agents = {AGENT.type: AGENT}
    open_heartbeat = partial(Gateway.open, stack.url, access, connections=1)
    async with (
        _equipment(config, access, [AGENT], model) as equipment,
        await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as database,
    ):
        registered = await register(config, agents, gateway, version="0", stop=stop, for_the_first_time=True)
        assert registered is not None
        session = Session(config, equipment, gateway, open_heartbeat, registered)
        work = asyncio.create_task(session.run(stop))
        try:
            yield Earshot(session, middle, database, user)
            assert not work.done(), work.exception()
        finally:
            stop.set()
            await asyncio.wait_for(work, PATIENCE_S)
            await gateway.aclose()
            await asyncio.to_thread(forget_runs, stack)
