"""The database without the API: what tests of SQL build on."""

from __future__ import annotations

import psycopg

from runhold.local.stack import LocalStack


def test_migrations_run_as_postgres_who_is_no_superuser(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication from pg_roles"
            " where rolname = current_user"
        ).fetchone()
    assert row == ("postgres", False, True, True, True, True)


def test_a_fresh_database_has_the_migrations_and_none_of_the_rows(
    fresh_database_url: str, database_url: str
) -> None:
    insert = "insert into auth.users (id, email) values (gen_random_uuid(), 'a@example.com')"
    count = "select count(*) from auth.users"
    with psycopg.connect(fresh_database_url) as fresh, psycopg.connect(database_url) as shared:
        fresh.execute(insert)
        fresh.commit()
        assert fresh.execute(count).fetchone() == (1,)
        assert shared.execute(count).fetchone() == (0,)


def test_nothing_in_public_is_granted_at_birth(fresh_database_url: str) -> None:
    with psycopg.connect(fresh_database_url) as connection:
        connection.execute("create table public.newborn (id bigint generated always as identity)")
        rows = connection.execute(
            "select role, privilege from unnest(array['anon', 'authenticated', 'service_role']) as role,"
            " unnest(array['select', 'insert', 'update', 'delete']) as privilege"
            " where has_table_privilege(role, 'public.newborn', privilege)"
        ).fetchall()
    assert rows == []


def test_deleting_a_user_erases_rows_that_refer_to_it(fresh_database_url: str, postgres: LocalStack) -> None:
    with psycopg.connect(fresh_database_url) as connection:
        connection.execute("create table public.note (user_id uuid references auth.users on delete cascade)")
        connection.execute("insert into auth.users (id) values ('00000000-0000-0000-0000-000000000001')")
        connection.execute("insert into public.note values ('00000000-0000-0000-0000-000000000001')")
        connection.execute("delete from auth.users")
        assert connection.execute("select count(*) from public.note").fetchone() == (0,)
