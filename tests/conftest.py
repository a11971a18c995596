"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from stack_thread import running_stack

from runhold.local.stack import LocalStack
from runhold.testing.chaos import ForkServer

# A shell without job control ignores SIGINT in what it starts in the background (`make test &`), and children inherit
# that: then no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = "runhold_template"
_numbers = itertools.count(1)

POLL_S = "0.1"
"""Between polls of workers without Realtime: as often as wake-ups may come, so that tests take as long as with it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-realtime", action="store_true", help="worker processes poll instead of listening")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-realtime"):
        os.environ.update(RUNHOLD_REALTIME="0", RUNHOLD_POLL=POLL_S)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-realtime"):
        for item in items:
            if item.get_closest_marker("realtime"):
                item.add_marker(pytest.mark.skip(reason="about a worker's Realtime, which is off"))


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The whole stack with the migrations applied, on free ports, shared by all tests that speak to the API."""
    with running_stack() as running:
        yield running


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
