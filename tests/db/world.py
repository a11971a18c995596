"""A small world for SQL tests: people, agents and workers, spoken to as PostgREST would speak.

Every call runs in a transaction of its own on the world's connection (``autocommit``), with the role and the JWT claims
of whoever makes it. ``world.at(seconds)`` moves the database's clock.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

DEFINITION: dict[str, Any] = {
    "agent_type": "writer",
    "description": "Writes.",
    "version": "1",
    "model": "scripted",
    "instructions": "Write.",
    "input_schema": {"type": "object"},
    "tools": [
        {
            "name": "look",
            "description": "",
            "parameters": {"type": "object"},
            "effect": "read",
            "approval": False,
        },
        {
            "name": "save",
            "description": "",
            "parameters": {"type": "object"},
            "effect": "idempotent",
            "approval": False,
        },
        {
            "name": "send",
            "description": "",
            "parameters": {"type": "object"},
            "effect": "unsafe",
            "approval": True,
        },
    ],
    "params": {},
    "limits": {
        "max_steps": 25,
        "max_tokens": 50_000,
        "max_tool_calls": 100,
        "total_timeout_s": 300,
        "step_timeout_s": 30,
    },
    "max_attempts": 3,
    "review_ttl_s": 3600,
}

Row = dict[str, Any]
T = TypeVar("T")


def step(number: int, definition: str, *, tokens: int = 10, **more: Any) -> Row:
    """A model decision as a worker records it."""
    return {
        "step_number": number,
        "definition_id": definition,
        "message": {"role": "assistant", "content": f"step {number}"},
        "finish_reason": "stop",
        "input_tokens": tokens,
        "output_tokens": 0,
        **more,
    }


def call(number: int, position: int, tool: str, effect: str, status: str, **more: Any) -> Row:
    """A tool call as a worker records it."""
    return {
        "step_number": number,
        "position": position,
        "call_id": f"call_{number}_{position}",
        "tool_name": tool,
        "input": {"n": position},
        "effect": effect,
        "status": status,
        **more,
    }


def result(number: int, position: int, status: str = "succeeded", **more: Any) -> Row:
    """The end of a tool call as a worker records it."""
    return {"step_number": number, "position": position, "status": status, "latency_ms": 1, **more}


def question(number: int, position: int, kind: str = "approval", summary: str = "May it?") -> Row:
    """A review as a worker opens it."""
    return {"step_number": number, "position": position, "kind": kind, "summary": summary}


def adapted(*values: Any) -> list[Any]:
    """Values as psycopg takes them: lists and objects become jsonb."""
    return [Jsonb(value) if isinstance(value, dict | list) else value for value in values]


def connect(url: str) -> psycopg.Connection[Row]:
    return psycopg.Connection[Row].connect(url, autocommit=True, row_factory=dict_row)


@contextmanager
def refused(code: str, *, says: str = "", hint: str = "") -> Iterator[None]:
    """The block is refused with SQLSTATE ``code``, in these words."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    diagnostics = caught.value.diag
    assert diagnostics.sqlstate == code, caught.value
    assert says in (diagnostics.message_primary or "")
    assert hint in (diagnostics.message_hint or "")


@dataclass
class Worker:
    """A worker as the database knows it: an id, what it registered, and its counters."""

    world: World
    id: str
    definitions: dict[str, str]
    claim_seq: int = 0
    seqs: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def definition(self) -> str:
        return self.definitions["writer"]

    def claim(self, n: int = 10, *, seq: int | None = None) -> list[Row]:
        return self.claim_answer(n, seq=seq)["runs"]

    def claim_answer(self, n: int = 10, *, seq: int | None = None) -> Row:
        if seq is None:
            self.claim_seq += 1
            seq = self.claim_seq
        return self.world.service(
            "select agent_worker_claim(%s, %s, %s, %s)", self.id, seq, Jsonb(self.definitions), n
        )

    def entry(self, run: Row, *, seq: int | None = None, **body: Any) -> Row:
        key = (run["id"], run["fence"])
        if seq is None:
            seq = self.seqs.get(key, 0) + 1
            self.seqs[key] = seq
        return {"execution": run["id"], "fence": run["fence"], "seq": seq, **body}

    def record_all(self, entries: Sequence[Row]) -> list[Row]:
        return self.world.service("select agent_worker_record(%s, %s)", self.id, Jsonb(list(entries)))

    def record(self, run: Row, *, seq: int | None = None, **body: Any) -> Row:
        return self.record_all([self.entry(run, seq=seq, **body)])[0]

    def end(self, run: Row, to: str, **more: Any) -> Row:
        return self.record(run, transition={"to": to, **more})

    def heartbeat(self, held: Sequence[str] = ()) -> Row:
        return self.world.service(
            "select agent_worker_heartbeat(%s, %s::uuid[], %s)", self.id, list(held), self.claim_seq
        )

    def release(self, *runs: Row, reason: str = "shutdown", counted: bool = False) -> Row:
        return self.world.service(
            "select agent_worker_release(%s, %s::uuid[], %s, %s)",
            self.id,
            [run["id"] for run in runs],
            reason,
            counted,
        )

    def stop(self, *, draining: bool) -> Row:
        return self.world.service("select agent_worker_stop(%s, %s)", self.id, draining)


