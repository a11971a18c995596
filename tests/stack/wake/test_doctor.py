"""``runhold doctor`` tells what is wrong from what is merely slow, a sentence each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import psycopg
import pytest
from misbehaving import Misbehaving, is_broadcast
from supabase_project import Project

from runhold.cli import checkup
from runhold.cli.app import run
from runhold.runtime import registration
from runhold.testing.mailbox import Mailbox

Doctor = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]


@pytest.fixture
def doctor(
    signs_tokens: None,
    stack: Project,
    middle: Misbehaving,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Asks the doctor about the stack behind the man in the middle; (exit status, findings by check)."""
    monkeypatch.chdir(tmp_path)
    usual = {
        **stack.env(),
        "SUPABASE_URL": middle.url,
        "OPENAI_API_KEY": "sk-planted-key",
        "OPENAI_BASE_URL": f"{middle.url}/nothing",
    }

    async def ask(**environment: str) -> tuple[int, dict[str, Any]]:
        for name, value in {**usual, **environment}.items():
            monkeypatch.setenv(name, value)
        status = await asyncio.to_thread(run, ["doctor", "--json"])
        shown = capsys.readouterr()
        for secret in (stack.secret_key, usual["RUNHOLD_WORKER_TOKEN"], stack.jwt_secret, "sk-planted-key"):
            assert secret not in shown.out + shown.err
        findings = json.loads(shown.out) if shown.out else [{"check": "error", "says": shown.err}]
        return status, {each["check"]: each for each in findings}

    return ask


