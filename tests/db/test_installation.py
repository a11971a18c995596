"""`runhold.installation()` names what a database lacks of the release, and the SQL that it gives brings it back.

Each damage is done, found and repaired in one transaction that is rolled back: roles belong to the whole server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from world import Row, World, connect

from runhold.local.stack import LocalStack

CRON = """
create schema cron;
create table cron.job (jobid bigint generated always as identity, schedule text, command text, active boolean default true,
                       jobname text unique);
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql
as 'insert into cron.job (jobname, schedule, command) values ($1, $2, $3)
    on conflict (jobname) do update set schedule = $2, command = $3, active = true returning jobid';
grant usage on schema cron to postgres;
grant all on all tables in schema cron to postgres;
"""
"""As much of pg_cron as we use."""

SUBMIT = "public.agent_submit(text,jsonb,jsonb,timestamp with time zone,text,jsonb,uuid)"
USER_TRIGGER = "runhold_after_user_change on auth.users"

DAMAGES: dict[str, tuple[str, set[str]]] = {
    # what was done: (the damage, what is named)
    "function dropped": (
        "drop function public.agent_timeline(uuid)",
        {"missing function public.agent_timeline(uuid)"},
    ),
    "function that others are made of": (
        "drop function runhold.worker_prices(text[]) cascade",
        {
            "missing function runhold.worker_prices(text[])",
            "missing function public.agent_worker_prices(text[])",
        },
    ),
    "function's body": (
        "create or replace function runhold.now() returns timestamptz language plpgsql stable parallel safe"
        " set search_path = '' as $$ begin return pg_catalog.now(); end $$",
        {"changed function runhold.now()"},
    ),
    "function's property": (
        "alter function runhold.setting(text) security invoker",
        {"changed function runhold.setting(text)"},
    ),
    "function's result": (
        "drop function public.agent_prune(interval, integer);"
        "create function public.agent_prune(older_than interval, n integer) returns text language sql return '';"
        "revoke execute on function public.agent_prune from public;"
        "grant execute on function public.agent_prune to service_role",
        {"changed function public.agent_prune(interval,integer)"},
    ),
    "standard SQL body": (
        "create or replace function public.agent_sweep() returns jsonb language sql set search_path = ''"
        " begin atomic select '{}'::jsonb; end",
        {"changed function public.agent_sweep()"},
    ),
    "trigger on a table of ours": (
        "drop trigger hint_events on public.agent_events",
        {"missing trigger hint_events on public.agent_events"},
    ),
    "trigger on users": (f"drop trigger {USER_TRIGGER}", {f"missing trigger {USER_TRIGGER}"}),
    "trigger on users that is off": (
        "alter table auth.users disable trigger runhold_after_user_change",
        {f"changed trigger {USER_TRIGGER}"},
    ),
    "trigger on another event": (
        "create or replace trigger hint_type_change after insert on public.agent_types"
        " for each statement execute function runhold.hint_type_change()",
        {"changed trigger hint_type_change on public.agent_types"},
    ),
    "policy of Realtime": (
        'drop policy "runhold: owners and reviewers listen" on realtime.messages',
        {'missing policy "runhold: owners and reviewers listen" on realtime.messages'},
    ),
    "policy of a table": (
        'drop policy "users see their own runs" on public.agent_executions',
        {'missing policy "users see their own runs" on public.agent_executions'},
    ),
    "policy's condition": (
        'alter policy "users see their own runs" on public.agent_executions using (true)',
        {'changed policy "users see their own runs" on public.agent_executions'},
    ),
    "policy's roles": (
        'alter policy "users see their own runs" on public.agent_executions to anon',
        {'changed policy "users see their own runs" on public.agent_executions'},
    ),
    "row level security": (
        "alter table public.agent_steps disable row level security",
        {"missing row level security public.agent_steps"},
    ),
    "role membership": (
        "set local role postgres; revoke runhold_worker from authenticator; reset role",
        {"missing role membership authenticator in runhold_worker"},
    ),
    "role membership that Realtime needs": (
        "set local role postgres; revoke anon from runhold_worker; reset role",
        {"missing role membership runhold_worker in anon"},
    ),
    "role's attribute": ("alter role runhold_worker bypassrls", {"changed role runhold_worker"}),
    "right on a function": (
        f"revoke execute on function {SUBMIT} from authenticated",
        {f"missing rights authenticated on function {SUBMIT}"},
    ),
    "right of workers": (
        "revoke execute on function public.agent_worker_claim from runhold_worker",
        {"missing rights runhold_worker on function public.agent_worker_claim(uuid,bigint,jsonb,integer)"},
    ),
    "right on a column": (
        "revoke insert (limits) on public.agent_executions from authenticated",
        {"changed rights authenticated on table public.agent_executions"},
    ),
    "right on a schema": (
        "revoke usage on schema public from runhold_worker",
        {"missing rights runhold_worker on schema public"},
    ),
    "right too many on a table": (
        "grant insert on public.agent_budgets to authenticated",
        {"extra rights authenticated on table public.agent_budgets"},
    ),
    "right too many on a table that has some": (
        "grant update on public.agent_executions to authenticated",
        {"changed rights authenticated on table public.agent_executions"},
    ),
    "right too many on a function": (
        "grant execute on function runhold.erase_some(uuid, integer) to public",
        {"extra rights public on function runhold.erase_some(uuid,integer)"},
    ),
    "right too many on a sequence": (
        "grant usage on sequence public.agent_events_id_seq to anon",
        {"extra rights anon on sequence public.agent_events_id_seq"},
    ),
    "column": (
        "alter table public.agent_workers drop column pid",
        {"missing column public.agent_workers.pid"},
    ),
    "column's type": (
        "alter table public.agent_workers alter column hostname type varchar(80)",
        {"changed column public.agent_workers.hostname"},
    ),
    "column's default": (
        "alter table public.agent_types alter column enabled drop default",
        {"missing default public.agent_types.enabled"},
    ),
    "column's other default": (
        "alter table public.agent_types alter column enabled set default false",
        {"changed default public.agent_types.enabled"},
    ),
    "not-null rule": (
        "alter table public.agent_steps alter column message drop not null",
        {"missing not-null rule public.agent_steps.message"},
    ),
    "identity": (
        "alter table runhold.user_changes alter column id drop identity",
        {"changed column runhold.user_changes.id"},
    ),
    "constraint": (
        "alter table public.agent_executions drop constraint valid_status",
        {"missing constraint valid_status on public.agent_executions"},
    ),
    "constraint's condition": (
        "alter table runhold.settings drop constraint retention_is_an_hour_at_least,"
        " add constraint retention_is_an_hour_at_least check (true)",
        {"changed constraint retention_is_an_hour_at_least on runhold.settings"},
    ),
    "foreign key": (
        "alter table runhold.reviewers drop constraint reviewers_user_id_fkey",
        {"missing constraint reviewers_user_id_fkey on runhold.reviewers"},
    ),
    "index": (
        "drop index public.agent_executions_claimable_idx",
        {"missing index public.agent_executions_claimable_idx"},
    ),
    "index of other columns": (
        "drop index public.agent_executions_running_idx;"
        "create index agent_executions_running_idx on public.agent_executions (id)",
        {"changed index public.agent_executions_running_idx"},
    ),
    "sequence": (
        "drop sequence runhold.last_wake",
        {"missing sequence runhold.last_wake"},
    ),
    "sequence's step": (
        "alter sequence runhold.last_wake increment 5",
        {"changed sequence runhold.last_wake"},
    ),
    "table": ("drop table runhold.lanes cascade", {"missing table runhold.lanes"}),
    "table of the API": ("drop table public.agent_usage cascade", {"missing table public.agent_usage"}),
    "table without a log": (
        "alter table runhold.lane_scans set unlogged",
        {"changed table runhold.lane_scans"},
    ),
    "type and the function that takes it": (
        "drop type runhold.usage_change cascade",
        {"missing type runhold.usage_change", "missing function runhold.book(runhold.usage_change[])"},
    ),
    "role": (
        "alter role runhold_worker rename to runhold_gone",
        {
            "missing role runhold_worker",
            *(
                f"missing role membership {each}"
                for each in (
                    "authenticator in runhold_worker",
                    "runhold_worker in anon",
                    "supabase_realtime_admin in runhold_worker",
                )
            ),
            *(
                f'changed policy "runhold: workers {each}" on realtime.messages'
                for each in ("listen", "tell progress")
            ),
        },
    ),
    "setting": ("delete from runhold.settings where name = 'retention'", {"missing setting retention"}),
    "job": (
        "delete from cron.job where jobname = 'runhold-prune'",
        {"missing cron job runhold-prune"},
    ),
    "job that is off": (
        "update cron.job set active = false where jobname = 'runhold-sweep'",
        {"changed cron job runhold-sweep"},
    ),
    "job of another command": (
        "update cron.job set command = 'select 1' where jobname = 'runhold-sweep'",
        {"changed cron job runhold-sweep"},
    ),
}


@pytest.fixture(scope="module")
def connection(shared_database_url: str, postgres: LocalStack) -> Iterator[psycopg.Connection[Row]]:
    """Of the superuser."""
    url = urlsplit(postgres.superuser_url)._replace(path=urlsplit(shared_database_url).path).geturl()
    with connect(url) as connection:
        yield connection


@pytest.fixture
def database(connection: psycopg.Connection[Row]) -> Iterator[psycopg.Connection[Row]]:
    """A transaction with jobs scheduled, rolled back in the end."""
    with connection.transaction(force_rollback=True):
        connection.execute(CRON)
        with as_postgres(connection):
            connection.execute("select runhold.schedule_jobs()")
        yield connection


@contextmanager
def as_postgres(connection: psycopg.Connection[Row]) -> Iterator[None]:
    """Not a superuser, as on hosted projects."""
    connection.execute("set local role postgres")
    yield
    connection.execute("reset role")


def found(connection: psycopg.Connection[Row]) -> list[Row]:
    with as_postgres(connection):
        row = connection.execute("select runhold.installation() as it").fetchone()
    assert row is not None
    assert row["it"]["objects"] > 1000
    return row["it"]["faults"]


def named(faults: list[Row]) -> set[str]:
    return {f"{each['state']} {each['kind']} {each['identity']}" for each in faults if not each["implied"]}


def repair(connection: psycopg.Connection[Row], faults: list[Row]) -> None:
    with as_postgres(connection):
        connection.execute("set local check_function_bodies = off")
        for fault in faults:
            connection.execute(fault["sql"])


def test_nothing_is_wrong_with_what_the_files_made(database: psycopg.Connection[Row]) -> None:
    assert found(database) == []


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named_and_repaired(database: psycopg.Connection[Row], what: str) -> None:
    damage, expected = DAMAGES[what]
    database.execute(damage)
    faults = found(database)
    assert named(faults) == expected
    repair(database, faults)
    assert found(database) == []


def test_every_kind_of_object_is_damaged_above(world: World) -> None:
    described = {row["kind"] for row in world.sql("select distinct kind from runhold.release_objects")}
    broken = {fault.split(" ", 1)[1] for _, faults in DAMAGES.values() for fault in faults}
    lacking = {kind for kind in described if not any(each.startswith(kind) for each in broken)}
    assert lacking == {"schema"}, "without its schema nothing can answer"


ADDITIONS = {
    "policy": "create policy extra on public.agent_executions for select to authenticated using (true)",
    "index": "create index extra on public.agent_executions (created_at)",
    "column": "alter table public.agent_executions add column extra text",
    "table": "create table public.agent_notes (id integer); grant all on public.agent_notes to anon",
    "function": "create function public.agent_extra() returns integer language sql return 1",
    "function of ours with other arguments": "create function runhold.extra() returns integer language sql return 1",
    "trigger": "create function public.extra() returns trigger language plpgsql as 'begin return null; end';"
    "create trigger extra after insert on public.agent_executions execute function public.extra()",
    "role of the project's own": "create role extra; grant select on public.agent_usage to extra",
    "storage parameter": "alter table public.agent_executions set (autovacuum_vacuum_scale_factor = 0.5)",
    "comment": "comment on table public.agent_executions is 'extra'",
    "owner": "alter function runhold.is_erased(uuid) owner to supabase_admin",
    "body of may_act": "create or replace function runhold.may_act(p_user_id uuid, p_tenant_id text, out allowed boolean,"
    " out code text, out wait_until timestamptz) language plpgsql security invoker as 'begin allowed := true; end'",
    "times of a job": "update cron.job set schedule = '* * * * *'",
    "value of a setting": "update runhold.settings set value = '90 days' where name = 'retention'",
    "lines that a backup leaves out": "do $do$ begin execute regexp_replace("
    " pg_get_functiondef('runhold.schedule_jobs()'::regprocedure), '^begin', E'-- extra\nbegin', 'n'); end $do$",
}


@pytest.mark.parametrize("what", ADDITIONS)
def test_what_a_project_may_add_or_change_is_no_fault(database: psycopg.Connection[Row], what: str) -> None:
    database.execute(ADDITIONS[what])
    assert found(database) == []


def test_texts_do_not_depend_on_the_session(database: psycopg.Connection[Row]) -> None:
    for name, value in {
        "quote_all_identifiers": "on",
        "intervalstyle": "iso_8601",
        "datestyle": "German",
        "timezone": "Asia/Tokyo",
        "search_path": "public, runhold",
    }.items():
        database.execute("select set_config(%s, %s, true)", [name, value])
    assert found(database) == []


def test_jobs_are_expected_wherever_there_is_a_scheduler_and_optional(
    database: psycopg.Connection[Row],
) -> None:
    database.execute("delete from cron.job where true")
    faults = found(database)
    assert named(faults) == {"missing cron job runhold-prune", "missing cron job runhold-sweep"}
    assert all(each["optional"] for each in faults)
    database.execute("drop schema cron cascade")
    assert found(database) == []
    with as_postgres(database):
        database.execute(
            "insert into runhold.release_objects select 'cron job', j.name, 1, '{}', j.command, '' from runhold.jobs() j"
        )
    assert named(found(database)) == {"missing cron job runhold-prune", "missing cron job runhold-sweep"}


def test_rights_that_a_fault_hides_are_repaired_with_it(database: psycopg.Connection[Row]) -> None:
    """A new function is everybody's, and the defaults of a project give more."""
    database.execute(
        "alter default privileges for role postgres in schema public grant all on functions to anon, authenticated;"
        "drop function public.agent_sweep()"
    )
    repair(database, found(database))
    assert found(database) == []
    query = "select has_function_privilege(%s, 'public.agent_sweep()', 'execute') as may"
    may = {
        role: database.execute(query, [role]).fetchone()["may"]
        for role in ("anon", "authenticated", "runhold_worker")
    }
    assert may == {"anon": False, "authenticated": False, "runhold_worker": True}


