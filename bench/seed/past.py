"""What the generator does, in order; the statements themselves are in ``rows.sql``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, cast

import psycopg
from psycopg.rows import scalar_row

from bench.seed.statements import statements

BATCH = 20_000
"""Runs per transaction: about 0.3 million rows, seconds."""

TABLES: tuple[LiteralString, ...] = (
    "agent_executions",
    "agent_steps",
    "agent_tool_calls",
    "agent_reviews",
    "agent_review_decisions",
)


@dataclass(frozen=True, kw_only=True)
class Past:
    """How much there shall be. ``days``: ended runs are spread over them, evenly, up to ``end``."""

    executions: int
    pending: int = 0
    paused: int = 0
    running: int = 0
    users: int = 100
    days: float = 30
    end: datetime
    seed: int = 1
    roll_up: bool = True


def seed(
    connection: psycopg.Connection[Any], past: Past, say: Callable[[str], None] = lambda _: None
) -> None:
    """Fill the database behind an autocommit ``connection``."""
    sql = statements("rows.sql")
    fixed = {
        "seed": past.seed,
        "users": past.users,
        "days": past.days,
        "end": past.end,
        "executions": past.executions,
    }
    with connection.transaction():
        connection.execute("set local synchronous_commit = off")
        for name in ("chance", "id_of", "bell"):
            connection.execute(sql[name])
        for name in ("users", "definitions", "types", "worker"):
            connection.execute(sql[name], fixed)
    say(f"{past.users} users")

    _load(
        connection,
        sql,
        fixed,
        past.executions,
        ("ended", "steps", "calls", "reviews", "decisions", "events"),
        say,
    )
    say(f"{past.executions} ended runs")
    for state, count in (("pending", past.pending), ("paused", past.paused), ("running", past.running)):
        names = ("open", "steps", "calls", "reviews", "events") if state != "pending" else ("open", "events")
        _load(connection, sql, fixed | {"state": state, "count": count}, count, names, say)
        say(f"{count} {state}")

    connection.execute(
        "vacuum (analyze) agent_executions, agent_steps, agent_tool_calls, agent_reviews, agent_events"
    )
    say("vacuumed")
    connection.execute(sql["forget_metrics"])
    with connection.cursor(row_factory=scalar_row) as cursor:
        while past.roll_up and (rolled := cursor.execute(sql["roll_up"]).fetchone()):
            say(f"{rolled} hours rolled up")
    connection.execute("vacuum (analyze) agent_metrics_hourly")


def _load(
    connection: psycopg.Connection[Any],
    sql: dict[str, LiteralString],
    fixed: dict[str, Any],
    count: int,
    names: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Rows 1 … count in batches: ``batch_<first name>`` says what the runs are, the other statements read it."""
    first, *others = names
    for number in range(math.ceil(count / BATCH)):
        span = {"first": number * BATCH + 1, "last": min((number + 1) * BATCH, count)}
        with connection.transaction(), _triggers_off(connection):
            connection.execute("set local synchronous_commit = off")
            connection.execute("drop table if exists pg_temp.batch")
            connection.execute(sql[f"batch_{first}"], fixed | span)
            connection.execute("analyze batch")
            for name in ("calls_of_batch", "executions", *others):
                for statement in sql[name].split(";\n"):
                    connection.execute(cast("LiteralString", statement), fixed)
        if number % 5 == 4:
            say(f"{span['last']} of {count}")


@contextmanager
def _triggers_off(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Within this transaction. Who may not switch foreign keys off has them checked, which takes longer."""
    try:
        with connection.transaction():
            connection.execute("set local session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        for table in TABLES:
            connection.execute(f"alter table public.{table} disable trigger user")
        yield
        for table in TABLES:
            connection.execute(f"alter table public.{table} enable trigger user")
    else:
        yield
