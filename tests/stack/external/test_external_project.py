"""The stack tests on a project that they did not start: a second local stack, known by its address and keys alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import psycopg
import pytest
from psycopg import sql
from supabase_project import VARIABLES, ExternalProject, Refused

from runhold.local.control import erase

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.local_stack("starts a second local stack"),
    pytest.mark.xdist_group("external"),
]

ROOT = Path(__file__).parents[3]
GATE = "tests/stack/runs/test_gate.py"
WITH_SECRET = (GATE, "tests/stack/runs/test_hosted_rules.py", "tests/stack/security/test_topics.py")
WITHOUT_SECRET = ("tests/stack/runs/test_steering.py", "tests/stack/runs/test_worker_role.py")
"""What stands for the whole suite: runs with a review and a fork, Realtime, several users, and what is skipped."""

STAYS = {
    "agent_types",
    "agent_definitions",
    "agent_metrics_hourly",
    "metrics_marks",
    "metrics_state",
    "liveness",
    "audit_log_entries",
}
"""Tables that change although every test cleans up: docs/guides/test-against-supabase.md names them."""

Environment = dict[str, str]


def runhold(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "runhold", "stack", *arguments, "--folder", str(folder / "stack")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def given() -> Iterator[Environment]:
    """The variables of a stack that runs in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="runhold-external-"))
    folder.chmod(0o755)
    try:
        runhold(folder, "start", "--port", "0")
        env = json.loads(runhold(folder, "env", "--json"))
        names = (
            "SUPABASE_URL",
            "SUPABASE_PUBLISHABLE_KEY",
            "SUPABASE_SECRET_KEY",
            "SUPABASE_JWT_SECRET",
            "DATABASE_URL",
        )
        yield dict(zip(VARIABLES.values(), (env[name] for name in names), strict=True))
        runhold(folder, "stop")
    finally:
        erase(folder / "stack")
        folder.rmdir()


@pytest.fixture
def one_run(given: Environment) -> Iterator[str]:
    """Somebody's run, who is no user of the tests."""
    with psycopg.connect(given["RUNHOLD_TEST_DATABASE_URL"], autocommit=True) as connection:
        user = "00000000-0000-4000-8000-000000000001"
        connection.execute("insert into auth.users (id, email) values (%s, 'ada@example.com')", [user])
        connection.execute("insert into public.agent_types (name) values ('theirs')")
        row = connection.execute(
            "insert into public.agent_executions (user_id, agent_type, input_data) values (%s, 'theirs', '{}')"
            " returning id",
            [user],
        ).fetchone()
        assert row is not None
        yield str(row[0])
        connection.execute("delete from public.agent_executions where id = %s", [row[0]])
        connection.execute("delete from public.agent_types where name = 'theirs'")
        connection.execute("delete from auth.users where id = %s", [user])


def rows(given: Environment) -> dict[str, int]:
    """How many rows each table has."""
    with psycopg.connect(given["RUNHOLD_TEST_DATABASE_URL"], autocommit=True) as connection:
        names = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname in ('public', 'runhold', 'auth')"
        ).fetchall()
        counts: dict[str, int] = {}
        for name in names:
            row = connection.execute(
                sql.SQL("select count(*) from {}").format(sql.Identifier(*name))
            ).fetchone()
            assert row is not None
            counts[name[1]] = row[0]
    return {name: count for name, count in counts.items() if name not in STAYS}


def run_tests(given: Environment, *arguments: str) -> tuple[int, str]:
    """Run tests as `make test-external` does: the exit status, and all that was printed, in which no secret is."""
    mine = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "RUNHOLD_TEST_"))
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--external", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env={**mine, **given}, capture_output=True, text=True, timeout=200, check=False
    )
    printed = ended.stdout + ended.stderr
    for name in ("SECRET_KEY", "JWT_SECRET", "DATABASE_URL"):
        value = given.get(f"RUNHOLD_TEST_{name}")
        assert not value or value not in printed
    return ended.returncode, printed


def legacy_keys(given: Environment) -> Environment:
    """Return the anon and service_role keys that projects had before publishable and secret keys."""
    claims = {"iss": "supabase", "exp": int(time.time()) + 3600}
    return {
        f"RUNHOLD_TEST_{name}": jwt.encode({**claims, "role": role}, given["RUNHOLD_TEST_JWT_SECRET"])
        for name, role in {"PUBLISHABLE_KEY": "anon", "SECRET_KEY": "service_role"}.items()
    }


