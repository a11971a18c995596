"""After a restore, `runhold doctor` names what the backup left out and brings it back; then workers go on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import clerk
import psycopg
import pytest
from backup import Backup
from psycopg import sql
from stack_thread import running_stack
from test_installation import CRON
from town import Town, eventually

from runhold.cli.app import run
from runhold.cli.repair import ask_database, repair
from runhold.local.stack import LocalStack
from runhold.testing import ScriptedModel
from runhold.testing.chaos import ForkServer

USER = "00000000-0000-0000-0000-00000000000a"

LEFT_OUT = {
    "role membership of authenticator in runhold_worker",
    "role membership of supabase_realtime_admin in runhold_worker",
    "trigger runhold_before_user_delete on auth.users",
    "trigger runhold_after_user_delete on auth.users",
    "trigger runhold_after_user_change on auth.users",
    'policy "runhold: owners and reviewers listen" on realtime.messages',
    'policy "runhold: workers listen" on realtime.messages',
    'policy "runhold: workers tell progress" on realtime.messages',
    "cron job runhold-sweep",
    "cron job runhold-prune",
}

Doctor = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture(scope="module")
def new_project(postgres: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A project with pg_cron, into which the backup of another one was just restored."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("create database restore_tests template runhold_template owner postgres")
    old = urlsplit(postgres.database_url)._replace(path="/restore_tests").geturl()
    fill(old)
    backup = Backup.make(old, tmp_path_factory.mktemp("backup"))
    with running_stack(migrations=False) as stack:
        with psycopg.connect(stack.superuser_url, autocommit=True) as connection:
            connection.execute(CRON)
        backup.restore(stack.database_url)
        yield stack


def fill(database_url: str) -> None:
    """A user with a run that a worker holds, and one that is queued."""
    worker = {"id": USER, "hostname": "t", "pid": 1, "version": "0", "lease_ms": 1000}
    plan = json.dumps({"plan": [["say", "Done."]]})
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("insert into auth.users (id, email) values (%s, 'ada@example.org')", [USER])
        submit = (
            "insert into public.agent_executions (user_id, agent_type, input_data) values (%s, 'clerk', %s)"
        )
        registration = connection.execute(
            "select runhold.worker_register(%s, %s) -> 'definitions'",
            [json.dumps(worker), json.dumps([clerk.agent.definition()])],
        ).fetchone()
        assert registration is not None
        connection.execute(submit, [USER, plan])
        connection.execute("select runhold.worker_claim(%s, 1, %s, 1)", [USER, json.dumps(registration[0])])
        connection.execute(submit, [USER, plan])
        statuses = connection.execute("select status from public.agent_executions order by created_at")
        assert statuses.fetchall() == [("running",), ("pending",)]


@pytest.fixture
async def repaired(new_project: LocalStack) -> LocalStack:
    """The same project, as in the release."""
    await repair(new_project.database_url)
    return new_project


@pytest.fixture
def doctor(
    new_project: LocalStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Calls `runhold doctor --json` with these options; (exit status, what it answers)."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**new_project.env(), "OPENAI_API_KEY": ""}.items():
        monkeypatch.setenv(name, value)

    async def call(*options: str) -> tuple[int, Any]:
        status = await asyncio.to_thread(run, ["doctor", "--json", *options])
        shown = capsys.readouterr()
        assert secret_of(new_project) not in shown.out + shown.err
        return status, json.loads(shown.out) if shown.out else shown.err

    return call


def secret_of(stack: LocalStack) -> str:
    return re.split("[:@]", stack.database_url)[2]


def installation(findings: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in findings if each["check"] == "installation")


async def test_what_a_backup_leaves_out_is_named_and_repaired_and_runs_go_on(
    new_project: LocalStack,
    doctor: Doctor,
    forks: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, findings = await doctor()
    assert status == 4
    api = next(each for each in findings if each["check"] == "API")
    assert "gives the role back" in api["says"]  # the API can't take on the role of the worker's token
    assert {line.removeprefix("missing").strip() for line in installation(findings)["details"]} == LEFT_OUT
    monkeypatch.setenv("RUNHOLD_WORKER_TOKEN", "")
    status, findings = await doctor()  # the secret key gets in, and more is asked
    assert (status, installation(findings)["state"], len(installation(findings)["details"])) == (
        1,
        "failed",
        10,
    )

    status, answer = await doctor("--repair")  # without a URL, nothing is changed
    assert status == 0
    assert "CREATE OR REPLACE TRIGGER runhold_after_user_change" in answer["sql"]
    assert len(installation((await doctor())[1])["details"]) == 10

    status, answer = await doctor("--repair", "--database-url", new_project.database_url)
    assert (status, answer["left"], len(answer["repaired"])) == (0, [], 10)
    status, answer = await doctor("--repair", "--database-url", new_project.database_url)
    assert (status, answer) == (0, {"repaired": [], "left": []})
    monkeypatch.setenv("RUNHOLD_WORKER_TOKEN", new_project.env()["RUNHOLD_WORKER_TOKEN"])
    status, findings = await doctor()
    assert (status, installation(findings)["state"], installation(findings)["details"]) == (0, "ok", [])

    monkeypatch.setenv("CLERK_FOLDER", str(tmp_path))
    async with ScriptedModel(clerk.script) as model:
        town = Town(new_project, tmp_path, model.base_url, forks)
        try:
            town.worker(lease_s=1)
            with psycopg.connect(new_project.database_url, autocommit=True) as connection:
                query = "select array_agg(status) from public.agent_executions where user_id = %s"
                await eventually(
                    lambda: connection.execute(query, [USER]).fetchone() == (["completed"] * 2,),
                    "the restored runs",
                )
        finally:
            for worker in town.workers:
                worker.kill()


async def test_the_printed_sql_repairs_as_well(repaired: LocalStack, doctor: Doctor) -> None:
    """Pasted into the SQL editor: one text, one transaction."""
    with psycopg.connect(repaired.superuser_url, autocommit=True) as connection:
        connection.execute("drop trigger runhold_after_user_change on auth.users")
        connection.execute("drop function runhold.erase_some(uuid, integer)")
    with psycopg.connect(repaired.database_url, autocommit=True) as connection:
        connection.execute("grant select on public.agent_usage to anon")
        connection.execute((await doctor("--repair"))[1]["sql"].encode())
    status, findings = await doctor()
    assert (status, installation(findings)["state"]) == (0, "ok")
    assert await doctor("--repair") == (0, {"sql": ""})


async def test_rows_that_are_missing_are_told_in_a_sentence(repaired: LocalStack, doctor: Doctor) -> None:
    """The backup's schema was restored, its data was not."""
    with psycopg.connect(repaired.database_url, autocommit=True) as connection:
        rows = connection.execute("select * from runhold.release_objects").fetchall()
        connection.execute("truncate runhold.release_objects")
        try:
            status, findings = await doctor()
            assert (status, installation(findings)["state"]) == (1, "failed")
            assert installation(findings)["says"].startswith(
                "The rows of runhold.release_objects are missing"
            )
            status, error = await doctor("--repair", "--database-url", repaired.database_url)
            assert (status, error.count("\n")) == (4, 1)
            assert "The rows of runhold.release_objects are missing" in error
        finally:
            places = ", ".join(["%s"] * 7)
            with connection.cursor() as cursor:
                cursor.executemany(f"insert into runhold.release_objects values ({places})", rows)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("function", ["runhold.installation()", "runhold.describe_tables()"])
