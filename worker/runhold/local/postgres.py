"""The PostgreSQL server of the stack: create the database files once, run the server, say how to reach it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from runhold.local.child import Child, ChildSpec
from runhold.local.errors import ChildEnded, StackError
from runhold.local.placement import Placement
from runhold.local.ports import LOOPBACK, free_port

SUPERUSER = "supabase_admin"
DATABASE = "postgres"
READY = "database system is ready to accept connections"
LOCK_HELD = 'lock file "postmaster.pid" already exists'
STARTS = 20
"""Tries to start: another program may take the chosen port first, and a killed stack's server may still be ending."""
RETRY_S = 0.5

COMPLAINT = re.compile(r"\b(?:FATAL|PANIC|error|could not)\b")

SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # passwords rule; a socket path may also be too long for the kernel
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "1GB",  # a slot that nobody reads must not fill the disk
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # the ready line is looked for in English
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "cluster_name": "runhold",
}


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """Where the server listens on loopback, and the one password of the roles that may log in."""

    port: int
    password: str

    def url(self, role: str, database: str = DATABASE) -> str:
        """The connection URL for a role."""
        return f"postgresql://{role}:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"


async def create_database_files(placement: Placement, data: Path, password: str, *, sync: bool) -> None:
    """Create the database files: `data` appears whole or not at all, even if this process is killed.

    `sync`: whether to wait until the files are safe on disk. Raises StackError with initdb's last word.
    """
    making = data.with_name(f"{data.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    placement.owned(making)
    # The password file must be readable by PostgreSQL's user, so it is beside the data and not in the stack's folder.
    password_file = data.with_name(f"{data.name}.password")
    password_file.unlink(missing_ok=True)
    handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(password)
        placement.owned(password_file)
        process = await asyncio.create_subprocess_exec(
            str(placement.binaries / "initdb"),
            *("-D", str(making), "-U", SUPERUSER, "--pwfile", str(password_file)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"),
            # Not the machine's locale: the same order of text everywhere, and no locale needs to be installed.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *([] if sync else ["--no-sync"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(),
            cwd=making,
            start_new_session=True,
            user=placement.uid,
            group=placement.group,
            extra_groups=None if placement.user is None else [],
        )
        output, _ = await process.communicate()
    finally:
        password_file.unlink(missing_ok=True)
    if process.returncode != 0:
        shutil.rmtree(making, ignore_errors=True)
        lines = output.decode(errors="replace").strip().splitlines()
        # The first complaint is the cause; the last one may only be about tidying up.
        cause = next(
            (line for line in lines if COMPLAINT.search(line)), lines[-1] if lines else "it said nothing"
        )
        raise StackError(f"initdb could not create the database: {cause}")
    making.rename(data)


async def start_postgres(
    placement: Placement,
    data: Path,
    *,
    log: Path,
    password: str,
    port: int,
    settings: Mapping[str, str] | None = None,
    any_port: bool = True,
) -> tuple[Child, PostgresServer]:
    """Start the server on this port of loopback; with `any_port` on another one if that is in use.

    `settings` are added to ours. Raises ChildEnded.
    """
    if any_port:
        port = free_port(port)
    for attempt in range(1, STARTS + 1):
        options = {**SETTINGS, "port": str(port), **(settings or {})}
        spec = ChildSpec(
            name="PostgreSQL",
            program=[
                str(placement.binaries / "postgres"),
                *("-D", str(data)),
                *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
            ],
            log=log,
            ready=READY,
            ready_within_s=120.0,  # recovery after a crash may take long
            # Fast shutdown; if it drags on, immediate shutdown (recovery at the next start), then SIGKILL.
            stops=("INT:15", "QUIT:5"),
            environment=environment(),
            folder=data,
            user=placement.user,
        )
        try:
            child, _ = await Child.start(spec)
        except ChildEnded as error:
            text = str(error)
            if attempt == STARTS or not (LOCK_HELD in text or "Address already in use" in text):
                raise
            if LOCK_HELD in text or not any_port:
                await asyncio.sleep(RETRY_S)
            if any_port:
                port = free_port()
        else:
            return child, PostgresServer(port=port, password=password)
    raise AssertionError("unreachable")


def environment() -> dict[str, str]:
    """A small environment: the caller's PG* and locale variables would change what the server does."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