def test_tests_pass_with_legacy_keys_and_leave_the_project_as_it_was(
    given: Environment, one_run: str
) -> None:
    before = rows(given)
    reference = given["RUNHOLD_TEST_URL"].removeprefix("http://")
    status, printed = run_tests({**given, **legacy_keys(given)}, "--project-ref", reference, *WITH_SECRET)
    assert status == 0, printed[-6000:]
    assert f"external project {reference}: " in printed
    assert "local stack only: the rule is loaded by the tests' own stack" in printed
    assert "is not set" not in printed
    assert not rows(given).items() ^ before.items()


def test_without_the_jwt_secret_what_signs_tokens_is_skipped_and_the_rest_passes(given: Environment) -> None:
    before = rows(given)
    status, printed = run_tests({**given, "RUNHOLD_TEST_JWT_SECRET": ""}, *WITHOUT_SECRET)
    assert status == 0, printed[-6000:]
    assert "signs tokens: RUNHOLD_TEST_JWT_SECRET is not set" in printed
    assert not rows(given).items() ^ before.items()


def test_a_project_with_runs_is_refused_unless_its_reference_is_repeated(
    given: Environment, one_run: str
) -> None:
    reference = given["RUNHOLD_TEST_URL"].removeprefix("http://")
    before = rows(given)
    status, printed = run_tests(given, GATE)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert printed.strip() == (
        f"ERROR: Project {reference} contains 1 run(s): if the tests may use it nevertheless, repeat its reference, "
        f"make test-external REF={reference} (pytest --project-ref {reference})."
    )
    assert not rows(given).items() ^ before.items()
    project = ExternalProject.taken_from({**given})
    assert project is not None
    project.check(reference)
    with pytest.raises(Refused, match="project reference elsewhere was given"):
        project.check("elsewhere")


def test_missing_variables_are_named(given: Environment) -> None:
    without = {**given, "RUNHOLD_TEST_SECRET_KEY": "", "RUNHOLD_TEST_DATABASE_URL": ""}
    with pytest.raises(
        Refused, match=r"^RUNHOLD_TEST_SECRET_KEY and RUNHOLD_TEST_DATABASE_URL are not set: "
    ):
        ExternalProject.taken_from(without)
    with pytest.raises(Refused, match="RUNHOLD_TEST_URL and "):
        ExternalProject.taken_from({}, required=True)
    assert ExternalProject.taken_from({}) is None


WRONG = {
    "RUNHOLD_TEST_URL": "http://127.0.0.1:9",
    "RUNHOLD_TEST_PUBLISHABLE_KEY": "sb_publishable_of_somebody_else",
    "RUNHOLD_TEST_SECRET_KEY": "sb_secret_of_somebody_else",
    "RUNHOLD_TEST_JWT_SECRET": "x" * 40,
    "RUNHOLD_TEST_DATABASE_URL": "postgresql://postgres:planted@pass@127.0.0.1:9/postgres",
}


@pytest.mark.parametrize("variable", WRONG)
def test_a_wrong_value_is_named_and_not_repeated(given: Environment, variable: str) -> None:
    project = ExternalProject.taken_from({**given, variable: WRONG[variable]})
    assert project is not None
    before = rows(given)
    with pytest.raises(Refused) as refused:
        project.check(None)
    assert variable in str(refused.value)
    assert WRONG[variable] not in str(refused.value)
    assert "planted" not in str(refused.value)
    assert not rows(given).items() ^ before.items()


def test_a_database_without_migrations_is_refused(given: Environment) -> None:
    url = urlsplit(given["RUNHOLD_TEST_DATABASE_URL"])._replace(path="/template1").geturl()
    empty = ExternalProject.taken_from({**given, "RUNHOLD_TEST_DATABASE_URL": url})
    assert empty is not None
    with pytest.raises(Refused, match=r"migrations are not applied.*supabase db push"):
        empty.check(None)


def test_the_database_of_another_project_is_refused(given: Environment, database_url: str) -> None:
    before = rows(given)
    mixed = ExternalProject.taken_from({**given, "RUNHOLD_TEST_DATABASE_URL": database_url})
    assert mixed is not None
    with pytest.raises(Refused, match="the database of another project than RUNHOLD_TEST_URL"):
        mixed.check(None)
    assert not rows(given).items() ^ before.items()


def test_the_reference_is_the_projects_or_host_and_port(given: Environment) -> None:
    for url, reference in {
        "https://abcdefghijklmnopqrst.supabase.co/": "abcdefghijklmnopqrst",
        "https://api.example.com": "api.example.com",
        "http://127.0.0.1:54321": "127.0.0.1:54321",
    }.items():
        project = ExternalProject.taken_from({**given, "RUNHOLD_TEST_URL": url})
        assert project is not None
        assert project.reference == reference
