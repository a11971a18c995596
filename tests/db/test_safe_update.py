"""No statement of ours is one that pg-safeupdate refuses: an UPDATE or DELETE without WHERE.

Supabase loads that extension for the API's role, so that one such statement in a function stops every worker.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from safe_update import Dynamic, in_plpgsql, in_sql
from world import Row, World

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*ROOT.glob("supabase/migrations/*.sql"), *ROOT.glob("supabase/*.sql"), *ROOT.glob("sql/*.sql")],
    key=lambda path: path.name,
)

OUR_SCHEMAS = ("public", "runhold")

DYNAMIC: Dynamic = {
    (
        "realtime_postgres_changes.sql",
        "format('alter publication supabase_realtime add table public.%I', v_table)",
    ): ("alter publication supabase_realtime add table public.%I",),
    ("20261122001820_worker_role.sql", "v_grant"): (
        "grant anon to runhold_worker",
        "grant runhold_worker to supabase_realtime_admin",
    ),
}
"""What may be executed as a text, by function or file."""


def offences(connection: psycopg.Connection[Row], *, named: str = "%") -> list[str]:
    """What pg-safeupdate would refuse in the functions, procedures and rules of our schemas with such names."""
    found: list[str] = []
    types = _types(connection)
    for routine in connection.execute(
        """
        select p.oid::regprocedure::text as name, l.lanname as language, p.prosrc as source,
               p.prosqlbody is not null as is_standard, pg_get_functiondef(p.oid) as definition
        from pg_proc p join pg_language l on l.oid = p.prolang
        where p.pronamespace::regnamespace::text = any (%s) and p.prokind in ('f', 'p')
          and p.proname like %s
        """,
        (list(OUR_SCHEMAS), named),
    ):
        name = routine["name"]
        if routine["language"] == "plpgsql":
            found += in_plpgsql(name, routine["definition"], types, DYNAMIC)
        elif routine["language"] == "sql":
            found += in_sql(
                name, routine["definition"] if routine["is_standard"] else routine["source"], DYNAMIC
            )
        else:
            found.append(f"{name}: no parser for the language {routine['language']}")
    for rule in connection.execute(
        "select tablename, definition from pg_rules where schemaname = any (%s) and rulename like %s",
        (list(OUR_SCHEMAS), named),
    ):
        found += in_sql(rule["tablename"], rule["definition"], DYNAMIC)
    return found


def _types(connection: psycopg.Connection[Row]) -> dict[str, str]:
    """Our types, for a parser that knows the schemas public and pg_catalog alone and no arrays of rows."""
    names = [
        row["name"]
        for row in connection.execute(
            "select n.nspname || '.' || t.typname as name from pg_type t join pg_namespace n on n.oid = t.typnamespace"
            " where n.nspname = any (%s) and t.typelem = 0",
            (list(OUR_SCHEMAS),),
        )
    ]
    arrays = {f"{name}[]": "text[]" for name in names}
    return arrays | {name: f"public.{name.split('.')[1]}" for name in names if not name.startswith("public.")}


def test_no_function_updates_or_deletes_without_a_condition(world: World) -> None:
    assert world.one("select count(*) from pg_proc where pronamespace = 'runhold'::regnamespace") > 100
    assert offences(world.connection) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_updates_or_deletes_without_a_condition(path: Path) -> None:
    assert in_sql(path.name, path.read_text(), DYNAMIC) == []


def test_every_entry_of_the_dynamic_list_is_needed() -> None:
    source = "\n".join(path.read_text() for path in FILES)
    assert [entry for entry in DYNAMIC if f"execute {entry[1]}" not in source] == []


PLANTED = {
    # kind: (a function's definition, where %(condition)s stands for the offence's missing clause)
    "sql": "create function runhold.planted() returns void language sql as $$update runhold.liveness set one = true %(where)s$$",
    "sql with a CTE": """create function runhold.planted() returns bigint language sql as $$
        with gone as (delete from runhold.metrics_marks %(where)s returning 1) select count(*) from gone$$""",
    "begin atomic": """create function runhold.planted() returns void language sql
        begin atomic update runhold.liveness set one = true %(where)s; end""",
    "begin atomic with a CTE": """create function runhold.planted() returns bigint language sql
        begin atomic with gone as (delete from runhold.metrics_marks %(where)s returning 1) select count(*) from gone; end""",
    "statement": "delete from runhold.metrics_marks %(where)s;",
    "delete using": "delete from runhold.metrics_marks k using runhold.liveness l %(where)s;",
    "update from a join": "update runhold.liveness l set one = true from runhold.lanes a join runhold.lanes b using (user_id) %(where)s;",
    "select into": "with gone as (delete from runhold.metrics_marks %(where)s returning 1) select count(*) into v_n from gone;",
    "returning into": "update runhold.liveness set one = true %(where)s returning 1 into v_n;",
    "for over a query": "for v_n in with u as (delete from runhold.lanes %(where)s returning 1) select 1 from u loop null; end loop;",
    "for over a delete": "for v_n in delete from runhold.lanes %(where)s returning 1 loop null; end loop;",
    "open": "open v_c for with u as (delete from runhold.lanes %(where)s returning 1) select 1 from u;",
    "within if and exception": """if v_n > 1 then begin delete from runhold.lanes %(where)s; exception when others then
        update runhold.liveness set one = true where true; end; end if;""",
    "handler": "begin null; exception when others then delete from runhold.lanes %(where)s; end;",
    "case": "case v_n when 1 then null; else delete from runhold.lanes %(where)s; end case;",
    "foreach": "foreach v_n in array array[1] loop delete from runhold.lanes %(where)s; end loop;",
    "after an assignment to an element": "v_a[1] := 1; v_worker.pid := 1; delete from runhold.lanes %(where)s;",
}


def plant(connection: psycopg.Connection[Row], body: str, where: str) -> None:
    if not body.startswith("create "):
        body = f"""create function runhold.planted() returns void language plpgsql set search_path = '' as $$
          declare v_n integer; v_c refcursor; v_a integer[]; v_worker public.agent_workers; v_all runhold.lanes[]; begin {body} end $$"""
    connection.execute("drop function if exists runhold.planted()")
    connection.execute(body % {"where": where})


@pytest.mark.parametrize("kind", PLANTED)
def test_the_check_finds_an_offence_and_spares_its_twin(world: World, kind: str) -> None:
    with world.connection.transaction(force_rollback=True):
        plant(world.connection, PLANTED[kind], "")
        found = offences(world.connection, named="planted")
        assert [offence.partition(":")[0] for offence in found] == ["runhold.planted()"]
        plant(world.connection, PLANTED[kind], "where true")
        assert offences(world.connection, named="planted") == []


def test_the_check_finds_an_offence_in_a_trigger_a_procedure_a_rule_and_a_do_block(world: World) -> None:
    trigger = """create function runhold.planted() returns trigger language plpgsql as $$
      begin new.one := true; update runhold.lanes set served_at = null %(where)s; return new; end $$"""
    procedure = "create procedure runhold.planted() language plpgsql as $$begin delete from runhold.lanes %(where)s; commit; end$$"
    rule = "create rule planted as on delete to runhold.liveness do instead update runhold.liveness set one = true %(where)s"
    drop_rule = "drop rule if exists planted on runhold.liveness"
    for definition, drop in (
        (trigger, "drop function if exists runhold.planted()"),
        (procedure, "drop procedure if exists runhold.planted()"),
        (rule, drop_rule),
    ):
        for where, expected in (("", 1), ("where true", 0)):
            with world.connection.transaction(force_rollback=True):
                world.connection.execute(drop)
                world.connection.execute(definition % {"where": where})
                assert len(offences(world.connection, named="planted")) == expected, definition
    for where, expected in (("", 1), ("where true", 0)):
        assert len(in_sql("file", f"select 1; do $$begin delete from t {where}; end$$", {})) == expected


DYNAMIC_FORMS = {
    "execute": "execute %s;",
    "for": "for v_n in execute %s loop null; end loop;",
    "open": "open v_c for execute %s;",
    "return query": "return query execute %s;",
}


@pytest.mark.parametrize("form", DYNAMIC_FORMS)
def test_a_text_that_is_executed_needs_an_entry_which_is_read_too(form: str) -> None:
    body = DYNAMIC_FORMS[form]
    definition = f"""create function f() returns setof integer language plpgsql as $$
      declare v_n integer; v_c refcursor; v_sql text := 'delete from t where a'; begin {body % "v_sql"} end $$"""
    refused = in_plpgsql("f()", definition, {}, {})
    assert refused == ["f(): executes a text that can't be read: v_sql"]
    assert in_plpgsql("f()", definition, {}, {("f()", "v_sql"): ["delete from t where a"]}) == []
    offence = definition.replace(" where a", "")
    assert in_plpgsql("f()", offence, {}, {("f()", "v_sql"): ["delete from t"]}) == ["f(): DELETE FROM t"]
    stale = in_plpgsql("f()", definition, {}, {("f()", "v_sql"): ["delete from u where a"]})
    assert stale == ["f(): does not contain the text that is allowed there: delete from u where a"]
