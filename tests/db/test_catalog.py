"""Rules that hold for every object we make, read from the catalog."""

from __future__ import annotations

import re
from pathlib import Path

from world import World

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"

FOREIGN_KEYS_WITHOUT_AN_INDEX = {
    # Definitions are never deleted, and every step would pay for it.
    "agent_steps_definition_id_fkey",
}


def test_anonymous_callers_may_execute_nothing_of_ours(world: World) -> None:
    assert callable_by(world, "anon") == []


def test_public_may_execute_nothing_of_ours(world: World) -> None:
    found = world.sql(
        """
        select p.oid::regprocedure::text as f from pg_proc p
        cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace in ('public'::regnamespace, 'runhold'::regnamespace) and a.grantee = 0
        """
    )
    assert found == []


def callable_by(world: World, role: str) -> list[str]:
    return [
        row["f"]
        for row in world.sql(
            """
            select p.proname as f from pg_proc p
            where p.pronamespace in ('public'::regnamespace, 'runhold'::regnamespace)
              and has_function_privilege(%s, p.oid, 'execute')
            order by 1
            """,
            role,
        )
    ]


def test_signed_in_users_may_execute_these_and_no_others(world: World) -> None:
    """In schema runhold, which they can't name: what policies and the API's thin functions call for them."""
    assert callable_by(world, "authenticated") == [
        "agent_cancel",
        "agent_decide",
        "agent_disable",
        "agent_enable",
        "agent_export",
        "agent_fork",
        "agent_health_metrics",
        "agent_retry",
        "agent_review_context",
        "agent_send",
        "agent_submit",
        "agent_timeline",
        "caller_is_service",
        "cancel",
        "check_decide",
        "decide",
        "disable",
        "enable",
        "export",
        "fork",
        "is_reviewer",
        "lock_executions",
        "may_listen",
        "may_review",
        "metrics",
        "metrics_of",
        "open_now",
        "queue_depth",
        "retry",
        "review_context",
        "rolled_metrics",
        "send",
        "spans_of_rows",
        "submit",
        "waiting_now",
        "waits_for",
    ]


def test_workers_may_execute_these_and_no_others(world: World) -> None:
    """The calls of a worker with their bodies: with these, through `anon`, it has what anybody has, which is none."""
    calls = [
        "worker_claim",
        "worker_definitions",
        "worker_heartbeat",
        "worker_log",
        "worker_notifications",
        "worker_notified",
        "worker_prices",
        "worker_record",
        "worker_register",
        "worker_release",
        "worker_stop",
        "worker_user_claims",
    ]
    others = ["agent_installation", "installation", "agent_sweep", "sweep"]
    assert callable_by(world, "runhold_worker") == sorted(
        [*calls, *(f"agent_{name}" for name in calls), *others]
    )
    offered = world.sql(
        "select proname as f from pg_proc where pronamespace = 'public'::regnamespace and proname like 'agent_worker_%%' order by 1"
    )
    assert [row["f"] for row in offered] == [f"agent_{name}" for name in calls]


def test_the_workers_role_can_only_be_taken_on_and_only_by_the_api(world: World) -> None:
    attributes = world.sql(
        "select rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication from pg_roles"
        " where rolname = 'runhold_worker'"
    )
    assert [set(row.values()) for row in attributes] == [{False}]
    memberships = world.sql(
        "select m.roleid::regrole::text as of, m.member::regrole::text as who, m.inherit_option as inherits"
        " from pg_auth_members m where 'runhold_worker'::regrole in (m.roleid, m.member) and (m.inherit_option or m.set_option)"
        " order by 1, 2"
    )
    assert [tuple(row.values()) for row in memberships] == [
        ("anon", "runhold_worker", True),
        ("runhold_worker", "authenticator", False),
        ("runhold_worker", "supabase_realtime_admin", False),
    ]


def test_schema_runhold_is_out_of_everybodys_reach(world: World) -> None:
    for role in ("anon", "authenticated", "service_role", "authenticator", "runhold_worker"):
        assert world.one("select has_schema_privilege(%s, 'runhold', 'usage')", role) is False
        assert (
            world.sql(
                """
                select c.relname from pg_class c where c.relnamespace = 'runhold'::regnamespace and c.relkind in ('r', 'S')
                  and case c.relkind when 'S' then has_sequence_privilege(%(role)s, c.oid, 'usage, select, update')
                      else has_table_privilege(%(role)s, c.oid, 'select, insert, update, delete') end
                """.replace("%(role)s", f"'{role}'")
            )
            == []
        )


