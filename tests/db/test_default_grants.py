"""Runhold's rights are the same whether a project exposes new tables by default, as before October 2026, or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from stack_thread import running_stack

from runhold.local.stack import LocalStack

EXPOSED = "[api]\nauto_expose_new_tables = true\n"

RIGHTS = """
with role as (
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'runhold_worker')
),
object as (
    select oid, relkind, oid::regclass::text as name from pg_class
    where relnamespace in ('public'::regnamespace, 'runhold'::regnamespace) and relkind in ('r', 'v', 'm', 'p', 'S')
)
select rolname, name, right_name from role, object,
    unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger', 'maintain']) as right_name
where relkind <> 'S' and has_table_privilege(rolname, oid, right_name)
union all
select rolname, name, right_name from role, object, unnest(array['usage', 'select', 'update']) as right_name
where relkind = 'S' and has_sequence_privilege(rolname, oid, right_name)
union all
select rolname, name || '.' || attname, right_name from role, object
    join pg_attribute on attrelid = object.oid and attnum > 0 and not attisdropped,
    unnest(array['select', 'insert', 'update', 'references']) as right_name
where relkind <> 'S' and has_column_privilege(rolname, object.oid, attnum, right_name)
union all
select rolname, pg_proc.oid::regprocedure::text, 'execute' from role, pg_proc
where pronamespace in ('public'::regnamespace, 'runhold'::regnamespace)
    and has_function_privilege(rolname, pg_proc.oid, 'execute')
"""


@pytest.fixture(scope="module")
def exposing() -> Iterator[LocalStack]:
    """PostgreSQL of a project that has old default grants, with Runhold's migrations."""
    with running_stack(api=False, realtime=False, config=EXPOSED) as stack:
        yield stack


def rights(stack: LocalStack) -> set[Any]:
    with psycopg.connect(stack.superuser_url) as connection:
        return set(connection.execute(RIGHTS.encode()).fetchall())


def test_runholds_objects_grant_the_same(postgres: LocalStack, exposing: LocalStack) -> None:
    strict, permissive = rights(postgres), rights(exposing)
    assert strict
    assert permissive - strict == set()
    assert strict - permissive == set()


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_new_objects_of_a_project_are_granted_as_it_says(
    postgres: LocalStack, exposing: LocalStack, role: str
) -> None:
    for stack, granted in ((postgres, False), (exposing, True)):
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("create table public.things (id bigint generated always as identity)")
            connection.execute("create function public.thing() returns int language sql as 'select 1'")
            connection.execute("revoke execute on function public.thing from public")
            found = connection.execute(
                "select has_table_privilege(%(role)s, 'public.things', 'select, insert, update, delete'),"
                " has_sequence_privilege(%(role)s, 'public.things_id_seq', 'usage'),"
                " has_function_privilege(%(role)s, 'public.thing()', 'execute')",
                {"role": role},
            ).fetchone()
            assert found == (granted,) * 3
            connection.rollback()
