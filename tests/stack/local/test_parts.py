"""Parts of a running stack are stopped and started singly; the others notice, wait and go on by themselves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from stack_thread import on_its_loop, running_stack
from supabase import AsyncClientOptions, acreate_client

from runhold.local.errors import ChildEnded
from runhold.local.part import Part
from runhold.local.stack import LocalStack
from runhold.testing.chaos.patience import eventually

PATIENCE_S = 60
SLOW_CALLS = 30


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A stack that may be broken, and whose database survives it."""
    with running_stack(durable=True) as stack:
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute("create table public.kept (value integer primary key)")
            connection.execute("grant select, insert on public.kept to service_role")
            connection.execute(
                "create function public.slow() returns integer language sql volatile"
                " as 'select 1 from pg_sleep(600)'"
            )
        yield stack


@pytest.fixture
async def service(own_stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"apikey": own_stack.secret_key, "authorization": f"Bearer {own_stack.secret_key}"}
    async with httpx.AsyncClient(base_url=f"{own_stack.url}/rest/v1", headers=headers, timeout=30) as client:
        yield client


async def stop(stack: LocalStack, part: Part, *, immediate: bool = False) -> None:
    await on_its_loop(stack, part.stop(immediate=immediate))


async def start(stack: LocalStack, part: Part) -> None:
    await on_its_loop(stack, part.start())


async def test_what_was_committed_is_there_after_an_immediate_stop(
    own_stack: LocalStack, service: httpx.AsyncClient
) -> None:
    before = own_stack.env()
    assert (await service.post("/kept", json={"value": 1})).status_code == 201
    await stop(own_stack, own_stack.postgres, immediate=True)
    assert not own_stack.postgres.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_stack.database_url)
    await start(own_stack, own_stack.postgres)
    assert own_stack.env() == before
    assert "automatic recovery in progress" in (own_stack.folder / "logs" / "postgres.log").read_text()
    assert (await service.get("/kept?value=eq.1")).json() == [{"value": 1}]


async def test_requests_of_every_kind_are_answered_during_and_after_a_crash_of_the_database(
    own_stack: LocalStack, service: httpx.AsyncClient
) -> None:
    async def under_way() -> bool:
        with psycopg.connect(own_stack.superuser_url) as connection:
            rows = connection.execute(
                "select from pg_stat_activity where wait_event = 'PgSleep' and query like '%slow%'"
            )
            return rows.rowcount >= 20

    for _ in range(3):
        # More than there are connections: some are under way, some wait, and two thirds of those that come through a
        # function are new to their connection, which makes the driver wait before it sends the rest.
        calls = [asyncio.create_task(service.post("/rpc/slow", json={})) for _ in range(SLOW_CALLS)]
        await eventually(under_way)
        await stop(own_stack, own_stack.postgres, immediate=True)
        for answer in await asyncio.gather(*calls):
            assert (answer.status_code, answer.json()["code"][:7]) == (503, "PGRST00"), answer.text
        away = await asyncio.gather(
            service.get("/kept"), service.post("/kept", json={"value": 9}), service.post("/rpc/slow", json={})
        )
        assert [answer.status_code for answer in away] == [503, 503, 503], [answer.text for answer in away]
        await start(own_stack, own_stack.postgres)
        back = await asyncio.gather(*(service.get("/kept?limit=1") for _ in range(SLOW_CALLS)))
        assert {answer.status_code for answer in back} == {200}
        assert await sign_up(own_stack)


async def test_a_database_that_resets_every_connection_ends_no_server(
    own_stack: LocalStack, service: httpx.AsyncClient
) -> None:
    def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lingering = struct.pack("ii", 1, 0)  # not at all: closing sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        writer.close()

    await stop(own_stack, own_stack.postgres)
    where = urlsplit(own_stack.database_url)
    async with await asyncio.start_server(reset, where.hostname, where.port):
        for _ in range(10):
            answers = await asyncio.gather(*(service.get("/kept?limit=1") for _ in range(SLOW_CALLS)))
            assert {answer.status_code for answer in answers} == {503}
    await start(own_stack, own_stack.postgres)
    assert own_stack.api.running
    assert (await service.get("/kept?limit=1")).status_code == 200


