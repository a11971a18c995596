"""Migrations and the seed: split, applied once, recorded as the Supabase CLI records them, refused with file and line."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from runhold.local.errors import MigrationFailed, StackError
from runhold.local.migrations import apply_project
from runhold.local.project import Migration, Project, find_project, own_backend
from runhold.local.sql_files import split


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


@pytest.mark.parametrize(
    "statement",
    [
        "select 'a;b'",
        "select e'a\\';b'",
        "select 'it''s;'",
        'select ";"',
        "select $$ ; $$",
        "select $body$ ; $$ ; $body$",
        "/* ; /* ; */ ; */ select 1",
        "-- ;\nselect 1",
        "create function f() returns int language sql begin atomic select 1; select case when true then 2 end; end",
        "do $$ begin perform 1; end $$",
        "select $1; ".strip("; "),
        "select a$b;".strip(";"),
        "select 'é;' as ü",
    ],
)
def test_a_semicolon_inside_a_statement_does_not_end_it(statement: str) -> None:
    assert texts(f"select 0;\n{statement};\nselect 2;\n") == ["select 0", statement, "select 2"]


def test_empty_statements_and_trailing_comments_are_dropped() -> None:
    assert texts(";;\n-- nothing\n;select 1;\n/* end */") == ["select 1"]


def test_begin_as_a_transaction_is_no_body() -> None:
    assert texts("begin; select 1; end; commit") == ["begin", "select 1", "end", "commit"]


def test_statements_know_their_lines() -> None:
    statements = list(split("\n-- about\nselect 1;\n\n\nselect\n2;"))
    assert [(statement.line, statement.text_line) for statement in statements] == [(3, 2), (6, 6)]


def project(folder: Path, *files: tuple[str, str], seed: str | None = None) -> Project:
    migrations: list[Migration] = []
    for name, text in files:
        path = folder / name
        path.write_text(text)
        version, _, rest = name.removesuffix(".sql").partition("_")
        migrations.append(Migration(version=version, name=rest, path=path))
    seed_path = None
    if seed is not None:
        seed_path = folder / "seed.sql"
        seed_path.write_text(seed)
    return Project(migrations=tuple(migrations), seed=seed_path)


async def test_files_are_applied_once_in_order_and_recorded(tmp_path: Path, fresh_database_url: str) -> None:
    files = [
        (
            "90000000000001_one.sql",
            "create table public.one (id int);\n-- more\ncreate table public.two (id int);",
        ),
        ("90000000000002_two_words.sql", "set search_path = 'nowhere'; insert into public.one values (1);"),
        ("90000000000003_three.sql", "create table three (id int);"),
    ]
    plan = project(tmp_path, *files, seed="insert into public.one values (2);")
    assert [m.name for m in await apply_project(fresh_database_url, plan)] == ["one", "two_words", "three"]
    assert await apply_project(fresh_database_url, plan) == []
    with psycopg.connect(fresh_database_url) as connection:
        assert connection.execute("select id from public.one order by id").fetchall() == [(1,), (2,)]
        assert connection.execute("select to_regclass('public.three') is not null").fetchone() == (True,)
        rows = connection.execute(
            "select version, name, statements from supabase_migrations.schema_migrations"
            " where version > '9' order by version"
        ).fetchall()
        assert rows[0] == (
            "90000000000001",
            "one",
            ["create table public.one (id int)", "-- more\ncreate table public.two (id int)"],
        )
        assert rows[1][1] == "two_words"
        owner = connection.execute("select relowner::regrole::text from pg_class where relname = 'three'")
        assert owner.fetchone() == ("postgres",)
        assert connection.execute("select path from supabase_migrations.seed_files").fetchall() == [
            ("supabase/seed.sql",)
        ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select 1;\n\nselect nonsense;", r"bad\.sql, line 3: column \"nonsense\" does not exist \(42703\)"),
        ("-- a comment\nselect 1,\n  nonsense;", r"line 3: column"),
        ("create tabel x ();", r"line 1: syntax error at or near \"tabel\" \(42601\)"),
        (
            "select 1;\ndo $$ begin raise exception 'no way' using hint = 'go home'; end $$;",
            r"line 2: no way \(P0001\)\. go home",
        ),
        ("create role x superuser;", r"line 1: permission denied to create role"),
    ],
)
async def test_a_refused_file_is_named_and_leaves_nothing(
    tmp_path: Path, fresh_database_url: str, text: str, says: str
) -> None:
    plan = project(
        tmp_path,
        ("90000000000001_good.sql", "create table public.good ();"),
        ("90000000000002_bad.sql", f"create table public.bad ();{text}"),
    )
    with pytest.raises(MigrationFailed, match=says) as failed:
        await apply_project(fresh_database_url, plan)
    assert "\n" not in str(failed.value)
    with psycopg.connect(fresh_database_url) as connection:
        found = connection.execute(
            "select to_regclass('public.good') is null, to_regclass('public.bad') is null"
        )
        assert found.fetchone() == (False, True)


async def test_a_constraint_that_fails_at_the_end_names_the_file(
    tmp_path: Path, fresh_database_url: str
) -> None:
    text = (
        "create table public.a (id int primary key);"
        "create table public.b (id int references public.a deferrable initially deferred);"
        "insert into public.b values (1);"
    )
    with pytest.raises(MigrationFailed, match=r"late\.sql"):
        await apply_project(fresh_database_url, project(tmp_path, ("90000000000001_late.sql", text)))


async def test_a_seed_that_fails_runs_again(tmp_path: Path, fresh_database_url: str) -> None:
    with pytest.raises(MigrationFailed, match=r"seed\.sql, line 1"):
        await apply_project(fresh_database_url, project(tmp_path, seed="select nonsense"))
    await apply_project(fresh_database_url, project(tmp_path, seed="create table public.seeded ()"))
    await apply_project(fresh_database_url, project(tmp_path, seed="create table public.seeded ()"))


def test_a_projects_own_migrations_join_ours(tmp_path: Path) -> None:
    ours = find_project(tmp_path)
    assert ours.migrations
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "20200101000000_theirs.sql").write_text("")
    (folder / "notes.sql").write_text("")
    copied = ours.migrations[0]
    (folder / copied.path.name).write_text("select 'their copy'")
    both = find_project(tmp_path)
    assert len(both.migrations) == len(ours.migrations) + 1
    assert both.migrations[0].name == "theirs"
    assert both.migrations[1].path == folder / copied.path.name


def test_two_files_of_one_version_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    for name in ("1_a.sql", "1_b.sql"):
        (folder / name).write_text("")
    with pytest.raises(StackError, match=r"1_a\.sql and 1_b\.sql have the same version"):
        find_project(tmp_path)


def test_our_own_backend_is_found() -> None:
    assert (own_backend() / "migrations").is_dir()
