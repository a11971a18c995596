"""Compare a database with the release, and repair it, over a connection of role postgres.

API keys can't create triggers or roles, so repairing needs the database's URL. Nothing of that URL is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from runhold.cli.exits import CommandError, Exit
from runhold.cli.installation import (
    PREAMBLE,
    Fault,
    FunctionsMissing,
    Installation,
    comparing_files,
    read_installation,
)
from runhold.errors import APPLY_MIGRATIONS

CONNECT_TIMEOUT_S: Final = 10

PASSES: Final = 3
"""What a repair has to drop first, for example a function of another result, may take other objects with it."""

LOCK_ID: Final = 0x72756E686F6C65
"""Advisory lock that lets one repair work at a time."""

_NOT_A_URL: Final = (
    "The database URL can't be read: give the connection string that the dashboard shows under Connect, with special "
    "characters of the password percent-encoded (@ is %40)."
)
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|\[?[0-9A-Fa-f:.]+(%\w+)?\]?|/[^@]*")


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done.

    :ivar repaired: what was missing or different, and is not any more.
    :ivar left: how the database differs from the release now.
    """

    repaired: Sequence[Fault]
    left: Installation


async def ask_database(url: str) -> Installation:
    """Compare over a connection.

    :raises CommandError: it can't be opened, or this is no database of Runhold's.
    :raises NotComparable: a function or the rows of the release are missing.
    """
    async with _connected(url) as connection:
        return await _ask(connection)


async def repair(url: str) -> Repair:
    """Run the SQL of all faults in one transaction, then compare again.

    It may be interrupted, and repeated: whatever is not committed has not happened.

    :raises CommandError: the database can't be reached, or refuses a statement: then nothing was changed.
    :raises RowsMissing: there is nothing to compare with.
    """
    async with _connected(url) as connection:
        async with connection.transaction():
            await connection.execute(PREAMBLE.encode())
            await connection.execute("select pg_advisory_xact_lock(%s)", [LOCK_ID])
            await _bring_comparison_back(connection)
            before = left = await _ask(connection)
            for _ in range(PASSES):
                if not left.faults:
                    break
                for fault in left.faults:
                    await _run(connection, fault)
                left = await _ask(connection)
            await connection.execute("notify pgrst, 'reload schema'")
        there = {(fault.kind, fault.identity) for fault in left.faults}
        repaired = [fault for fault in before.named if (fault.kind, fault.identity) not in there]
        return Repair(repaired, left)


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[psycopg.AsyncConnection]:
    _check(url)
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_TIMEOUT_S
        )
    except psycopg.Error as error:
        raise CommandError(
            f"The database can't be reached: {_first_line(error)}.", exit_with=Exit.UNREACHABLE
        ) from None
    async with connection:
        try:
            yield connection
        except psycopg.Error as error:
            status = Exit.UNREACHABLE if error.diag.sqlstate is None else Exit.FAILED
            raise CommandError(
                f"The database did not go on: {_first_line(error)}. Nothing was changed.", exit_with=status
            ) from error


def _check(url: str) -> None:
    """Refuse a URL that libpq reads otherwise than its writer meant: its errors would show pieces of a password."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        raise CommandError(_NOT_A_URL, exit_with=Exit.USAGE) from None
    host, port = str(parts.get("host") or ""), str(parts.get("port") or "5432")
    if (
        not url.startswith(("postgresql://", "postgres://"))
        or not _HOST.fullmatch(host)
        or not port.isdecimal()
    ):
        raise CommandError(_NOT_A_URL, exit_with=Exit.USAGE)


async def _ask(connection: psycopg.AsyncConnection) -> Installation:
    try:
        cursor = await connection.execute("select runhold.installation()")
    except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable) as error:
        raise FunctionsMissing(_first_line(error)) from error
    except psycopg.errors.InvalidSchemaName as error:
        raise _no_runhold() from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise CommandError(
            f"The database refuses this role ({_first_line(error)}): connect as role postgres."
        ) from error
    row = await cursor.fetchone()
    assert row is not None, "a function answers"
    return read_installation(row[0])


async def _bring_comparison_back(connection: psycopg.AsyncConnection) -> None:
    """Make the functions that compare, where one of them is missing."""
    cursor = await connection.execute("select to_regnamespace('runhold')")
    if await cursor.fetchone() == (None,):
        raise _no_runhold()
    try:
        async with connection.transaction():
            await _ask(connection)
    except FunctionsMissing:
        for path in comparing_files():
            await connection.execute(path.read_bytes())


async def _run(connection: psycopg.AsyncConnection, fault: Fault) -> None:
    try:
        await connection.execute(fault.sql.encode())
    except psycopg.OperationalError as error:
        if error.diag.sqlstate is None:
            raise
        raise _refused(fault, error) from error
    except psycopg.Error as error:
        raise _refused(fault, error) from error


def _refused(fault: Fault, error: psycopg.Error) -> CommandError:
    why = _first_line(error)
    if isinstance(error, psycopg.errors.LockNotAvailable):
        why += ": another session uses its table; stop the workers, or try again"
    return CommandError(f"The {fault.name} can't be repaired: {why}. Nothing was changed.")


def _no_runhold() -> CommandError:
    return CommandError(
        "This database has no schema runhold, so there is nothing to repair: restore the backup, or run "
        f"{APPLY_MIGRATIONS}."
    )


def _first_line(error: psycopg.Error) -> str:
    diagnosis = error.diag
    text = ". ".join(
        part.rstrip(".") for part in (diagnosis.message_primary, diagnosis.message_detail) if part
    )
    lines = (text or str(error)).strip().splitlines()
    return lines[-1 if not text else 0].strip().rstrip(".") if lines else type(error).__name__