async def test_the_functions_that_compare_are_repaired_too(
    repaired: LocalStack, doctor: Doctor, function: str
) -> None:
    with psycopg.connect(repaired.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop function {} cascade").format(sql.SQL(function)))  # pyright: ignore[reportArgumentType]
        status, findings = await doctor()
        assert (status, installation(findings)["state"]) == (1, "failed")
        assert "A function that compares" in installation(findings)["says"]
        status, answer = await doctor("--repair")
        connection.execute(answer["sql"].encode())
        status, answer = await doctor("--repair")
        assert status == 0
        connection.execute(sql.SQL("drop function {} cascade").format(sql.SQL(function)))  # pyright: ignore[reportArgumentType]
    status, answer = await doctor("--repair", "--database-url", repaired.database_url)
    assert (status, answer["left"]) == (0, [])


async def test_a_statement_that_fails_changes_nothing(repaired: LocalStack, doctor: Doctor) -> None:
    """A rule that rows break by now."""
    with psycopg.connect(repaired.database_url, autocommit=True) as connection:
        connection.execute("drop trigger hint_events on public.agent_events")
        connection.execute("alter table runhold.settings drop constraint switches_are_on_or_off")
        connection.execute("update runhold.settings set value = 'perhaps' where name = 'tenant_check'")
        try:
            status, error = await doctor("--repair", "--database-url", repaired.database_url)
            assert status == 1
            assert error.startswith(
                "Error: The constraint switches_are_on_or_off on runhold.settings can't be repaired:"
            )
            assert error.rstrip().endswith("Nothing was changed.")
            trigger = "select from pg_trigger where tgname = 'hint_events'"
            assert connection.execute(trigger).fetchone() is None
        finally:
            connection.execute("update runhold.settings set value = null where name = 'tenant_check'")
    status, answer = await doctor("--repair", "--database-url", repaired.database_url)
    assert (status, len(answer["repaired"])) == (0, 2)


async def test_a_repair_waits_for_no_worker_for_long(
    repaired: LocalStack, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runhold.cli.repair.PREAMBLE", "set local lock_timeout = '10ms'")
    with trigger_gone(repaired):
        status, error = await doctor("--repair", "--database-url", repaired.database_url)
        assert status == 1
        assert "stop the workers, or try again. Nothing was changed." in error
    status, answer = await doctor("--repair", "--database-url", repaired.database_url)
    assert (status, len(answer["repaired"])) == (0, 1)


async def test_a_repair_that_is_interrupted_is_as_if_it_had_not_begun(repaired: LocalStack) -> None:
    with trigger_gone(repaired), psycopg.connect(repaired.database_url, autocommit=True) as watch:
        watch.execute("revoke execute on function public.agent_sweep() from service_role")
        interrupted = asyncio.create_task(repair(repaired.database_url))
        waits = (
            "select count(*) from pg_locks where not granted and relation = 'public.agent_events'::regclass"
        )
        await eventually(lambda: watch.execute(waits).fetchone() == (1,), "the repair waits for a lock")
        interrupted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await interrupted
        assert len((await ask_database(repaired.database_url)).named) == 2
    assert len((await repair(repaired.database_url)).repaired) == 2


@contextmanager
def trigger_gone(stack: LocalStack) -> Iterator[None]:
    """A trigger is missing, and a transaction writes to its table."""
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("drop trigger hint_events on public.agent_events")
        connection.commit()
        connection.execute("lock table public.agent_events in row exclusive mode")
        yield
        connection.rollback()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres:se@hunter@127.0.0.1:5432/postgres",
        "postgresql://postgres:hunter/se@127.0.0.1:5432/postgres",
        "postgresql://postgres:hunter%zz@127.0.0.1:5432/postgres",
        "postgresql://postgres:hunter@127.0.0.1:port/postgres",
        "host=127.0.0.1 password=hunter",
        "hunter",
    ],
)
async def test_a_url_that_is_none_is_not_shown(doctor: Doctor, url: str) -> None:
    status, error = await doctor("--repair", "--database-url", url)
    assert (status, error.count("\n")) == (2, 1)
    assert "The database URL can't be read" in error
    assert "hunter" not in error


