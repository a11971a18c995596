"""What is asked of a database with a long history and long queues, and how long an answer may take (design §11)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString
from uuid import uuid4

import psycopg

from bench.seed.queues import QUEUES, Queues

DEFINITION: Final[dict[str, Any]] = {
    "version": "1",
    "model": "scripted",
    "instructions": "Work.",
    "input_schema": {"type": "object"},
    "tools": [],
    "params": {},
    "limits": {"max_steps": 25, "max_tokens": 50_000, "total_timeout_s": 300, "step_timeout_s": 30},
    "max_attempts": 3,
}

CLAIM: Final[LiteralString] = "select public.agent_worker_claim(%(worker)s, 1, %(definitions)s, %(n)s)"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One call.

    :ivar file: where its plans are kept.
    :ivar title: the question in words.
    :ivar query: with parameters ``%(name)s``.
    :ivar user: whose rows it may see; None asks as the service.
    :ivar target_ms: by the clock; None if the design has none.
    """

    file: str
    title: str
    query: LiteralString
    given: dict[str, Any]
    user: str | None = None
    target_ms: float | None = None


@contextmanager
def asking(connection: psycopg.Connection[Any], user: str | None) -> Iterator[None]:
    """A transaction as PostgREST would open it, undone at its end."""
    role = "service_role" if user is None else "authenticated"
    claims = {"role": role} | ({} if user is None else {"sub": user})
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        connection.execute("select set_config('role', %s, true)", [role])
        yield


def register(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Make a worker for the queues, with a lease that does not end meanwhile. Parameters of :data:`CLAIM`."""
    worker = str(uuid4())
    about = {
        "id": worker,
        "hostname": "scale",
        "pid": os.getpid(),
        "version": "0",
        "capacity": 64,
        "lease_ms": 30_000,
    }
    definitions = [{**DEFINITION, "agent_type": name} for name in QUEUES]
    row = connection.execute(
        "select public.agent_worker_register(%s, %s) -> 'definitions'",
        [json.dumps(about), json.dumps(definitions)],
    ).fetchone()
    assert row is not None
    connection.execute(
        "update public.agent_workers set lease_expires_at = 'infinity' where id = %s", [worker]
    )
    return {"worker": worker, "definitions": row[0]}


def claims(registered: dict[str, Any], lengths: Queues) -> Iterator[Question]:
    """A claim from each queue, of one run and of 64."""
    what = {
        "plain": f"{lengths.runs:,} runs of {lengths.users:,} users",
        "future": f"{lengths.runs:,} runs whose time has not come",
        "behind": f"{lengths.behind:,} runs behind the {3 * lengths.runs:,} and more of other types",
        "capped": f"{lengths.runs:,} runs of {lengths.capped_users:,} users at their cap, ahead of "
        f"{lengths.single_users - lengths.capped_users:,} users with one run each",
        "fair": f"{lengths.runs:,} runs of one user, ahead of {lengths.single_users:,} users with one run each",
    }
    for queue in QUEUES:
        mine = json.dumps({queue: registered["definitions"][queue]})
        for n in (64, 1):
            yield Question(
                file=f"claim-{queue}.txt",
                title=f"A claim of {n} from: {what[queue]}",
                query=CLAIM,
                given={"worker": registered["worker"], "definitions": mine, "n": n},
                target_ms=10,
            )


def reads(connection: psycopg.Connection[Any]) -> Iterator[Question]:
    """What people ask about their runs, and operators about everybody's."""
    query: LiteralString = (
        "select user_id::text, count(*) from public.agent_executions where completed_at > now() - interval '7 days' "
        "group by 1 order by 2 desc limit 1"
    )
    row = connection.execute(query).fetchone()
    long = connection.execute(
        "select id::text, user_id::text from public.agent_executions where step_count = 100 limit 1"
    ).fetchone()
    assert row is not None
    assert long is not None
    user, runs = row
    metrics: LiteralString = "select public.agent_health_metrics()"
    yield Question(
        file="health-metrics.txt",
        title="agent_health_metrics, everybody's, 7 days",
        query=metrics,
        given={},
        target_ms=100,
    )
    yield Question(
        file="health-metrics-of-a-user.txt",
        title=f"agent_health_metrics of a user of {runs:,} runs, 7 days",
        query=metrics,
        given={},
        user=user,
    )
    yield Question(
        file="list-of-runs.txt",
        title="A user's list of runs, first page, as PostgREST asks it",
        query="select * from public.agent_executions order by created_at desc limit 50 offset 0",
        given={},
        user=user,
        target_ms=10,
    )
    yield Question(
        file="timeline.txt",
        title="agent_timeline of a run of 100 steps",
        query="select public.agent_timeline(%(run)s)",
        given={"run": long[0]},
        user=long[1],
        target_ms=20,
    )