def test_what_a_generous_project_grants_is_taken_back(database: psycopg.Connection[Row]) -> None:
    """A backup does not say what is not granted: restored where new tables are everybody's, ours are, too."""
    roles = "anon, authenticated, service_role"
    for kind in ("tables", "sequences", "functions"):
        database.execute(f"grant all on all {kind} in schema public to {roles}")
    faults = found(database)
    assert len(faults) > 80
    assert {each["kind"] for each in faults} == {"rights"}
    assert {each["state"] for each in faults} == {"changed", "extra"}
    repair(database, faults)
    assert found(database) == []


def test_a_table_that_is_back_has_all_that_it_had(database: psycopg.Connection[Row]) -> None:
    """Columns in their order, with their rules; reads and writes go on, if without the rows."""
    columns = (
        "select array_agg(attname::text order by attnum) as it from pg_attribute"
        " where attrelid = 'public.agent_usage'::regclass and attnum > 0"
    )
    before = database.execute(columns).fetchone()
    database.execute("drop table public.agent_usage cascade")
    repair(database, found(database))
    assert database.execute(columns).fetchone() == before


def test_without_the_rows_of_the_release_nothing_is_called_missing(database: psycopg.Connection[Row]) -> None:
    database.execute("delete from runhold.release_objects where true")
    with as_postgres(database):
        row = database.execute("select runhold.installation() as it").fetchone()
    assert row == {"it": {"objects": 0, "faults": []}}


def test_the_release_names_what_is_ours_in_schema_public(world: World) -> None:
    names = world.one("select runhold.release_names()")
    there = world.sql(
        "select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
        " union select proname from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert sorted(names) == sorted(row["name"] for row in there)


def test_functions_that_a_project_may_replace_say_so(world: World) -> None:
    commented = world.sql(
        "select proname from pg_proc where pronamespace = 'runhold'::regnamespace"
        " and obj_description(oid, 'pg_proc') like '%%Replaceable%%'"
    )
    assert [row["proname"] for row in commented] == world.one("select runhold.replaceable_functions()")


def test_what_repairs_an_object_makes_the_very_same(database: psycopg.Connection[Row]) -> None:
    """PostgreSQL writes expressions down in its own words; read and written down again, they must compare as equal."""
    with as_postgres(database):
        for row in database.execute(
            """
            select coalesce(change_sql, create_sql) as sql from runhold.release_objects
            where kind in ('function', 'policy', 'default', 'index', 'rights', 'trigger')
               or kind = 'constraint' and definition like 'CHECK%' order by place
            """
        ).fetchall():
            database.execute(row["sql"])
    assert found(database) == []