def test_every_function_fixes_its_search_path(world: World) -> None:
    loose = world.sql(
        """
        select p.oid::regprocedure::text as f from pg_proc p
        where p.pronamespace in ('public'::regnamespace, 'runhold'::regnamespace)
          and not coalesce(p.proconfig, '{}') @> array['search_path=""']
        """
    )
    assert loose == []


def test_no_definer_function_can_be_called_through_the_api(world: World) -> None:
    assert (
        world.sql("select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef")
        == []
    )


def test_every_table_of_the_api_has_row_level_security(world: World) -> None:
    assert (
        world.sql(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity"
        )
        == []
    )


def test_policies_name_a_role_and_ask_who_once_per_statement(world: World) -> None:
    policies = world.sql("select * from pg_policies where schemaname = 'public'")
    assert policies
    for policy in policies:
        # the service passes row level security anyway: its policies only say that none for users is meant
        assert policy["roles"] == ["authenticated"] or (policy["roles"], policy["cmd"]) == (
            ["service_role"],
            "SELECT",
        )
        text = f"{policy['qual']} {policy['with_check']}"
        assert "auth.uid()" not in re.sub(r"\( SELECT auth\.uid\(\) AS uid\)", "", text), policy["policyname"]
    verbs = [(policy["tablename"], policy["cmd"]) for policy in policies]
    assert len(verbs) == len(set(verbs)), "one permissive policy per role and verb"


def test_every_foreign_key_has_an_index_that_leads_with_it(world: World) -> None:
    without = world.sql(
        """
        select k.conname from pg_constraint k
        where k.contype = 'f' and k.connamespace in ('public'::regnamespace, 'runhold'::regnamespace)
          and not exists (select from pg_index i where i.indrelid = k.conrelid
                          and (i.indkey::smallint[])[0 : cardinality(k.conkey) - 1] @> k.conkey)
        """
    )
    assert {row["conname"] for row in without} == FOREIGN_KEYS_WITHOUT_AN_INDEX


def test_rows_of_a_run_go_with_the_run_and_runs_with_their_user(world: World) -> None:
    """A column that holds a user's or a run's id without a foreign key must belong to a row that goes with the run."""
    keys = {
        (row["t"], row["c"]): (row["target"], row["confdeltype"])
        for row in world.sql(
            """
            select k.conrelid::regclass::text as t, a.attname as c, k.confrelid::regclass::text as target, k.confdeltype
            from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
            where k.contype = 'f'
            """
        )
    }
    for (table, column), (target, on_delete) in keys.items():
        if column in ("execution_id", "tool_call_id", "review_id"):
            assert on_delete == "c", (table, column)
        if target == "auth.users" and table.startswith("agent_"):
            assert on_delete == ("c" if column == "user_id" else "n"), (table, column)
    for row in world.sql(
        "select table_name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'"
    ):
        table = row["table_name"]
        assert (table, "user_id") in keys or keys[table, "execution_id"] == ("agent_executions", "c"), table


def test_no_row_of_a_step_is_indexed_by_what_every_step_changes(world: World) -> None:
    """Or its updates would not be heap-only any more."""
    changed_by_every_step = {
        "updated_at",
        "recorded_seq",
        "step_count",
        "token_count",
        "active_ms",
        "cost_usd",
        "state",
        "attempt",
        "outage_since",
    }
    indexed = {
        row["attname"]
        for row in world.sql(
            """
            select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
            where i.indrelid = 'agent_executions'::regclass
            """
        )
    }
    predicates = " ".join(
        row["p"]
        for row in world.sql(
            "select coalesce(pg_get_expr(indpred, indrelid), '') as p from pg_index where indrelid = 'agent_executions'::regclass"
        )
    )
    assert not indexed & changed_by_every_step
    assert not [column for column in changed_by_every_step if re.search(rf"\b{column}\b", predicates)]


def test_constraints_of_runs_are_sentences(world: World) -> None:
    """Clients read their names."""
    for row in world.sql(
        "select conname from pg_constraint where conrelid = 'agent_executions'::regclass and contype = 'c'"
    ):
        assert not row["conname"].startswith("agent_executions_"), row


def test_migrations_are_written_in_one_voice() -> None:
    for path in sorted(MIGRATIONS.glob("*.sql")):
        text = path.read_text("utf-8")
        assert re.fullmatch(r"\d{14}_[a-z_]+\.sql", path.name)
        assert text.startswith("-- "), f"{path.name} must begin by saying what it is about"
        code = re.sub(r"'(?:[^']|'')*'|--[^\n]*", "", text)
        shouted = re.findall(
            r"\b(?:SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|CREATE|TABLE|FUNCTION|RETURNS)\b", code
        )
        assert shouted == [], path.name
