"""supabase-js in a real browser, on pages of another origin, while a real worker works."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import porter
import psycopg
import pytest
from auth_http import AuthHttp
from driving import Drive

from runhold.local.stack import LocalStack
from runhold.testing import ScriptedModel
from runhold.testing.chaos import ForkServer, WorkerProcess, eventually

PASSWORD = "a long passphrase"


@pytest.fixture
async def gate(stack: LocalStack, forks: ForkServer, tmp_path: Path) -> AsyncIterator[Path]:
    """A worker has the porter agent, whose runs wait until this file exists."""
    gate = tmp_path / "gate"
    async with ScriptedModel(porter.script) as model:
        own = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted", porter.GATE: str(gate)}
        process = forks.start(
            porter.__file__, name="worker", env={**os.environ, **stack.env(), **own}, folder=tmp_path
        )
        try:
            await eventually(lambda: is_known(stack, process), "the agent")
            yield gate
        finally:
            process.kill()
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute("delete from agent_executions")


def is_known(stack: LocalStack, process: WorkerProcess) -> bool:
    assert process.running, process.log
    with psycopg.connect(stack.database_url) as connection:
        query = "select from agent_types where name = 'porter'"
        return connection.execute(query).rowcount == 1


async def test_a_run_is_started_watched_approved_and_completed(
    drive: Drive, stack: LocalStack, gate: Path
) -> None:
    reviewer = AuthHttp(stack).sign_up("reviewer-in-a-browser@example.org", PASSWORD)["user"]
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("insert into runhold.reviewers (user_id) values (%s)", [reviewer["id"]])
    await drive("run_and_review.mjs", REVIEWER_EMAIL=reviewer["email"], **{porter.GATE: str(gate)})


async def test_refusals_can_be_read_by_the_page(drive: Drive) -> None:
    assert json.loads(await drive("refusals.mjs")) == {
        "wrong password": [400, "invalid_credentials"],
        "weak password": [422, "weak_password"],
        "no second factors": [422, "mfa_totp_enroll_not_enabled"],
        "admin without the key": [403, "not_admin"],
        "unknown Auth route": [404, "object"],
        "a method that does not exist": [405, "object"],
        "unknown table": [404, "object"],
        "unknown function": [404, "object"],
        "no right to a table": [401, "object"],
        "a broadcast without messages": [422, "object"],
        "a wrong key in Auth": [401, "Invalid API key"],
        "a wrong key in REST": "Invalid API key",
        "a secret key in a page": "Forbidden use of secret API key in browser",
    }
