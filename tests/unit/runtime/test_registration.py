"""Registering: other migrations than the worker was built for, and outages with answers of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from runhold import Agent
from runhold.errors import ConfigError, Refused, StoreUnavailable, WorkerDead
from runhold.runtime import registration
from runhold.runtime.config import WorkerConfig
from runhold.runtime.registration import SCHEMA_VERSION, Registered, register
from runhold.store.gateway import WorkerInfo
from runhold.store.records import Registration

AGENT = Agent(type="one", model="m", instructions="x")


class Port:
    """Answers with the given failures, one by one, then well."""

    def __init__(
        self, *failures: Exception, schema_version: int = SCHEMA_VERSION, leases_ms: Sequence[int] = ()
    ) -> None:
        self.failures = list(failures)
        self.leases_ms = list(leases_ms)
        self.schema_version = schema_version
        self.ids: list[UUID] = []

    async def register(self, worker: WorkerInfo, definitions: Sequence[Any]) -> Registration:
        self.ids.append(worker.id)
        if self.failures:
            raise self.failures.pop(0)
        lease_ms = self.leases_ms.pop(0) if self.leases_ms else 60_000
        return Registration(
            definitions={"one": uuid4()}, lease_ms=lease_ms, schema_version=self.schema_version
        )


async def registered(port: Port, *, first: bool) -> Registered | None:
    config = WorkerConfig(url="http://x.test", secret_key="sb_secret_x")
    return await register(
        config, {"one": AGENT}, port, version="0", stop=asyncio.Event(), for_the_first_time=first
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (SCHEMA_VERSION - 1, "older than this worker.*supabase db push --linked"),
        (SCHEMA_VERSION + 1, "newer than this"),
    ],
)
async def test_migrations_of_another_version_are_named(version: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        await registered(Port(schema_version=version), first=True)
    assert "\n" not in str(caught.value)


async def test_a_worker_that_comes_back_outlives_every_kind_of_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "REGISTER_AGAIN_S", 0.001)
    starting_up = Refused("the database system is starting up", code="57P03")
    lost_answer = WorkerDead("used before", code="RH012")
    away = [StoreUnavailable("refused")] * 4
    assert await registered(Port(starting_up, *away, lost_answer), first=False) is not None


async def test_a_registration_whose_answer_was_lost_is_repeated_under_its_id_until_that_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "REGISTER_AGAIN_S", 0.001)
    port = Port(StoreUnavailable("lost"), StoreUnavailable("lost"), WorkerDead("dead", code="RH012"))
    came = await registered(port, first=False)
    first, second, third, fourth = port.ids
    assert first == second == third != fourth
    assert came is not None
    assert came.worker_id == fourth


async def test_a_lease_that_was_over_when_the_answer_came_is_asked_for_again() -> None:
    port = Port(leases_ms=[0, 0])
    came = await registered(port, first=False)
    assert came is not None
    assert not came.lease.is_lost
    assert len(port.ids) == 3
    assert len(set(port.ids)) == 1


async def test_a_refusal_that_will_last_ends_it() -> None:
    with pytest.raises(Refused, match="no"):
        await registered(Port(Refused("no", code="RH013")), first=False)