class Background(Generic[T]):
    """Something that runs in a thread of its own, because it will have to wait for a lock."""

    def __init__(self, world: World, work: Callable[[], T]) -> None:
        self._pid = world.connection.info.backend_pid
        self._watch_url = world.url
        self._future: Future[T] = Future()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._future.set_result(work())
        except BaseException as error:
            self._future.set_exception(error)

    def waits(self) -> bool:
        """Watch until it waits for a lock (True) or has ended without (False)."""
        with psycopg.connect(self._watch_url, autocommit=True) as watch:
            while not self._future.done():
                row = watch.execute("select cardinality(pg_blocking_pids(%s))", (self._pid,)).fetchone()
                if row is not None and row[0]:
                    return True
        return False

    def result(self) -> T:
        return self._future.result()


class World:
    """One database, spoken to by many people."""

    def __init__(self, url: str, connection: psycopg.Connection[Row] | None = None) -> None:
        self.url = url
        self.connection = connection or connect(url)
        self._others: list[World] = []

    def close_others(self) -> None:
        while self._others:
            self._others.pop().close()

    def close(self) -> None:
        self.close_others()
        self.connection.close()

    def another(self) -> World:
        """The same database over a connection of its own, closed with this one."""
        other = World(self.url)
        self._others.append(other)
        return other

    def background(self, work: Callable[[], T]) -> Background[T]:
        """Start ``work``, which speaks over this world's connection, without waiting for its end."""
        return Background(self, work)

    # ------------------------------------------------------------------------------------------- speaking

    @contextmanager
    def acting(
        self, role: str | None, user: str | None = None, **claims: Any
    ) -> Iterator[psycopg.Cursor[Row]]:
        """A transaction with ``role`` and the claims of ``user``."""
        with self.connection.transaction(), self.connection.cursor() as cursor:
            if role is not None:
                everything = {"role": role, **({"sub": user} if user else {}), **claims}
                cursor.execute("select set_config('request.jwt.claims', %s, true)", (json.dumps(everything),))
                cursor.execute(f"set local role {role}")
            yield cursor

    def sql(self, query: str, *args: Any) -> list[Row]:
        """As the owner of the database."""
        with self.acting(None) as cursor:
            cursor.execute(query, args)
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *args: Any) -> Any:
        """The first column of the first row, as the owner."""
        rows = self.sql(query, *args)
        return next(iter(rows[0].values())) if rows else None

    def service(self, query: str, *args: Any) -> Any:
        with self.acting("service_role") as cursor:
            cursor.execute(query, args)
            row = cursor.fetchone()
            return next(iter(row.values())) if row else None

    def user(self, user: str, query: str, *args: Any, **claims: Any) -> list[Row]:
        """As a signed-in user."""
        with self.acting("authenticated", user, **claims) as cursor:
            cursor.execute(query, args)
            return cursor.fetchall() if cursor.description else []

    def anon(self, query: str, *args: Any) -> list[Row]:
        with self.acting("anon") as cursor:
            cursor.execute(query, args)
            return cursor.fetchall() if cursor.description else []

    def at(self, seconds: float | None) -> None:
        """Move the database's clock to ``seconds`` from now for all that follows; None: back to the real one."""
        self.connection.execute(
            "select set_config('runhold.now', coalesce((clock_timestamp() + make_interval(secs => %s))::text, ''), false)",
            (seconds,),
        )

    # -------------------------------------------------------------------------------------------- people

    def person(self, **app_metadata: Any) -> str:
        """A new user."""
        user = str(uuid.uuid4())
        self.sql(
            "insert into auth.users (id, email, raw_app_meta_data) values (%s, %s, %s)",
            user,
            f"{user}@example.org",
            Jsonb(app_metadata),
        )
        return user

    def reviewer(self, **scope: Any) -> str:
        """A new user who may decide reviews within ``scope`` (tenant_id, agent_type, tool_name, role)."""
        user = self.person()
        self.appoint(user, **scope)
        return user

    def appoint(self, user: str, **scope: Any) -> None:
        columns = {"user_id": user, **scope}
        self.sql(
            f"insert into runhold.reviewers ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
            *columns.values(),
        )

    # -------------------------------------------------------------------------------------------- actors

    def worker(self, *definitions: Row, lease_ms: int = 30_000) -> Worker:
        """A newly registered worker."""
        identity = str(uuid.uuid4())
        answer = self.service(
            "select agent_worker_register(%s, %s)",
            Jsonb(
                {
                    "id": identity,
                    "hostname": "h",
                    "pid": 1,
                    "version": "0",
                    "capacity": 64,
                    "lease_ms": lease_ms,
                }
            ),
            Jsonb(list(definitions or (DEFINITION,))),
        )
        return Worker(self, identity, answer["definitions"])

    def submit(self, user: str, agent_type: str = "writer", **columns: Any) -> str:
        """A row inserted by ``user``; its id."""
        values = {"agent_type": agent_type, "input_data": {"x": 1}, **columns}
        rows = self.user(
            user,
            f"insert into agent_executions ({', '.join(values)}) values ({', '.join(['%s'] * len(values))}) returning id",
            *adapted(*values.values()),
        )
        return str(rows[0]["id"])

    def run(self, run_id: str) -> Row:
        return self.sql("select * from agent_executions where id = %s", run_id)[0]

    def status(self, run_id: str) -> str:
        return self.run(run_id)["status"]

    def calls(self, run_id: str) -> list[Row]:
        return self.sql(
            "select * from agent_tool_calls where execution_id = %s order by step_number, position", run_id
        )

    def reviews(self, run_id: str, status: str = "pending") -> list[Row]:
        return self.sql(
            "select * from agent_reviews where execution_id = %s and status = %s order by requested_at, id",
            run_id,
            status,
        )

    def events(self, run_id: str) -> list[str]:
        return [
            row["kind"]
            for row in self.sql("select kind from agent_events where execution_id = %s order by id", run_id)
        ]

    def decide(self, reviewer: str, review_id: Any, status: str = "approved", **columns: Any) -> list[Row]:
        values = {"status": status, **columns}
        return self.user(
            reviewer,
            f"update agent_reviews set {', '.join(f'{c} = %s' for c in values)} where id = %s returning *",
            *adapted(*values.values()),
            review_id,
        )

    # ------------------------------------------------------------------------------------------- stories

    def insert(self, user: str, **columns: Any) -> str:
        """A row inserted by ``user`` with exactly these columns; its id."""
        rows = self.user(
            user,
            f"insert into agent_executions ({', '.join(columns)})"
            f" values ({', '.join(['%s'] * len(columns))}) returning id",
            *adapted(*columns.values()),
        )
        return str(rows[0]["id"])

    def configure(self, agent_type: str = "writer", **columns: Any) -> None:
        """What an operator sets about a type."""
        self.sql(
            f"update agent_types set {', '.join(f'{c} = %s' for c in columns)} where name = %s",
            *[Jsonb(v) if isinstance(v, dict) else v for v in columns.values()],
            agent_type,
        )

    def running(self, worker: Worker, user: str, **columns: Any) -> Row:
        """A new run that ``worker`` has claimed."""
        run_id = self.submit(user, **columns)
        return next(run for run in worker.claim() if run["id"] == run_id)

    def gate(self, worker: Worker, run: Row, n: int = 1, *, step_number: int = 1) -> None:
        """A step with ``n`` calls that a person must approve, not paused yet."""
        verdict = worker.record(
            run,
            steps=[step(step_number, worker.definition)],
            calls=[call(step_number, i, "send", "unsafe", "awaiting_review") for i in range(n)],
            reviews=[question(step_number, i) for i in range(n)],
        )
        assert verdict["verdict"] == "ok"

    def paused(self, worker: Worker, user: str, n: int = 1, **columns: Any) -> tuple[Row, list[Row]]:
        """A run that waits for ``n`` approvals: the run as claimed, and its reviews in the order of their calls."""
        run = self.running(worker, user, **columns)
        self.gate(worker, run, n)
        assert worker.end(run, "awaiting_review")["verdict"] == "ok"
        return run, self.open_reviews(run["id"])

    def open_reviews(self, run_id: str) -> list[Row]:
        return self.sql(
            "select r.* from agent_reviews r join agent_tool_calls c on c.id = r.tool_call_id"
            " where r.execution_id = %s and r.status = 'pending' order by c.step_number, c.position",
            run_id,
        )

    def review(self, review_id: Any) -> Row:
        return self.sql("select * from agent_reviews where id = %s", review_id)[0]

    def unknown(self, worker: Worker, user: str) -> tuple[str, Row]:
        """A run whose unsafe call may have happened: its id, and the review that asks."""
        run = self.running(worker, user)
        worker.record(
            run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")]
        )
        worker.release(run)
        (review,) = self.open_reviews(run["id"])
        return run["id"], review

    def sweep(self) -> Row:
        return self.service("select agent_sweep()")
