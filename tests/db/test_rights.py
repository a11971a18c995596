"""Who may do what: every table by every verb, every function of the API, for every kind of caller.

Both matrices are compared with the catalog, so that a new table or function can not be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from world import Row, World, call, question, step

CALLERS = ("anon", "stranger", "owner", "reviewer", "other_reviewer", "operator", "service", "worker")
ROLES = {"anon": "anon", "service": "service_role", "worker": "runhold_worker"}
"""Callers without a person. The worker is one with its own small role; workers with the secret key are the service."""

# Per table: who sees how many rows of the seed below; everybody else is refused, or sees none where RLS says so.
# "denied": no privilege at all (42501).
SEES: dict[str, dict[str, int | str]] = {
    "agent_types": {"anon": "denied", "service": 2, "signed in": 2},
    "agent_definitions": {"anon": "denied", "service": 2, "signed in": "denied"},
    "agent_executions": {"anon": "denied", "service": 2, "owner": 1, "stranger": 1},
    "agent_steps": {"anon": "denied", "service": 2, "owner": 1, "stranger": 1},
    "agent_tool_calls": {"anon": "denied", "service": 4, "owner": 2, "stranger": 2},
    "agent_messages": {"anon": "denied", "service": 2, "owner": 1, "stranger": 1},
    "agent_events": {"anon": "denied", "service": 14, "owner": 7, "stranger": 7},
    "agent_reviews": {
        "anon": "denied",
        "service": 4,
        "owner": 2,
        "stranger": 2,
        "reviewer": 2,
        "operator": 4,
    },
    "agent_review_decisions": {"anon": "denied", "service": 2, "owner": 1, "stranger": 1, "operator": 2},
    "agent_budgets": {"anon": "denied", "service": 1, "signed in": "denied"},
    "agent_usage": {"anon": "denied", "service": 1, "signed in": "denied"},
    "agent_workers": {"anon": "denied", "service": 1, "signed in": "denied"},
    "agent_metrics_hourly": {"anon": "denied", "service": 1, "signed in": "denied"},
    "model_prices": {"anon": "denied", "service": 1, "signed in": 1},
}

# Which columns a role may insert or update; nothing else. Deleting: only the two tables at the end.
MAY_INSERT = {
    ("agent_executions", role): {
        "user_id",
        "agent_type",
        "input_data",
        "limits",
        "wake_at",
        "idempotency_key",
        "metadata",
    }
    for role in ("authenticated", "service_role")
}
MAY_UPDATE = {
    ("agent_reviews", "authenticated"): {"status", "edited_input", "answer", "comment"},
    ("agent_types", "service_role"): {
        "enabled",
        "approval_tools",
        "limits",
        "max_concurrent",
        "max_concurrent_per_user",
        "max_attempts",
        "on_budget",
        "review_ttl",
        "review_on_expiry",
        "escalation_ttl",
        "approvals_needed",
        "allow_self_review",
        "notify",
    },
}
MAY_SELECT_SOME = {("agent_types", "authenticated"): {"name", "description", "input_schema", "enabled"}}
OPERATORS_TABLES = ("agent_budgets", "model_prices")

# Per function: who may execute it at all, and a call of it in this seed with who gets an answer.
SIGNED_IN = ("stranger", "owner", "reviewer", "other_reviewer", "operator")


@dataclass
class Api:
    call: str
    answers: tuple[str, ...]
    """Callers that get more than a refusal or nothing."""
    executable: tuple[str, ...] = ("authenticated", "service_role")
    told: str = ""
    """A refusal that counts as an answer: nobody else hears so much."""


SERVICE_ONLY = ("service_role",)
WORKERS_ONLY = ("service_role", "runhold_worker")
FUNCTIONS = {
    "agent_submit": Api("agent_submit('writer', '{}', user_id => %(owner)s)", ("owner", "service")),
    "agent_cancel": Api("agent_cancel(%(run)s)", ("owner", "operator", "service")),
    "agent_send": Api("agent_send(%(run)s, 'x')", ("owner", "operator", "service")),
    "agent_fork": Api("agent_fork(%(run)s, 1)", ("owner", "operator", "service")),
    # the run has not failed: whoever may retry it is told so
    "agent_retry": Api("agent_retry(%(run)s)", ("owner", "operator", "service"), told="RH018"),
    # a verdict for everybody: strangers hear RH015, as of any id
    "agent_decide": Api(
        "case when (agent_decide(array[%(review)s]::uuid[], 'approved') -> 0 ->> 'code') is distinct from 'RH015' then true end",
        ("owner", "reviewer", "operator"),
        ("authenticated",),
    ),
    "agent_disable": Api("agent_disable('writer')", ("operator", "service")),
    "agent_enable": Api("agent_enable('writer')", ("operator", "service")),
    "agent_export": Api("agent_export(%(run)s)", ("owner", "service")),
    "agent_timeline": Api(
        "nullif(agent_timeline(%(run)s)::text, '[]')", ("owner", "reviewer", "operator", "service")
    ),
    "agent_review_context": Api(
        "agent_review_context(%(review)s)", ("owner", "reviewer", "operator", "service")
    ),
    "agent_health_metrics": Api(
        "nullif((agent_health_metrics() ->> 'runs')::int, 0)", ("owner", "stranger", "service")
    ),
    "agent_worker_register": Api(
        "agent_worker_register(jsonb_build_object('id', gen_random_uuid(), 'hostname', 'h', 'pid', 1, 'version', '0',"
        " 'lease_ms', 30000), '[]')",
        ("service", "worker"),
        WORKERS_ONLY,
    ),
    "agent_installation": Api("agent_installation()", ("service", "worker"), WORKERS_ONLY),
    "agent_worker_prices": Api("agent_worker_prices('{}')", ("service", "worker"), WORKERS_ONLY),
    "agent_worker_definitions": Api("agent_worker_definitions('{}')", ("service", "worker"), WORKERS_ONLY),
    "agent_worker_claim": Api(
        "agent_worker_claim(%(worker)s, 100, '{}', 1)", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_worker_log": Api(
        "coalesce(agent_worker_log(%(worker)s, %(run)s, 1), '{}')", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_worker_record": Api("agent_worker_record(%(worker)s, '[]')", ("service", "worker"), WORKERS_ONLY),
    "agent_worker_heartbeat": Api(
        "agent_worker_heartbeat(%(worker)s, '{}', 0)", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_worker_release": Api(
        "agent_worker_release(%(worker)s, '{}')", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_worker_stop": Api("agent_worker_stop(%(worker)s, true)", ("service", "worker"), WORKERS_ONLY),
    "agent_worker_user_claims": Api(
        "coalesce(agent_worker_user_claims(%(worker)s, %(run)s, 1), '{}')",
        ("service", "worker"),
        WORKERS_ONLY,
    ),
    "agent_worker_notifications": Api(
        "agent_worker_notifications(%(worker)s, 1, '{webhook}')", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_worker_notified": Api(
        "agent_worker_notified(%(worker)s, %(worker)s)", ("service", "worker"), WORKERS_ONLY
    ),
    "agent_sweep": Api("agent_sweep()", ("service", "worker"), WORKERS_ONLY),
    "agent_prune": Api("agent_prune(interval '90 days')", ("service",), SERVICE_ONLY),
}


@dataclass
class Seed:
    """Two runs, the owner's and a stranger's, with two reviews each: of ``send`` and of ``save``."""

    world: World
    people: dict[str, str]
    ids: dict[str, Any]

    def session(self, caller: str) -> tuple[str, str | None]:
        if caller in ROLES:
            return ROLES[caller], None
        return "authenticated", self.people[caller]

    @contextmanager
    def acting(self, caller: str) -> Iterator[psycopg.Cursor[Row]]:
        """As the caller; nothing of it stays."""
        with (
            self.world.acting(*self.session(caller)) as cursor,
            cursor.connection.transaction(force_rollback=True),
        ):
            yield cursor

    def attempt(self, caller: str, query: str) -> list[Row] | str:
        """The rows, or the SQLSTATE of the refusal."""
        try:
            with self.acting(caller) as cursor:
                cursor.execute(query, self.ids)
                return cursor.fetchall() if cursor.description else [{}] * cursor.rowcount
        except psycopg.Error as error:
            return error.diag.sqlstate or "?"


@pytest.fixture
def seed(world: World) -> Seed:
    people = {
        "owner": world.person(),
        "stranger": world.person(),
        "reviewer": world.reviewer(tool_name="send"),
        "other_reviewer": world.reviewer(agent_type="reader"),
        "operator": world.reviewer(role="operator"),
    }
    worker = world.worker()
    world.sql(
        "insert into agent_definitions (hash, agent_type, version, model, instructions) values ('h', 'reader', '1', 'm', '')"
    )
    world.sql("insert into agent_types (name) values ('reader')")
    ids: dict[str, Any] = {"worker": worker.id, "owner": people["owner"]}
    for owner in ("stranger", "owner"):
        run = world.running(worker, people[owner])
        worker.record(
            run,
            steps=[step(1, worker.definition)],
            calls=[
                call(1, 0, "send", "unsafe", "awaiting_review"),
                call(1, 1, "save", "unsafe", "awaiting_review"),
            ],
            reviews=[question(1, 0), question(1, 1)],
        )
        worker.end(run, "awaiting_review")
        send, save = world.open_reviews(run["id"])
        world.decide(people["operator"], save["id"])
        ids |= {"run": run["id"], "review": send["id"], "decided": save["id"]}
        world.sql(
            "insert into agent_messages (execution_id, user_id, content) values (%s, %s, 'x')",
            run["id"],
            people[owner],
        )
        world.sql(
            "insert into agent_events (execution_id, user_id, actor_kind, kind) values (%s, %s, 'system', 'x')",
            run["id"],
            people[owner],
        )
    world.sql("insert into agent_budgets (scope, period, max_usd) values ('all', 'day', 1)")
    world.sql("insert into agent_usage (scope, period, period_start) values ('all', 'day', now())")
    world.sql(
        "insert into agent_metrics_hourly (hour, agent_type, measure, n) values ('2026-01-01', '*', 'ended', 1)"
    )
    world.sql(
        "insert into model_prices (model, input_usd, cached_input_usd, output_usd) values ('m', 1, 1, 1)"
    )
    return Seed(world, people, ids)


def tables(world: World) -> list[str]:
    return [
        row["relname"]
        for row in world.sql(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')"
        )
    ]


def columns(world: World, table: str) -> list[str]:
    return [
        row["attname"]
        for row in world.sql(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            f"public.{table}",
        )
    ]


def test_matrices_know_every_table_and_function(world: World) -> None:
    assert set(tables(world)) == set(SEES)
    functions = world.sql(
        "select proname, count(*) as n from pg_proc where pronamespace = 'public'::regnamespace group by 1"
    )
    assert {row["proname"] for row in functions} == set(FUNCTIONS)
    assert all(row["n"] == 1 for row in functions), "the API can not tell overloads apart"


@pytest.mark.parametrize("table", sorted(SEES))
def test_who_sees_which_rows(seed: Seed, table: str) -> None:
    what = ", ".join(sorted(MAY_SELECT_SOME.get((table, "authenticated"), {"1"})))
    seen: dict[str, int | str] = {}
    for caller in CALLERS:
        rows = seed.attempt(caller, f"select {what} from public.{table}")
        seen[caller] = len(rows) if isinstance(rows, list) else "denied" if rows == "42501" else rows
    expected = {"worker": "denied", **SEES[table]}
    signed_in = expected.get("signed in", 0)
    assert seen == {c: expected.get(c, signed_in if c in SIGNED_IN else 0) for c in CALLERS}


@pytest.mark.parametrize("table", sorted(SEES))
def test_which_columns_can_be_written(world: World, table: str) -> None:
    for role in ("anon", "authenticated", "service_role", "runhold_worker"):
        everything = (
            set(columns(world, table)) if role == "service_role" and table in OPERATORS_TABLES else None
        )
        for verb, some in (("insert", MAY_INSERT), ("update", MAY_UPDATE), ("select", MAY_SELECT_SOME)):
            may = {
                column
                for column in columns(world, table)
                if world.one(
                    "select has_column_privilege(%s, %s, %s, %s)", role, f"public.{table}", column, verb
                )
            }
            if verb == "select" and (table, role) not in some:
                whole = {
                    "anon": False,
                    "authenticated": SEES[table].get("signed in") != "denied",
                    "service_role": True,
                    "runhold_worker": False,
                }
                expected = set(columns(world, table)) if whole[role] else set[str]()
            else:
                expected = everything or some.get((table, role), set[str]())
            assert may == expected, (role, verb)
        for verb in ("delete", "truncate", "references", "trigger", "maintain"):
            may_it = world.one("select has_table_privilege(%s, %s, %s)", role, f"public.{table}", verb)
            assert may_it == (verb == "delete" and everything is not None), (role, verb)


def test_nobody_deletes_through_the_api(seed: Seed) -> None:
    for table in set(SEES) - set(OPERATORS_TABLES):
        for caller in CALLERS:
            assert seed.attempt(caller, f"delete from public.{table}") == "42501", (table, caller)


@pytest.mark.parametrize(
    ("caller", "verdict"),
    [
        ("anon", "42501"),
        ("stranger", []),
        ("owner", "RH009"),
        ("reviewer", [{}]),
        ("other_reviewer", []),
        ("operator", [{}]),
        ("service", "42501"),
        ("worker", "42501"),
    ],
)
def test_who_decides_a_review(seed: Seed, caller: str, verdict: Any) -> None:
    assert (
        seed.attempt(caller, "update agent_reviews set status = 'approved' where id = %(review)s") == verdict
    )


@pytest.mark.parametrize(
    ("caller", "verdict"),
    [
        ("anon", "42501"),
        ("stranger", "42501"),
        ("owner", [{}]),
        ("operator", "42501"),
        ("service", [{}]),
        ("worker", "42501"),
    ],
)
def test_who_starts_a_run_for_the_owner(seed: Seed, caller: str, verdict: Any) -> None:
    insert = (
        "insert into agent_executions (user_id, agent_type, input_data) values (%(owner)s, 'writer', '{}')"
    )
    assert seed.attempt(caller, insert) == verdict


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_who_calls_a_function_and_gets_an_answer(seed: Seed, name: str) -> None:
    api = FUNCTIONS[name]
    answered: list[str] = []
    for caller in CALLERS:
        role, _ = seed.session(caller)
        rows = seed.attempt(caller, f"select {api.call} as answer")
        if role not in api.executable:
            assert rows == "42501", caller
        if rows == api.told or (isinstance(rows, list) and rows[0]["answer"] is not None):
            answered.append(caller)
        elif isinstance(rows, str):
            assert rows in ("42501", "RH006", "RH015", "RH021"), (caller, rows)
    assert sorted(answered) == sorted(api.answers)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_who_may_execute_a_function(world: World, name: str) -> None:
    for role in (*ROLES.values(), "authenticated", "authenticator", "supabase_auth_admin"):
        may = world.one(
            "select has_function_privilege(%s, p.oid, 'execute') from pg_proc p"
            " where p.pronamespace = 'public'::regnamespace and p.proname = %s",
            role,
            name,
        )
        assert may == (role in FUNCTIONS[name].executable), role


def test_token_without_a_subject_sees_and_may_nothing(seed: Seed) -> None:
    for query in (
        "select agent_review_context(%(review)s)",
        "select agent_cancel(%(run)s)",
        "select agent_send(%(run)s, 'x')",
        "select agent_retry(%(run)s)",
        "select agent_fork(%(run)s, 1)",
        "select agent_submit('writer', '{}')",
    ):
        with pytest.raises(psycopg.Error) as caught, seed.world.acting("authenticated") as cursor:
            cursor.execute(query, seed.ids)
        assert caught.value.diag.sqlstate in ("RH006", "RH015"), query
    for table in ("agent_executions", "agent_reviews", "agent_events"):
        with seed.world.acting("authenticated") as cursor:
            cursor.execute(f"select from {table}")
            assert cursor.rowcount == 0
