"""What must stay fast however long the history is uses its indexes: docs/plans has the same plans at a million
runs, which `make bench-scale` makes.

At a small size PostgreSQL would rather read whole tables, so that is switched off here: where an index no longer fits its
query, the plan has nothing left but the whole table, and the test fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg
import pytest
from bench.scale.explain import explaining
from bench.seed.past import Past, seed
from world import Row, World, connect

from runhold.local.stack import LocalStack

BIG = "agent_executions|agent_steps|agent_tool_calls|agent_reviews|agent_events|agent_metrics_hourly"


@pytest.fixture(scope="module")
def seeded(postgres: LocalStack) -> Iterator[World]:
    """300 runs that ended, and some that did not; the role may switch auto_explain on."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
        connection.execute("create database plans template runhold_template owner postgres")
        url = urlsplit(postgres.superuser_url)._replace(path="/plans").geturl()
        world = World(url, connect(url))
        try:
            made = Past(
                executions=300, pending=50, paused=5, running=5, users=5, days=1, end=datetime.now(UTC)
            )
            seed(world.connection, made)
            world.sql("set enable_seqscan = off")
            yield world
        finally:
            world.close()
            connection.execute("drop database plans with (force)")


def plans(world: World, query: str, user: str | None = None) -> str:
    """The plans of a query and of all that it calls; without a user, as the service."""
    with explaining(world.connection) as told:
        if user is None:
            world.service(query)
        else:
            world.user(user, query)
    return "\n".join(told)


def whole_tables(text: str) -> list[str]:
    return re.findall(rf"Seq Scan on (?:{BIG})\b", text)


def used(text: str) -> set[str]:
    return set(re.findall(r"(?:Index(?: Only)? Scan(?: Backward)? using|Bitmap Index Scan on) (\w+)", text))


def a_run(world: World) -> Row:
    return world.sql("select id, user_id from agent_executions where step_count = 100")[0]


def test_everybody_s_health(seeded: World) -> None:
    text = plans(seeded, "select agent_health_metrics()")
    assert whole_tables(text) == []
    assert used(text) >= {
        "agent_executions_ended_idx",
        "agent_executions_of_type_idx",
        "agent_executions_waiting_idx",
        "agent_metrics_hourly_flow_idx",
        "agent_metrics_hourly_pkey",
        "one_call_per_position",
    }


def test_a_user_s_health(seeded: World) -> None:
    text = plans(seeded, "select agent_health_metrics()", str(a_run(seeded)["user_id"]))
    assert whole_tables(text) == []
    assert used(text) >= {"agent_executions_of_user_idx", "one_call_per_position"}


def test_timeline(seeded: World) -> None:
    run = a_run(seeded)
    text = plans(seeded, f"select agent_timeline('{run['id']}')", str(run["user_id"]))
    assert whole_tables(text) == []
    assert used(text) >= {
        "agent_events_pkey",
        "agent_steps_pkey",
        "one_call_per_position",
        "agent_reviews_of_execution_idx",
        "agent_messages_of_execution_idx",
    }


def test_list_of_runs(seeded: World) -> None:
    """In the order of the index: the first page costs fifty rows, however many there are."""
    user = str(a_run(seeded)["user_id"])
    seeded.sql("set enable_sort = off")
    text = plans(seeded, "select * from agent_executions order by created_at desc limit 50", user)
    seeded.sql("reset enable_sort")
    assert used(text) == {"agent_executions_of_user_idx"}
    assert "Sort" not in text


def test_index_that_is_gone_is_noticed(seeded: World) -> None:
    """The tests above can fail."""
    run = a_run(seeded)
    with explaining(seeded.connection) as told, seeded.connection.transaction(force_rollback=True):
        seeded.connection.execute("alter table agent_events drop constraint agent_events_pkey")
        seeded.user(str(run["user_id"]), f"select agent_timeline('{run['id']}')")
    assert whole_tables("\n".join(told)) == ["Seq Scan on agent_events"]
