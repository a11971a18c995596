"""Fixtures of the SQL tests.

One database serves them all and is emptied after each test: copying a fresh one takes ten times as long.
``fresh_database_url`` is for tests that change the schema or the roles' rights.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from budget_world import assert_balanced
from world import Row, World, connect

from runhold.local.stack import LocalStack

EMPTY = """
set lock_timeout = '10s';
delete from auth.users;
delete from public.agent_workers;
delete from public.agent_types;
delete from public.agent_definitions;
delete from public.agent_budgets;
delete from public.agent_usage;
delete from public.model_prices;
delete from realtime.messages;
delete from runhold.user_changes;
update runhold.settings set value = '{app_metadata,tenant_id}' where name = 'tenant_claim';
update runhold.settings set value = null where name <> 'tenant_claim';
update runhold.liveness
set last_beat_at = now(), beating_since = now(), last_sweep_at = now(), sweeping_since = now();
select setval('runhold.last_wake', 0);
select runhold.forget_metrics();
"""


@pytest.fixture(scope="session")
def shared_database_url(postgres: LocalStack) -> str:
    """A migrated database for all SQL tests."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("create database db_tests template runhold_template owner postgres")
    return urlsplit(postgres.database_url)._replace(path="/db_tests").geturl()


@pytest.fixture(scope="session")
def shared_connection(shared_database_url: str) -> Iterator[psycopg.Connection[Row]]:
    """One connection for all tests: it keeps the plans of our functions, as a worker's connections do."""
    with connect(shared_database_url) as connection:
        yield connection


@pytest.fixture
def world(shared_database_url: str, shared_connection: psycopg.Connection[Row]) -> Iterator[World]:
    """An empty, migrated database, and people to fill it."""
    made = World(shared_database_url, shared_connection)
    try:
        yield made
    finally:
        made.close_others()
        shared_connection.execute("reset all")
        shared_connection.execute(EMPTY)


@pytest.fixture
def balanced(world: World) -> Iterator[None]:
    """After the story, what is reserved in budgets is what running runs hold."""
    yield
    assert_balanced(world)


@pytest.fixture
def fresh_world(fresh_database_url: str) -> Iterator[World]:
    """A database of this test's own."""
    made = World(fresh_database_url)
    try:
        yield made
    finally:
        made.close()
