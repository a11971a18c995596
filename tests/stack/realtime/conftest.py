"""Fixtures of the Realtime tests; `realtime_stack` knows how things come up."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import psycopg
import pytest
from realtime_stack import Database, RawSocket, Stack, scratch_postgres, server_process
from supabase import AsyncClient, acreate_client

from runhold.local.realtime import RealtimeConfig, RealtimeServer


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One database and one server process for all tests; every test uses topics and tables of its own."""
    with scratch_postgres() as postgres:
        config = RealtimeConfig(
            database_url=postgres.url,
            jwt_secret=secrets.token_hex(32),
            publishable_key=f"sb_publishable_{secrets.token_hex(12)}",
            secret_key=f"sb_secret_{secrets.token_hex(12)}",
        )
        with server_process(config) as (_process, url):
            yield Stack(
                url=url,
                postgres=postgres,
                jwt_secret=config.jwt_secret,
                publishable_key=config.publishable_key,
                secret_key=config.secret_key,
            )


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[Database]:
    async with await psycopg.AsyncConnection.connect(
        stack.postgres.url_as("postgres"), autocommit=True
    ) as connection:
        yield Database(connection)


@pytest.fixture
def name() -> str:
    """A table or topic name nobody else uses."""
    return f"t_{secrets.token_hex(5)}"


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Callable[..., Any]]:
    """Makes unmodified supabase-py clients, closed at the end. `client(key=None, token=None, url=None)`."""
    made: list[AsyncClient] = []

    async def make(
        *, key: str | None = None, token: str | None = None, url: str | None = None
    ) -> AsyncClient:
        new = await acreate_client(url or stack.url, key or stack.publishable_key)
        if token is not None:
            await new.realtime.set_auth(token)
        made.append(new)
        return new

    yield make
    for old in made:
        with contextlib.suppress(Exception):  # some tests end the server under it
            await old.realtime.close()


@pytest.fixture
async def local_server(stack: Stack) -> AsyncIterator[RealtimeServer]:
    """One more server on the same database, in this process."""
    async with RealtimeServer(stack.config()) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def raw(stack: Stack, http: aiohttp.ClientSession) -> Callable[..., Any]:
    """Opens sockets to speak the protocol by hand. `raw(key=None, version="2.0.0", url=None)`."""

    async def connect(*, key: str | None = None, version: str = "2.0.0", url: str | None = None) -> RawSocket:
        socket = await http.ws_connect(
            f"{url or stack.url}/realtime/v1/websocket",
            params={"vsn": version, "apikey": key or stack.publishable_key},
        )
        return RawSocket(socket, version)

    return connect
