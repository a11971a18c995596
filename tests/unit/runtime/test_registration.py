"""Registering: other migrations than the worker was built for, and outages with answers of every kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from runhold import Agent
from runhold.errors import ConfigError, KeyRejected, Refused, StoreUnavailable, WorkerDead
from runhold.runtime import registration, start
from runhold.runtime.config import WorkerConfig
from runhold.runtime.registration import SCHEMA_VERSION, Registered, register
from runhold.runtime.start import PROOFS
from runhold.store.answers import GatewayAnswer
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

    async def register(
        self, worker: WorkerInfo, definitions: Sequence[Any], *, deadline_s: float
    ) -> Registration:
        self.ids.append(worker.id)
        if self.failures:
            raise self.failures.pop(0)
        lease_ms = self.leases_ms.pop(0) if self.leases_ms else 60_000
        return Registration(
            definitions={"one": uuid4()}, lease_ms=lease_ms, schema_version=self.schema_version
        )


async def registered(port: Port, *, first: bool, **options: Any) -> Registered | None:
    config = WorkerConfig(url="http://x.test", secret_key="sb_secret_x", **options)
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


@pytest.mark.parametrize(
    "error",
    [Refused("no", code="RH013"), Refused("?", code="PGRST202"), KeyRejected("JWT expired", code="PGRST303")],
)
async def test_no_refusal_ends_a_worker_that_was_ready_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(registration, "REGISTER_AGAIN_S", 0.001)
    assert await registered(Port(*[error] * 20), first=False) is not None


# ------------------------------------------------------------------------------------------- the first time


def page(status: int, says: str = "hello", *, is_json: bool = False) -> GatewayAnswer:
    return GatewayAnswer(f"answered {status}", status=status, says=says, is_json=is_json)


def no_such_host(number: int) -> StoreUnavailable:
    error = StoreUnavailable("no answer")
    error.__cause__ = ConnectionError()
    error.__cause__.__context__ = socket.gaierror(number, "not known")
    return error


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PROOF_PAUSE_S", 0.001)
    monkeypatch.setattr(start, "BACKOFF_CAP_S", 0.0)


PASSING = [
    StoreUnavailable("refused"),
    KeyRejected("JWT issued at future", code="PGRST303"),
    Refused("starting up", code="57P03"),
    Refused("permission denied", code="42501"),
    Refused("cannot execute INSERT in a read-only transaction", code="25006"),
    Refused("no function", code="PGRST202"),
    page(402),
    page(403),
    page(404, "no Route matched", is_json=True),
    page(404),
    page(502),
    page(302),
    no_such_host(socket.EAI_AGAIN),
    no_such_host(socket.EAI_NONAME),
    WorkerDead("used before", code="RH012"),
]


@pytest.mark.usefixtures("_hasty")
async def test_a_start_outlives_every_failure_that_passes() -> None:
    port = Port(*PASSING)
    assert await registered(port, first=True) is not None
    assert not port.failures


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (page(404, "Not Found"), r"no Supabase project \(http://x.test\): it answers 404 Not Found\."),
        (page(200, "Welcome"), "it answers 200 Welcome"),
        (page(301, ""), "it answers 301"),
        (page(405), "it answers 405"),
        (no_such_host(socket.EAI_NONAME), "there is no such host"),
    ],
)
async def test_what_proves_that_there_is_no_project_ends_the_start_at_once(
    error: StoreUnavailable, says: str
) -> None:
    port = Port(*[error] * 100)
    with pytest.raises(ConfigError, match=says) as caught:
        await registered(port, first=True)
    assert len(port.ids) == PROOFS
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StoreUnavailable("refused"), r"Nothing answers at SUPABASE_URL \(http://x.test\): refused\."),
        (page(503), "Nothing answers"),
        (KeyRejected("Invalid API key", code="401"), "Invalid API key.*set SUPABASE_SECRET_KEY"),
        (Refused("permission denied", code="42501"), "permission denied.*set SUPABASE_SECRET_KEY"),
        (Refused("read-only", code="25006"), r"can't be used: read-only \[25006\]"),
        (Refused("no type", code="42704"), "supabase db push"),
    ],
)
async def test_what_does_not_pass_in_time_ends_the_start_in_one_sentence(error: Exception, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        await registered(Port(*[error] * 10_000), first=True, start_timeout_s=0.02)


async def test_functions_that_stay_missing_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "BACKOFF_CAP_S", 0.0)
    monkeypatch.setattr(start, "STALE_SCHEMA_S", 0.05)
    with pytest.raises(ConfigError, match="supabase db push"):
        await registered(Port(*[Refused("no function", code="PGRST202")] * 10_000), first=True)


async def test_a_refusal_of_ours_ends_the_start_at_once() -> None:
    port = Port(*[Refused("no", code="RH013")] * 2)
    with pytest.raises(Refused, match="no"):
        await registered(port, first=True)
    assert len(port.ids) == 1
