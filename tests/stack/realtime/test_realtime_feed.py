"""The change feed and the process: losses it must outlive, and how it starts and ends."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from subprocess import PIPE
from typing import Any

import aiohttp
import psycopg
import pytest
from realtime import RealtimeSubscribeStates
from realtime_stack import (
    PATIENCE_S,
    Database,
    Inbox,
    Postgres,
    RawSocket,
    Stack,
    scratch_postgres,
    server_environment,
    server_process,
)
from test_realtime_changes import publish, raw_subscribe, subscribe

from runhold.local.realtime import RealtimeConfig, RealtimeServer, RealtimeStartError
from runhold.local.realtime.dispatcher import widen


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server these tests may stop."""
    with scratch_postgres() as postgres:
        yield postgres


async def streaming(http: aiohttp.ClientSession, url: str, *, yes: bool) -> None:
    """Wait until the server says that its feed streams, or not."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with http.get(f"{url}/health") as response:
                if (await response.json())["feed_streaming"] is yes:
                    return
            await asyncio.sleep(0.05)


async def heard(socket: RawSocket, database: Database, name: str) -> int:
    """Insert rows until one is announced; answers its id. What commits while the feed is away is lost."""
    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(socket.receive_event("postgres_changes"))
        while not waiting.done():
            await database.run(f"insert into {name} default values")
            await asyncio.wait({waiting}, timeout=0.1)
        return waiting.result()["payload"]["data"]["record"]["id"]


async def test_publication_dropped_and_created_again_loses_the_feed_for_a_moment(
    raw: Any, http: aiohttp.ClientSession, stack: Stack, database: Database, name: str
) -> None:
    serial = "id int generated always as identity primary key"
    await publish(database, name, serial)
    tables = await database.run(
        "select format('%I.%I', schemaname, tablename) from pg_publication_tables"
        " where pubname = 'supabase_realtime'"
    )
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name})
    await database.run("drop publication supabase_realtime")
    await database.run(f"insert into {name} default values")  # ends the stream
    await streaming(http, stack.url, yes=False)
    names = ", ".join(row[0] for row in tables)
    await database.run(f"create publication supabase_realtime for table {names}")
    await streaming(http, stack.url, yes=True)
    assert await heard(socket, database, name) > 1
    # Left out altogether, it is made again.
    await database.run("drop publication supabase_realtime")
    await database.run(f"insert into {name} default values")
    await streaming(http, stack.url, yes=False)
    await streaming(http, stack.url, yes=True)
    await database.run(f"alter publication supabase_realtime add table {names}")
    assert await heard(socket, database, name) > 1


async def test_restart_of_postgres_and_then_of_the_server_is_outlived(
    stack: Stack, own_postgres: Postgres, http: aiohttp.ClientSession, client: Any
) -> None:
    config = stack.config(database_url=own_postgres.url)
    create = (
        "create table t (id int generated always as identity primary key);"
        "grant all on t to anon; alter publication supabase_realtime add table t"
    )
    async with await psycopg.AsyncConnection.connect(own_postgres.url, autocommit=True) as connection:
        await connection.execute(create)
    inbox, states = Inbox(), Inbox()
    async with RealtimeServer(config) as server:
        user = await client(url=server.url)
        await subscribe(user, "t", inbox, table="t", states=states)
        stopping_at = time.monotonic()
        await asyncio.to_thread(own_postgres.control, "-m", "fast", "stop")
        # A connected but unread walsender would delay this by a minute.
        assert time.monotonic() - stopping_at < 30
        await streaming(http, server.url, yes=False)
        await asyncio.to_thread(own_postgres.start)
        await streaming(http, server.url, yes=True)
        async with await psycopg.AsyncConnection.connect(own_postgres.url, autocommit=True) as connection:
            await connection.execute("insert into t default values")
        await inbox.count(1)
        port = int(server.url.rsplit(":", 1)[1])
    async with RealtimeServer(stack.config(database_url=own_postgres.url, port=port)):
        subscribed = RealtimeSubscribeStates.SUBSCRIBED
        await states.until(lambda items: len(items) > 2 and items[-1][0] == subscribed)
        async with await psycopg.AsyncConnection.connect(own_postgres.url, autocommit=True) as connection:
            await connection.execute("insert into t default values")
        await inbox.count(2)


async def test_slot_is_gone_after_the_server(stack: Stack, database: Database) -> None:
    count = "select count(*) from pg_replication_slots"
    [[before]] = await database.run(count)
    async with RealtimeServer(stack.config()):
        assert await database.run(count) == [(before + 1,)]
    async with asyncio.timeout(PATIENCE_S):
        while await database.run(count) != [(before,)]:
            await asyncio.sleep(0.01)


async def test_open_writing_transaction_is_named_when_it_holds_up_the_start(
    stack: Stack,
    database: Database,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("runhold.local.realtime.feed.SLOT_NOTICE_S", 0.1)
    monkeypatch.setattr("runhold.local.realtime.feed.SLOT_TIMEOUT_S", 0.5)
    await database.run(f"create table {name} (id int)")
    writing = await psycopg.AsyncConnection.connect(stack.postgres.url, application_name="writer")
    async with writing:
        await writing.execute(f"insert into {name} values (1)".encode())
        with pytest.raises(RealtimeStartError, match="open writing transactions"):
            async with RealtimeServer(stack.config()):
                pass
    assert "writer" in caplog.text


async def test_side_task_that_dies_fails_the_server(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("runhold.local.realtime.dispatcher.Dispatcher.run", die)
    server = RealtimeServer(stack.config())
    with pytest.raises(Exception, match="realtime-dispatcher died"):
        async with server:
            await server.wait_failed()


async def test_port_in_use_and_unreachable_database_are_named(stack: Stack) -> None:
    port = int(stack.url.rsplit(":", 1)[1])
    with pytest.raises(RealtimeStartError, match=f"cannot listen on 127.0.0.1:{port}"):
        async with RealtimeServer(stack.config(port=port)):
            pass
    with pytest.raises(RealtimeStartError, match="cannot stream changes"):
        async with RealtimeServer(stack.config(database_url="postgresql://nobody@127.0.0.1:1/x")):
            pass


@pytest.mark.parametrize("end", ["signal", "pipe", "socket"])
async def test_process_ends_with_a_signal_and_with_its_parent(
    stack: Stack, http: aiohttp.ClientSession, end: str
) -> None:
    # Node, and asyncio on Python 3.11, give a child a socket for its standard input.
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        server_process(stack.config(), stdin=theirs.fileno() if end == "socket" else PIPE) as started,
    ):
        process, url = started
        theirs.close()
        client = await http.ws_connect(
            f"{url}/realtime/v1/websocket", params={"apikey": stack.publishable_key}
        )
        if end == "signal":
            process.send_signal(signal.SIGTERM)
        elif end == "pipe":
            assert process.stdin is not None
            process.stdin.close()
        else:
            ours.close()
        message = await client.receive(timeout=PATIENCE_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0


def test_process_with_bad_settings_ends_with_an_error(stack: Stack) -> None:
    command = [sys.executable, "-m", "runhold.local.realtime"]
    environment = server_environment(stack.config()) | {"RUNHOLD_JWT_SECRET": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (result.returncode, result.stdout) == (2, "")
    assert "RUNHOLD_JWT_SECRET is not set" in result.stderr


def test_settings_are_checked_when_built() -> None:
    settings: dict[str, Any] = {
        "database_url": "dbname=x",
        "jwt_secret": "hidden",
        "publishable_key": "p",
        "secret_key": "k",
    }
    assert "hidden" not in repr(RealtimeConfig(**settings))
    problems: list[tuple[dict[str, Any], str]] = [
        ({"database_url": "x=1"}, "not a libpq connection string"),
        ({"jwt_secret": ""}, "jwt_secret is empty"),
        ({"secret_key": "p"}, "equal"),
        ({"port": 70000}, "port is 70000"),
    ]
    for change, message in problems:
        with pytest.raises(RealtimeStartError, match=message):
            RealtimeConfig(**(settings | change))


def test_transaction_ids_are_widened_across_the_epoch() -> None:
    epoch = 1 << 32
    assert widen(5, epoch + 3) == epoch + 5
    assert widen(5, epoch - 3) == epoch + 5
    assert widen(epoch - 2, epoch + 1) == epoch - 2
    assert widen(100, 100) == 100