async def test_a_database_that_is_not_reached_is_told_in_a_sentence(
    repaired: LocalStack, doctor: Doctor
) -> None:
    password = quote("p@ss/word", safe="")
    nobody = f"postgresql://postgres:{password}@127.0.0.1:9/postgres"
    status, error = await doctor("--repair", "--database-url", nobody)
    assert (status, error.count("\n")) == (4, 1)
    assert "can't be reached" in error
    assert "p@ss" not in error
    wrong = repaired.database_url.replace(secret_of(repaired), password)
    status, error = await doctor("--repair", "--database-url", wrong)
    assert (status, "password authentication failed" in error) == (4, True)
    assert "p@ss" not in error
    status, findings = await doctor("--database-url", nobody)  # the other checks go on
    assert (status, installation(findings)["state"]) == (1, "failed")
    assert {each["check"] for each in findings} >= {"API", "installation", "clock"}


async def test_a_role_that_may_not_compare_is_told_to_be_postgres(
    repaired: LocalStack, doctor: Doctor
) -> None:
    url = repaired.database_url.replace("//postgres:", "//authenticator:")
    status, error = await doctor("--repair", "--database-url", url)
    assert (status, error.count("\n")) == (1, 1)
    assert "connect as role postgres" in error


async def test_a_database_without_runhold_is_told_so(repaired: LocalStack, doctor: Doctor) -> None:
    url = repaired.database_url
    with psycopg.connect(repaired.superuser_url, autocommit=True) as connection:
        connection.execute("create database other owner postgres")
    status, error = await doctor("--repair", "--database-url", url.rpartition("/")[0] + "/other")
    assert (status, "has no schema runhold" in error) == (1, True)