async def test_all_is_well_and_nothing_stays(
    doctor: Doctor, stack: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = await doctor(OPENAI_API_KEY="")
    assert status == 0
    assert [(each["check"], each["state"]) for each in found.values()] == [
        ("API", "ok"),
        ("worker token", "ok"),
        ("installation", "ok"),
        ("migrations", "ok"),
        ("clock", "ok"),
        ("Realtime", "ok"),
        ("ctx.supabase", "ok"),
        ("notifications", "skipped"),
        ("model", "skipped"),
    ]
    with psycopg.connect(stack.database_url) as connection:
        query = "select count(*), count(*) filter (where dead_at is null) from agent_workers where version = 'doctor'"
        total, alive = connection.execute(query).fetchone()
    assert (total > 0, alive) == (True, 0)
    assert await asyncio.to_thread(run, ["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith(".") for line in lines)


NOTIFY = {
    "email": {"to": ["reviews@example.org"]},
    "webhook": {"url": "https://hooks.example.org", "secret_name": "RUNHOLD_WEBHOOK_SECRET"},
}


async def test_a_worker_that_can_not_tell_reviewers_is_found(doctor: Doctor, stack: Project) -> None:
    complete = {
        "OPENAI_API_KEY": "",
        "RUNHOLD_WORKER_TOKEN": "",  # it may not see what types want
        "RUNHOLD_WEBHOOK_SECRET": "whsec_x",
        "RUNHOLD_MAIL_FROM": "runhold@example.org",
    }
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            "insert into agent_types (name, notify) values ('mailing', %s)", [json.dumps(NOTIFY)]
        )
        try:
            async with Mailbox() as box:
                status, found = await doctor(**complete, RUNHOLD_SMTP_URL=f"smtp://127.0.0.1:{box.port}")
                assert (status, found["notifications"]["state"]) == (0, "ok")
                assert "mailing" in found["notifications"]["says"]
                assert box.mails == []
            status, found = await doctor(**complete)
            assert status == 1
            assert found["notifications"]["state"] == "failed"
            assert found["notifications"]["says"].startswith("Mail can't be sent, no answer:")
            status, found = await doctor(**complete, RUNHOLD_SMTP_URL="")
            assert (status, found["notifications"]["state"]) == (8, "degraded")
            assert "RUNHOLD_SMTP_URL for mailing" in found["notifications"]["says"]
            assert "RUNHOLD_WEBHOOK_SECRET" not in found["notifications"]["says"]
        finally:
            connection.execute("delete from agent_types where name = 'mailing'")


async def test_realtime_that_is_down_is_degraded(doctor: Doctor, middle: Misbehaving) -> None:
    middle.down = True
    status, found = await doctor()
    assert status == 8
    assert found["Realtime"]["state"] == "degraded"
    assert "503" in found["Realtime"]["says"]
    assert "workers poll" in found["Realtime"]["says"]


async def test_realtime_that_refuses_the_join_says_why(doctor: Doctor, middle: Misbehaving) -> None:
    middle.refuse_joins = 1
    status, found = await doctor()
    assert status == 8
    assert "Too many database connections" in found["Realtime"]["says"]


async def test_realtime_that_joins_and_brings_nothing_is_told_from_one_that_is_down(
    doctor: Doctor, middle: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "PROBE_WAIT_S", 0.5)
    middle.loses = is_broadcast
    status, found = await doctor()
    assert status == 8
    assert "joined" in found["Realtime"]["says"]
    assert "not heard" in found["Realtime"]["says"]


async def test_a_wrong_key_is_unreachable(doctor: Doctor) -> None:
    status, found = await doctor(RUNHOLD_WORKER_TOKEN="", SUPABASE_SECRET_KEY="sb_secret_of_somebody_else")
    assert status == 4
    assert "SUPABASE_SECRET_KEY" in found["API"]["says"]


async def test_the_secret_key_goes_on_working(doctor: Doctor) -> None:
    status, found = await doctor(RUNHOLD_WORKER_TOKEN="", OPENAI_API_KEY="")
    assert status == 0
    assert "secret key" in found["API"]["says"]
    assert "worker token" not in found
    assert found["Realtime"]["state"] == "ok"


def signed(secret: str, **claims: Any) -> str:
    given = {"role": "runhold_worker", "exp": int(time.time()) + 90 * 86400, **claims}
    return jwt.encode(given, secret, algorithm="HS256")  # pyright: ignore[reportUnknownMemberType]


async def test_a_token_that_ends_soon_is_degraded(doctor: Doctor, stack: Project) -> None:
    token = signed(stack.jwt_secret, exp=int(time.time()) + 6 * 86400)
    status, found = await doctor(RUNHOLD_WORKER_TOKEN=token, SUPABASE_SECRET_KEY="", OPENAI_API_KEY="")
    assert status == 8
    assert "`runhold worker-token` makes a new one" in found["worker token"]["says"]
    others = {name: each["state"] for name, each in found.items() if name != "worker token"}
    assert set(others.values()) == {"ok", "skipped"}, others


async def test_a_token_that_ended_is_unreachable(doctor: Doctor, stack: Project) -> None:
    status, found = await doctor(RUNHOLD_WORKER_TOKEN=signed(stack.jwt_secret, exp=int(time.time()) - 60))
    assert status == 4
    assert "RUNHOLD_WORKER_TOKEN ended on" in found["error"]["says"]


async def test_a_token_of_another_project_is_unreachable(doctor: Doctor) -> None:
    status, found = await doctor(RUNHOLD_WORKER_TOKEN=signed("x" * 40))
    assert status == 4
    assert "RUNHOLD_WORKER_TOKEN" in found["API"]["says"]
    assert "Realtime" not in found


async def test_a_url_where_nothing_answers_is_unreachable(doctor: Doctor) -> None:
    status, found = await doctor(SUPABASE_URL="http://127.0.0.1:9")
    assert status == 4
    assert found["API"]["state"] == "failed"
    assert "Realtime" not in found  # what follows from that is not told


async def test_migrations_of_another_version_fail(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "SCHEMA_VERSION", 99)
    status, found = await doctor()
    assert status == 1
    assert "older than this worker's (99)" in found["migrations"]["says"]


async def test_a_signing_key_that_the_project_does_not_know_fails(doctor: Doctor) -> None:
    status, found = await doctor(SUPABASE_JWT_SECRET="x" * 40)
    assert status == 1
    assert "SUPABASE_JWT_SIGNING_KEY" in found["ctx.supabase"]["says"]
    assert "PGRST301" in found["ctx.supabase"]["says"]


@pytest.mark.parametrize("swapped", ["SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"])
async def test_a_key_in_the_other_s_place_is_unreachable(
    doctor: Doctor, stack: Project, swapped: str
) -> None:
    wrong = stack.secret_key if swapped == "SUPABASE_PUBLISHABLE_KEY" else stack.publishable_key
    status, found = await doctor(**{"RUNHOLD_WORKER_TOKEN": "", swapped: wrong})
    assert status == 4
    assert swapped in str(found)


async def test_no_signing_key_is_said_and_no_fault(doctor: Doctor) -> None:
    status, found = await doctor(SUPABASE_JWT_SECRET="", SUPABASE_JWT_SIGNING_KEY="")
    assert status == 0
    assert found["ctx.supabase"]["state"] == "skipped"


@pytest.mark.parametrize(("offset_s", "side"), [(60, "ahead of"), (-60, "behind")])
async def test_a_clock_that_is_wrong_is_degraded(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, offset_s: float, side: str
) -> None:
    shifted = SimpleNamespace(time=lambda: time.time() + offset_s, monotonic=time.monotonic)
    monkeypatch.setattr(checkup, "time", shifted)
    status, found = await doctor()
    assert status == 8
    assert side in found["clock"]["says"]


async def test_a_model_that_does_not_answer_fails(doctor: Doctor) -> None:
    status, found = await doctor(OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert status == 1
    assert "127.0.0.1 does not answer" in found["model"]["says"]
    status, found = await doctor()  # something answers, if no list of models
    assert (status, found["model"]["state"]) == (0, "ok")
