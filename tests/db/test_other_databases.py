"""The same files on databases that differ from a new Supabase project: without its extras, or older and more generous."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from world import World, connect

from runhold.local.stack import LocalStack

MIGRATIONS = sorted((Path(__file__).parents[2] / "supabase" / "migrations").glob("*.sql"))

AUTH = """
create schema auth authorization postgres;
grant usage on schema auth to anon, authenticated, service_role;
create table auth.users (
  id uuid primary key, email text, raw_app_meta_data jsonb default '{}', banned_until timestamptz, deleted_at timestamptz);
alter table auth.users owner to postgres;
create function auth.jwt() returns jsonb language sql stable
return nullif(current_setting('request.jwt.claims', true), '')::jsonb;
create function auth.uid() returns uuid language sql stable return (auth.jwt() ->> 'sub')::uuid;
grant usage on schema public to anon, authenticated, service_role;
alter schema public owner to postgres;
"""

GENEROUS = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
"""

RIGHTS = """
select concat_ws(' ', c.oid::regclass, a.attname) as what,
       array(select x::text from unnest(a.attacl) x order by 1) as rights
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace in ('public'::regnamespace, 'runhold'::regnamespace) and a.attacl is not null
union all
select c.oid::regclass::text, array(select x::text from unnest(c.relacl) x order by 1) from pg_class c
where c.relnamespace in ('public'::regnamespace, 'runhold'::regnamespace) and c.relkind in ('r', 'S')
union all
select p.oid::regprocedure::text, array(select x::text from unnest(p.proacl) x order by 1) from pg_proc p
where p.pronamespace in ('public'::regnamespace, 'runhold'::regnamespace)
order by 1
"""


@pytest.fixture
def plain(postgres: LocalStack) -> Iterator[psycopg.Connection]:
    """A database that has users and roles, and nothing else of Supabase. As role postgres."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute("create database plain template template0 owner postgres")
        try:
            here = urlsplit(postgres.superuser_url)._replace(path="/plain").geturl()
            with psycopg.connect(here, autocommit=True) as connection:
                connection.execute(AUTH)
            url = urlsplit(postgres.database_url)._replace(path="/plain").geturl()
            with psycopg.connect(url, autocommit=True) as connection:
                yield connection
        finally:
            superuser.execute("drop database plain with (force)")


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply all files; what they noticed."""
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    for path in MIGRATIONS:
        with connection.transaction():
            connection.execute(path.read_bytes())
    return notices


def url_of(connection: psycopg.Connection, like: str) -> str:
    return urlsplit(like)._replace(path=f"/{connection.info.dbname}").geturl()


def test_without_realtime_and_cron_everything_works_by_polling(
    plain: psycopg.Connection, postgres: LocalStack
) -> None:
    notices = migrate(plain)
    assert [notice for notice in notices if notice.startswith("runhold:")] == [
        "runhold: no Supabase Realtime here; workers will poll",
        "runhold: no pg_cron here; workers sweep",
    ]
    world = World(url_of(plain, postgres.database_url), connect(url_of(plain, postgres.database_url)))
    try:
        worker, reviewer, user = world.worker(), world.reviewer(), world.person()
        run, (review,) = world.paused(worker, user)
        world.decide(reviewer, review["id"])
        (again,) = worker.claim()
        worker.heartbeat([run["id"]])
        assert worker.end(again, "completed", result={})["verdict"] == "ok"
        assert world.sweep() == {"requeued": 0, "expired": 0, "repaired": 0}
        assert world.status(run["id"]) == "completed"
    finally:
        world.close()


CRON = """
create schema cron;
create table cron.job (jobname text primary key, schedule text, command text);
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as $$
  insert into cron.job values (job_name, schedule, command)
  on conflict (jobname) do update set schedule = excluded.schedule, command = excluded.command returning 1::bigint $$;
create function cron.schedule(schedule text, command text) returns bigint language sql as 'select 1::bigint';
"""


def test_where_cron_exists_the_sweep_and_retention_are_scheduled(plain: psycopg.Connection) -> None:
    plain.execute(CRON)
    assert "runhold: no pg_cron here; workers sweep" not in migrate(plain)
    (schedule,) = [path for path in MIGRATIONS if path.stem.endswith("_schedule")]
    plain.execute(schedule.read_bytes())  # by hand, once more: the same jobs
    jobs = plain.execute("select jobname, schedule, command from cron.job order by 1").fetchall()
    assert [(name, schedule) for name, schedule, _ in jobs] == [
        ("runhold-prune", "*/10 * * * *"),
        ("runhold-sweep", "30 seconds"),
    ]
    answers = [plain.execute(command).fetchone() for *_, command in jobs]
    assert answers == [(0,), ({"requeued": 0, "expired": 0, "repaired": 0},)]


OLD_CRON = """
create function cron.require_minutes() returns trigger language plpgsql as $$
begin
  if new.schedule ~ 'second' then
    raise exception 'invalid schedule: %', new.schedule using errcode = '22023';
  end if;
  return new;
end $$;
create trigger require_minutes before insert or update on cron.job for each row execute function cron.require_minutes();
"""


def test_a_pg_cron_that_refuses_seconds_sweeps_every_minute(plain: psycopg.Connection) -> None:
    plain.execute(CRON)
    plain.execute(OLD_CRON)
    notices = migrate(plain)
    assert (
        "runhold: pg_cron runs runhold-sweep every minute, as it refuses seconds: invalid schedule: 30 seconds"
        in notices
    )
    jobs = plain.execute("select jobname, schedule from cron.job order by 1").fetchall()
    assert jobs == [("runhold-prune", "*/10 * * * *"), ("runhold-sweep", "* * * * *")]


def test_older_project_with_generous_defaults_ends_with_the_same_rights(
    plain: psycopg.Connection, world: World
) -> None:
    plain.execute(GENEROUS)
    migrate(plain)
    with psycopg.connect(plain.info.dsn, password=plain.info.password) as other:
        found = dict(other.execute(RIGHTS).fetchall())
    expected = {row["what"]: row["rights"] for row in world.sql(RIGHTS)}
    assert found == expected


def test_realtime_that_comes_later_is_used_from_then_on(
    plain: psycopg.Connection, postgres: LocalStack
) -> None:
    migrate(plain)
    here = urlsplit(postgres.superuser_url)._replace(path="/plain").geturl()
    with psycopg.connect(here, autocommit=True) as superuser:
        superuser.execute("create schema realtime; grant usage on schema realtime to public")
        superuser.execute("create table realtime.heard (topic text); grant all on realtime.heard to public")
        superuser.execute(
            "create function realtime.send(payload jsonb, event text, topic text, private boolean default true)"
            " returns void language sql as $$ insert into realtime.heard values (topic) $$"
        )
    plain.execute("select runhold.wake_workers()")
    assert plain.execute("select topic from realtime.heard").fetchall() == [("runhold:workers",)]
