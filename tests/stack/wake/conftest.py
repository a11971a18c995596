"""A worker that listens through a Realtime server that may misbehave."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest
from earshot import Earshot, listening
from misbehaving import Misbehaving
from supabase import create_client
from supabase_project import Project

from runhold.runtime import claims, heartbeat, realtime, wake


@pytest.fixture(scope="session")
def user(stack: Project) -> UUID:
    """Whom the runs belong to."""
    client = create_client(stack.url, stack.secret_key)
    made = client.auth.admin.create_user({"email": f"{uuid4()}@example.org", "email_confirm": True})
    return UUID(made.user.id)


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
async def middle(stack: Project) -> AsyncIterator[Misbehaving]:
    async with Misbehaving(stack.url).serving() as middle:
        yield middle


@pytest.fixture
async def ear(stack: Project, middle: Misbehaving, user: UUID) -> AsyncIterator[Earshot]:
    """A worker that hears."""
    async with listening(stack, middle, user) as ear:
        await ear.heard()
        yield ear


@pytest.fixture(autouse=True)
def calm(stack: Project, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever Realtime does, nothing raises in a worker, and no log says the key, however much is logged."""
    caplog.set_level(logging.DEBUG)
    yield
    said = [*caplog.get_records("setup"), *caplog.get_records("call")]
    loud = [each for each in said if each.levelno >= logging.ERROR]
    assert not [each.getMessage() for each in loud if each.name.split(".")[0] in ("runhold", "asyncio")]
    keys = (stack.secret_key, stack.env().get("RUNHOLD_WORKER_TOKEN", stack.secret_key))
    assert not [each for each in said if any(key[-12:] in each.getMessage() for key in keys)]
