"""Applies migrations and the seed as the Supabase CLI does, with the same records: either can go on from the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import psycopg

from runhold.local.errors import MigrationFailed, StackError
from runhold.local.project import Migration, Project
from runhold.local.sql_files import run_file

LOCK_ID = 0x72756E686F6C64
"""Advisory lock that lets one migrator work at a time: `runhold` in ASCII."""

SEED_PATH = "supabase/seed.sql"
"""The name under which the CLI records the seed."""

HISTORY = b"""
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
alter table supabase_migrations.schema_migrations add column if not exists statements text[];
alter table supabase_migrations.schema_migrations add column if not exists name text;
create table if not exists supabase_migrations.seed_files (path text not null primary key, hash text not null);
"""


async def apply_project(database_url: str, project: Project, *, seed: bool = True) -> list[Migration]:
    """Apply what is not recorded yet, each file in a transaction of its own, then the seed if it never ran.

    `database_url`: of role postgres. Answers the migrations applied now. Raises MigrationFailed; files before the
    failing one stay applied.
    """
    async with await _connect(database_url) as connection:
        await connection.execute("select pg_advisory_lock(%s)", [LOCK_ID])
        recorded = await _recorded(connection)
        applied: list[Migration] = []
        for migration in project.migrations:
            if migration.version not in recorded:
                await _apply(connection, migration)
                applied.append(migration)
        if seed and project.seed is not None:
            await _seed(connection, project.seed)
        return applied


async def recorded_statements(database_url: str) -> dict[str, list[str] | None]:
    """The statements of each applied migration, by its version; None where they were not recorded."""
    async with await _connect(database_url) as connection:
        return await _recorded(connection)


async def _connect(database_url: str) -> psycopg.AsyncConnection:
    try:
        return await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    except psycopg.OperationalError as error:
        raise StackError(f"The database cannot be reached: {error}") from error


async def _recorded(connection: psycopg.AsyncConnection) -> dict[str, list[str] | None]:
    await connection.execute(HISTORY)
    rows = await connection.execute("select version, statements from supabase_migrations.schema_migrations")
    return {str(version): statements for version, statements in await rows.fetchall()}


async def _apply(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    await _run_recorded(
        connection,
        migration.path,
        lambda text, statements: (
            "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
            [migration.version, migration.name, statements],
        ),
    )


async def _seed(connection: psycopg.AsyncConnection, path: Path) -> None:
    rows = await connection.execute("select from supabase_migrations.seed_files where path = %s", [SEED_PATH])
    if rows.rowcount:
        return
    await _run_recorded(
        connection,
        path,
        lambda text, statements: (
            "insert into supabase_migrations.seed_files (path, hash) values (%s, %s)",
            [SEED_PATH, hashlib.sha256(text.encode()).hexdigest()],
        ),
    )


async def _run_recorded(
    connection: psycopg.AsyncConnection,
    path: Path,
    record: Callable[[str, list[str]], tuple[LiteralString, list[object]]],
) -> None:
    """Run a file and the statement that records it in one transaction. `record` gets the text and its statements."""
    text = _read(path)
    try:
        async with connection.transaction():
            statements = await run_file(connection, path, text)
            # A file may have changed its session (role, search_path, time-outs); the next one starts afresh.
            await connection.execute("reset role")
            await connection.execute("reset all")
            query, values = record(text, statements)
            await connection.execute(query, values)
    except psycopg.Error as error:  # at commit: a deferred constraint
        raise MigrationFailed(
            f"{path.name}, at its end: {error}. Nothing of {path.name} was applied."
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MigrationFailed(f"{path} cannot be read: {error}.") from error
