"""The database without the API: what tests of SQL build on."""

from __future__ import annotations

import psycopg

from runhold.local.stack import LocalStack

TEXT, TIME = "character varying(255)", "timestamp with time zone"
USER_COLUMNS = {
    "instance_id": "uuid",
    "id": "uuid not null",
    "aud": TEXT,
    "role": TEXT,
    "email": TEXT,
    "encrypted_password": TEXT,
    "email_confirmed_at": TIME,
    "invited_at": TIME,
    "confirmation_token": TEXT,
    "confirmation_sent_at": TIME,
    "recovery_token": TEXT,
    "recovery_sent_at": TIME,
    "email_change_token_new": TEXT,
    "email_change": TEXT,
    "email_change_sent_at": TIME,
    "last_sign_in_at": TIME,
    "raw_app_meta_data": "jsonb",
    "raw_user_meta_data": "jsonb",
    "is_super_admin": "boolean",
    "created_at": TIME,
    "updated_at": TIME,
    "phone": "text",
    "phone_confirmed_at": TIME,
    "phone_change": "text",
    "phone_change_token": TEXT,
    "phone_change_sent_at": TIME,
    "confirmed_at": TIME,
    "email_change_token_current": TEXT,
    "email_change_confirm_status": "smallint",
    "banned_until": TIME,
    "reauthentication_token": TEXT,
    "reauthentication_sent_at": TIME,
    "is_sso_user": "boolean not null",
    "deleted_at": TIME,
    "is_anonymous": "boolean not null",
}
"""Of auth.users in a hosted project: `supabase/auth`, its migrations up to the end of 2026."""


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


def test_users_have_the_columns_and_types_of_supabase_auth(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select attname, format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end"
            " from pg_attribute where attrelid = 'auth.users'::regclass and attnum > 0 and not attisdropped"
        ).fetchall()
    assert dict(rows) == USER_COLUMNS


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
