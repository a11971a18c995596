"""A worker that listens through a Realtime server that may misbehave."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from earshot import Earshot, listening
from misbehaving import Misbehaving

from runhold.local.stack import LocalStack
from runhold.runtime import claims, heartbeat, realtime, wake


@pytest.fixture(scope="session")
def user(stack: LocalStack) -> UUID:
    """Whom the runs belong to."""
    user = uuid4()
    with psycopg.connect(stack.superuser_url, autocommit=True) as connection:
        connection.execute(
            "insert into auth.users (id, email) values (%s, %s)", [user, f"{user}@example.org"]
        )
    return user


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a worker does at leisure, many times a second; but polls while heard as rarely as ever."""
    monkeypatch.setattr(heartbeat, "BEATS_PER_LEASE", 30)
    monkeypatch.setattr(heartbeat, "MIN_NUDGE_S", 0.05)
    monkeypatch.setattr(wake, "PROBE_WAIT_S", 1.0)
    monkeypatch.setattr(wake, "TICK_S", 0.05)
    monkeypatch.setattr(wake, "BACKOFF_BASE_S", 0.02)
    monkeypatch.setattr(wake, "BACKOFF_CAP_S", 0.4)
    monkeypatch.setattr(realtime, "JOIN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(realtime, "CLOSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(claims, "TICK_S", 0.05)


@pytest.fixture
async def middle(stack: LocalStack) -> AsyncIterator[Misbehaving]:
    async with Misbehaving(stack.url).serving() as middle:
        yield middle


@pytest.fixture
async def ear(stack: LocalStack, middle: Misbehaving, user: UUID) -> AsyncIterator[Earshot]:
    """A worker that hears."""
    async with listening(stack, middle, user) as ear:
        await ear.heard()
        yield ear


@pytest.fixture(autouse=True)
def calm(stack: LocalStack, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever Realtime does, nothing raises in a worker, and no log says the key, however much is logged."""
    caplog.set_level(logging.DEBUG)
    yield
    said = [*caplog.get_records("setup"), *caplog.get_records("call")]
    loud = [each for each in said if each.levelno >= logging.ERROR]
    assert not [each.getMessage() for each in loud if each.name.split(".")[0] in ("runhold", "asyncio")]
    keys = (stack.secret_key, stack.env()["RUNHOLD_WORKER_TOKEN"])
    assert not [each for each in said if any(key[-12:] in each.getMessage() for key in keys)]
