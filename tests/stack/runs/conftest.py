"""Fixtures of the tests that run agents on the whole stack."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import clerk
import psycopg
import pytest
from rebuilding import require_rebuildable
from supabase_project import Project, forget_runs
from town import Town

from runhold.testing import ScriptedModel
from runhold.testing.chaos import ForkServer


@pytest.fixture
async def town(
    stack: Project, forks: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    """Everybody leaves at the end, and no process stays."""
    monkeypatch.setenv("CLERK_FOLDER", str(tmp_path))
    async with ScriptedModel(clerk.script) as model:
        made = Town(stack, tmp_path, model.base_url, forks)
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
            for client in made.clients:
                await client.remove_all_channels()
            require_rebuildable(stack, model, "clerk")
            forget_runs(stack)


@pytest.fixture(scope="session", autouse=True)
def clerk_is_known(stack: Project) -> None:
    """Runs may be inserted before any worker has started."""
    definition = json.dumps([clerk.agent.definition()])
    worker = json.dumps(
        {
            "id": "00000000-0000-0000-0000-000000000001",
            "hostname": "t",
            "pid": 1,
            "version": "0",
            "lease_ms": 1000,
        }
    )
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("select runhold.worker_register(%s, %s)", [worker, definition])
