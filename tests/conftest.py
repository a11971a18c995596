"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from stack_thread import running_stack
from supabase_project import OPTIONAL, VARIABLES, ExternalProject, Project, Refused

from runhold.local.stack import LocalStack
from runhold.testing.chaos import ForkServer

# A shell without job control ignores SIGINT in what it starts in the background (`make test &`), and children inherit
# that: then no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
TEMPLATE = "runhold_template"
_numbers = itertools.count(1)

POLL_S = "0.1"
"""Between polls of workers without Realtime: as often as wake-ups may come, so that tests take as long as with it."""


EXTERNAL = pytest.StashKey[ExternalProject | None]()

LOCAL_FIXTURES = {
    "local_stack": "needs a local stack",
    "postgres": "needs a PostgreSQL server of its own",
}
LOCAL_FOLDERS = {
    "bench": "starts a stack of its own",
    "browser": "starts Chromium beside the local stack",
    "db": "needs a PostgreSQL server of its own",
    "local": "tests the local stack itself",
    "realtime": "tests the local stack's Realtime server",
    "restore": "starts a stack of its own",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-realtime", action="store_true", help="worker processes poll instead of listening")
    parser.addoption(
        "--external",
        action="store_true",
        help="use the project of RUNHOLD_TEST_…; an error if they are not set",
    )
    parser.addoption(
        "--project-ref", metavar="REF", help="the external project that may contain runs already"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-realtime"):
        os.environ.update(RUNHOLD_REALTIME="0", RUNHOLD_POLL=POLL_S)
    try:
        config.stash[EXTERNAL] = _external_project(config)
    except Refused as refused:
        raise pytest.UsageError(str(refused)) from None


def _external_project(config: pytest.Config) -> ExternalProject | None:
    """The project that the environment names, checked. Nothing is written to one that is refused."""
    project = ExternalProject.taken_from(os.environ, required=config.getoption("--external"))
    if project is None:
        return None
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise Refused("Tests on an external project run in one process: leave out --numprocesses (-n).")
    project.check(config.getoption("--project-ref"))
    return project


def pytest_report_header(config: pytest.Config) -> str | None:
    project = config.stash[EXTERNAL]
    return project and f"external project: {project.reference} ({project.url})"


LONG_FIRST = (
    "tests/stack/demo/test_demo.py",
    "tests/stack/local/test_lifecycle.py",
    "tests/stack/runs/test_reload.py",
    "tests/stack/external",
    "tests/stack/runs/test_outages.py",
    "tests/chaos",
    "tests/db/machine",
    "tests/stack/local/test_placement.py",
    "tests/stack/local/test_parts.py",
    "tests/stack/restore",
    "tests/browser",
    "tests/stack/runs",
)
"""Files that take longest, mostly by waiting: begun first, so that no process is left alone with one at the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more process than there are cores: many tests wait for processes and servers of theirs."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    paths = [str(ROOT / each) for each in LONG_FIRST]
    items.sort(
        key=lambda item: next(
            (n for n, path in enumerate(paths) if str(item.path).startswith(path)), len(paths)
        )
    )
    for item in items:
        if config.getoption("--no-realtime") and item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.skip(reason="about a worker's Realtime, which is off"))
        if config.stash[EXTERNAL] and (reason := _needs_local_stack(item)):
            item.add_marker(pytest.mark.skip(reason=f"local stack only: {reason}"))


def _needs_local_stack(item: pytest.Item) -> str | None:
    """Why the test can't run on an external project; None if it can."""
    if marker := item.get_closest_marker("local_stack"):
        return str(marker.args[0])
    if folder := next((folder for folder in LOCAL_FOLDERS if folder in item.path.parent.parts), None):
        return LOCAL_FOLDERS[folder]
    fixtures = getattr(item, "fixturenames", ())
    return next((reason for name, reason in LOCAL_FIXTURES.items() if name in fixtures), None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    project = config.stash[EXTERNAL]
    if project is None:
        return
    stats = terminalreporter.stats
    ran = sum(len(stats.get(kind, ())) for kind in ("passed", "failed"))
    skipped = len(stats.get("skipped", ()))
    terminalreporter.write_line(
        f"external project {project.reference}: {ran} tests run, {skipped} skipped (reasons below)"
    )


@pytest.fixture(scope="session")
def external(request: pytest.FixtureRequest) -> Iterator[ExternalProject | None]:
    """The project that the environment names, left as it was found; None: the tests use local stacks."""
    project = request.config.stash[EXTERNAL]
    if project is None:
        yield None
        return
    project.begin()
    try:
        yield project
    finally:
        changed = project.end()
    assert not changed, f"a test did not set back: {changed}"


@pytest.fixture(scope="session")
def stack(external: ExternalProject | None, request: pytest.FixtureRequest) -> Project:
    """The project with the migrations applied, shared by all tests that use the API: a local stack, or an external one.

    A test that needs more than `Project` has requests `local_stack`.
    """
    return external or request.getfixturevalue("local_stack")


@pytest.fixture(scope="session")
def local_stack() -> Iterator[LocalStack]:
    """The local stack behind `stack`, on free ports. Tests that request it are skipped on an external project."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="session")
def signs_tokens(external: ExternalProject | None) -> None:
    """Skip tests that sign tokens, or whose agents act as users, on a project without a shared JWT secret."""
    if external and not external.jwt_secret:
        pytest.skip(f"signs tokens: {VARIABLES[OPTIONAL]} is not set")


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Starts worker processes in milliseconds."""
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalStack]:
    """Only PostgreSQL with the bootstrap and the migrations applied: for tests of SQL. Up in about a second."""
    with running_stack(api=False, realtime=False) as running:
        with psycopg.connect(running.superuser_url, autocommit=True) as connection:
            # Made while nobody is connected to the original, which copying requires.
            connection.execute(f"create database {TEMPLATE} template postgres owner postgres")
        yield running


@pytest.fixture(scope="session")
def database_url(postgres: LocalStack) -> str:
    """The migrated database that all SQL tests share, as role postgres: leave no rows behind."""
    return postgres.database_url


@pytest.fixture
def fresh_database_url(postgres: LocalStack) -> Iterator[str]:
    """A migrated database of this test's own, as role postgres: for tests that commit from several connections."""
    name = f"test_{next(_numbers)}"
    identifier = sql.Identifier(name)
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {} owner postgres").format(
                identifier, sql.Identifier(TEMPLATE)
            )
        )
        try:
            yield urlsplit(postgres.database_url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier))
