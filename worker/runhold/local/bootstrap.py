"""Turns an empty PostgreSQL cluster into what a new Supabase project is before its first migration."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg
from psycopg import sql

from runhold.local.errors import StackError
from runhold.local.sql_files import run_file

ROLES = Path(__file__).with_name("bootstrap.sql")
REALTIME = Path(__file__).parent / "realtime" / "schema.sql"
REALTIME_MARK = "runhold local realtime "
"""The comment on schema realtime, followed by the hash of the file that made it."""


async def bootstrap(superuser_url: str, password: str) -> None:
    """Bring the cluster up to date, in one transaction per file; what is there already is left alone.

    `password`: of the roles that log in. Raises MigrationFailed, which here means a defect of Runhold.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(superuser_url, autocommit=True)
    except psycopg.OperationalError as error:
        raise StackError(f"The stack's PostgreSQL cannot be reached: {error}") from error
    async with connection:
        if not await _exists(connection, "select to_regrole('authenticator')"):
            text = ROLES.read_text()
            text = text.replace("%(password)s", sql.Literal(password).as_string(connection))
            async with connection.transaction():
                await run_file(connection, ROLES, text)
        if REALTIME.exists():
            text = REALTIME.read_text()
            mark = REALTIME_MARK + hashlib.sha256(text.encode()).hexdigest()[:16]
            found = await _exists(
                connection, "select obj_description(to_regnamespace('realtime'), 'pg_namespace')"
            )
            if found != mark:
                async with connection.transaction():
                    await run_file(connection, REALTIME, text)
                    await connection.execute(
                        sql.SQL("comment on schema realtime is {}").format(sql.Literal(mark))
                    )


async def _exists(connection: psycopg.AsyncConnection, query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    return row[0] if row else None
