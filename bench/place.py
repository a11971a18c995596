"""Where all systems run: one PostgreSQL of the benchmark's own, fsync on, with a database for each."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, LiteralString, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from bench.machine import command, commit_latency_ms, cpu_s, family, family_cpu_s
from runhold.local.control import erase
from runhold.local.placement import place
from runhold.local.stack import LocalStack, StackOptions

ROOT: Final = Path(__file__).absolute().parent.parent
VENV: Final = ROOT / "bench" / ".venv"

SETTINGS: Final = {
    "track_commit_timestamp": "on",  # a run's end is the commit of its last row, whatever the system notes itself
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",  # no checkpoint falls into one system's cell and not into another's
    "shared_buffers": "512MB",
}
"""Of PostgreSQL, for all systems alike; everything else as `runhold dev` has it."""

PROFILING: Final = {"track_functions": "all"}


class Place:
    """The servers. Leaving it ends all of them.

    :ivar folder: for logs and traces; deleted in the end.
    """

    def __init__(
        self, folder: Path, *, profile: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        """
        :param profile: count the time in functions, and profile worker 0.
        :param settings: more settings of PostgreSQL.
        """
        self.folder = folder
        self.profile = profile
        self._kept: dict[str, psycopg.Connection] = {}
        self._settings = {**SETTINGS, **(PROFILING if profile else {}), **(settings or {})}

    async def __aenter__(self) -> Self:
        # PostgreSQL's files must be on a disk whose commits count: not where /tmp may be memory.
        options = StackOptions(
            folder=self.folder / "stack",
            project=ROOT,
            port=0,
            seed=False,
            durable=True,
            postgres_settings=self._settings,
        )
        self.stack = await LocalStack.start(options)
        try:
            await self.stack.realtime.stop()  # it reads the WAL, whoever writes it
            self._connection = self.connect("postgres")
        except BaseException:
            await self.stack.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in (self._connection, *self._kept.values()):
            connection.close()
        await self.stack.stop()
        erase(self.folder / "stack")  # started by root, its database is in another place

    # ------------------------------------------------------------------------------------------- databases

    def url(self, database: str) -> str:
        """The URL of a database, for the superuser."""
        return urlunsplit(urlsplit(self.stack.superuser_url)._replace(path=f"/{database}"))

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True)

    def kept(self, database: str) -> psycopg.Connection:
        """A connection that stays, for what is asked often: a new one costs PostgreSQL more than most questions."""
        if database not in self._kept:
            self._kept[database] = self.connect(database)
        return self._kept[database]

    def create_database(self, name: str) -> None:
        """An empty database, unless there is one of that name."""
        found = self._connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone()
        if found is None:
            self._connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def truncate(self, database: str, schema: str, keep: tuple[str, ...] = ()) -> None:
        """Empty all tables of a schema but those in ``keep``."""
        with self.connect(database) as connection:
            rows = connection.execute(
                "select tablename from pg_tables where schemaname = %s and not tablename = any(%s)",
                [schema, list(keep)],
            ).fetchall()
            tables = sql.SQL(", ").join(sql.Identifier(schema, name) for (name,) in rows)
            if rows:
                connection.execute(sql.SQL("truncate {} cascade").format(tables))

    def stored_bytes(self, database: str) -> int:
        """Bytes of all tables with their indexes, after vacuum."""
        with self.connect(database) as connection:
            connection.execute("vacuum (analyze)")
            query: LiteralString = (
                "select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c "
                "join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'm') "
                "and n.nspname not in ('pg_catalog', 'information_schema')"
            )
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    # -------------------------------------------------------------------------------------------- measures

    def commit_ms(self) -> float:
        """The disk's commit latency now."""
        return commit_latency_ms(self._connection)

    def wal_bytes(self) -> int:
        """WAL written so far."""
        row = self._connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        return int(row[0])

    def server_cpu_s(self) -> dict[str, float]:
        """CPU seconds so far: of PostgreSQL, and of Runhold's API server and its Realtime."""
        found = {"postgres": self._postgres_cpu_s(), "api": 0.0, "realtime": 0.0}
        for pid in family(os.getpid()):
            line = command(pid)
            if "server.mjs" in line and "tether.py" not in line:
                found["api"] += cpu_s(pid)
            elif "runhold.local.realtime" in line and "tether.py" not in line:
                found["realtime"] += cpu_s(pid)
        return found

    def _postgres_cpu_s(self) -> float:
        row = self._connection.execute("select pg_read_file('postmaster.pid')").fetchone()
        assert row is not None
        return family_cpu_s(int(str(row[0]).splitlines()[0]))


def postgres_programs() -> Path:
    """The folder of psql and its like."""
    return place().binaries


def python_of(*, in_project: bool) -> str:
    """The interpreter of a system's processes."""
    return sys.executable if in_project else str(VENV / "bin" / "python")


def folder() -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of this checkout."""
    parent = ROOT / ".runhold"
    parent.mkdir(mode=0o700, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bench-", dir=parent)


def end_on_signals(task: asyncio.Task[object]) -> None:
    """SIGTERM and Ctrl-C end the benchmark in order: every process that it started ends."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