async def sign_up(stack: LocalStack) -> Any:
    client = await acreate_client(stack.url, stack.publishable_key, AsyncClientOptions())
    name = f"{time.monotonic_ns()}@example.org"
    return (await client.auth.sign_up({"email": name, "password": "a long passphrase"})).user


async def test_realtime_delivers_again_after_a_crash_of_the_database_and_after_its_own(
    own_stack: LocalStack,
) -> None:
    heard: list[str] = []
    client = await acreate_client(own_stack.url, own_stack.secret_key, AsyncClientOptions())
    channel = client.channel("parts")
    channel.on_broadcast("ping", lambda message: heard.append(message["payload"]["text"]))
    await channel.subscribe()

    async def sent_by_the_database(text: str) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(own_stack.superuser_url) as connection:
            connection.execute(
                "select realtime.send(%s, 'ping', 'parts', false)", [json.dumps({"text": text})]
            )
        await asyncio.sleep(0.05)
        return text in heard

    await eventually(lambda: sent_by_the_database("at first"))
    await stop(own_stack, own_stack.postgres, immediate=True)
    await start(own_stack, own_stack.postgres)
    await eventually(lambda: sent_by_the_database("after the database's crash"))
    await client.remove_all_channels()

    await stop(own_stack, own_stack.realtime, immediate=True)
    async with httpx.AsyncClient() as plain:
        answer = await plain.post(f"{own_stack.url}/realtime/v1/api/broadcast")
    assert answer.status_code == 502
    await start(own_stack, own_stack.realtime)
    channel = client.channel("parts")
    channel.on_broadcast("ping", lambda message: heard.append(message["payload"]["text"]))
    await channel.subscribe()
    await eventually(lambda: sent_by_the_database("after its own"))
    await client.remove_all_channels()


async def test_the_api_comes_back_on_its_port(own_stack: LocalStack, service: httpx.AsyncClient) -> None:
    for immediate in (True, False):
        await stop(own_stack, own_stack.api, immediate=immediate)
        with pytest.raises(httpx.ConnectError):
            await service.get("/kept")
        await start(own_stack, own_stack.api)
        assert (await service.get("/kept?limit=1")).status_code == 200


async def test_a_frozen_part_answers_late(own_stack: LocalStack, service: httpx.AsyncClient) -> None:
    async with own_stack.api.frozen():
        asking = asyncio.create_task(service.get("/kept?limit=1"))
        with pytest.raises(httpx.ReadTimeout):
            await service.get("/kept?limit=1", timeout=0.5)
        assert not asking.done()
    assert (await asking).status_code == 200


async def test_a_frozen_part_can_be_stopped(own_stack: LocalStack, service: httpx.AsyncClient) -> None:
    async with own_stack.api.frozen():
        await stop(own_stack, own_stack.api)
    await start(own_stack, own_stack.api)
    assert (await service.get("/kept?limit=1")).status_code == 200


async def test_only_an_end_that_nobody_asked_for_ends_the_stack(own_stack: LocalStack) -> None:
    waiting = asyncio.create_task(on_its_loop(own_stack, own_stack.wait()))
    await stop(own_stack, own_stack.realtime)
    await stop(own_stack, own_stack.realtime)
    await start(own_stack, own_stack.realtime)
    await start(own_stack, own_stack.realtime)
    await stop(own_stack, own_stack.api, immediate=True)
    await start(own_stack, own_stack.api)
    assert not waiting.done()
    await on_its_loop(own_stack, end_by_itself(own_stack.realtime))
    with pytest.raises(ChildEnded, match="Realtime ended by itself"):
        await waiting
    await stop(own_stack, own_stack.realtime)
    await start(own_stack, own_stack.realtime)


async def end_by_itself(part: Part) -> None:
    """Kill the program behind the back of its part."""
    assert part._child is not None
    part._child.send_signal(signal.SIGKILL)
