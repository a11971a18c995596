"""Broadcast replay: stored messages of a private topic for those who join later."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from realtime_stack import PATIENCE_S, Database, Inbox, RawSocket, Stack

VERSIONS = pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
NOT_VALID = "UnableToReplayMessages: Replay params are not valid"


@pytest.fixture
async def topic(database: Database, name: str) -> str:
    """A topic that `authenticated` may read, but not if its token has `may` = `presence`."""
    claim = "coalesce(current_setting('request.jwt.claims', true)::jsonb ->> 'may', 'broadcast')"
    await database.run(
        f"create policy {name}_read on realtime.messages for select to authenticated"
        f" using (realtime.topic() = '{name}' and extension = {claim})"
    )
    return name


@pytest.fixture
async def connect(stack: Stack) -> AsyncIterator[Callable[[], Any]]:
    """Opens more sessions of the database."""
    async with AsyncExitStack() as sessions:

        async def open_session() -> Database:
            connection = await psycopg.AsyncConnection.connect(
                stack.postgres.url_as("postgres"), autocommit=True
            )
            return Database(await sessions.enter_async_context(connection))

        yield open_session


async def send(database: Database, topic: str, number: int) -> None:
    await database.run("select realtime.send(%s, 'note', %s, true)", json.dumps({"n": number}), topic)


async def join(socket: RawSocket, stack: Stack, topic: str, replay: Any, **config: Any) -> Any:
    broadcast = {"replay": replay}
    return await socket.join(
        topic, **{"private": True, "token": stack.token(), "broadcast": broadcast} | config
    )


@VERSIONS
async def test_stored_messages_come_first_and_once(
    raw: Any, database: Database, stack: Stack, topic: str, version: str
) -> None:
    before = int(time.time() * 1000) - 1000
    for number in range(3):
        await send(database, topic, number)
    await database.run(
        "select realtime.send('{\"n\": 9}', 'note', %s, false)", topic
    )  # public: another channel
    socket = await raw(version=version)
    reply = await join(socket, stack, topic, {"since": before, "limit": 2})
    assert reply == {"status": "ok", "response": {"postgres_changes": []}}
    rows = await database.run(
        "select id::text, payload from realtime.messages where topic = %s and private order by payload ->> 'n'",
        topic,
    )
    for message_id, payload in rows[1:]:
        frame = await socket.receive()
        assert frame["event"] == "broadcast"
        assert (frame["ref"], frame.get("join_ref")) == (None, "1" if version == "2.0.0" else None)
        assert frame["payload"] == {
            "type": "broadcast",
            "event": "note",
            "payload": payload,
            "meta": {"replayed": True, "id": message_id},
        }
    await send(database, topic, 3)
    frame = await socket.receive()
    assert (frame["payload"]["payload"]["n"], frame["payload"]["meta"].keys()) == (3, {"id"})
    await socket.nothing_more()


async def test_since_and_limit(raw: Any, database: Database, stack: Stack, topic: str) -> None:
    witness = await raw()
    await join(witness, stack, topic, None)
    await database.run(
        """
        insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
        select %s, 'broadcast', 'note', jsonb_build_object('n', n), true,
               timestamp '2020-01-01' + n * interval '1 minute'
        from generate_series(1, 30) n
        """,
        topic,
    )
    for _ in range(30):
        await witness.receive()  # they have gone out, so that the others receive them from the table alone
    start_ms = 1_577_836_800_000
    for replay, expected in (
        ({}, range(6, 31)),
        ({"since": None, "limit": False}, range(6, 31)),
        ({"limit": 1000}, range(6, 31)),
        ({"limit": 0}, range(30, 31)),
        ({"limit": -5}, range(30, 31)),
        ({"since": start_ms + 29 * 60_000}, range(29, 31)),
        ({"since": start_ms + 29 * 60_000 + 1}, range(30, 31)),
        ({"since": -1, "limit": 2}, range(29, 31)),
        ({"since": start_ms + 31 * 60_000}, range(0)),
        (None, range(0)),
        ("text", range(0)),
    ):
        socket = await raw()
        assert (await join(socket, stack, topic, replay))["status"] == "ok", replay
        numbers = [(await socket.receive())["payload"]["payload"]["n"] for _ in expected]
        assert numbers == list(expected), replay
        await socket.nothing_more()


async def test_refusals(raw: Any, stack: Stack, topic: str) -> None:
    socket = await raw()
    for replay in ({"since": "1"}, {"limit": 1.5}, {"limit": True}, {"since": 10**18}, {"since": []}):
        reply = await join(socket, stack, topic, replay)
        assert reply == {"status": "error", "response": {"reason": NOT_VALID}}, replay
    for replay in ({}, None, {"since": "1"}):
        reply = await join(socket, stack, topic, replay, private=False)
        reason = "UnableToReplayMessages: Replay is not allowed for public channels"
        assert reply == {"status": "error", "response": {"reason": reason}}
    # Who may read presence alone joins, but not with a replay.
    config: dict[str, Any] = {"presence": {"enabled": True}, "token": stack.token(may="presence")}
    reply = await join(socket, stack, topic, {}, **config)
    reason = f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}"
    assert reply == {"status": "error", "response": {"reason": reason}}
    assert (await join(socket, stack, topic, {}, broadcast={}, **config))["status"] == "ok"


async def test_bytes_are_replayed_to_version_2(
    raw: Any, database: Database, stack: Stack, topic: str
) -> None:
    await database.run(r"select realtime.send_binary('\x0102', 'bytes', %s, true)", topic)
    await send(database, topic, 1)
    [[message_id]] = await database.run(
        "select id::text from realtime.messages where topic = %s and payload is null", topic
    )
    new, old = await raw(), await raw(version="1.0.0")
    for socket in (new, old):
        assert (await join(socket, stack, topic, {}))["status"] == "ok"
    data = (await new.socket.receive()).data
    meta = json.dumps({"replayed": True, "id": message_id}, separators=(",", ":")).encode()
    head = f"realtime:{topic}".encode()
    assert data == bytes([4, len(head), 5, len(meta), 0]) + head + b"bytes" + meta + b"\x01\x02"
    for socket in (new, old):
        assert (await socket.receive())["payload"]["payload"]["n"] == 1


async def waits_for_lock(stack: Stack, query: str) -> None:
    """Return when a session that runs such a query waits for a lock."""
    async with (
        await psycopg.AsyncConnection.connect(stack.postgres.url, autocommit=True) as connection,
        asyncio.timeout(PATIENCE_S),
    ):
        statement = (
            "select from pg_locks join pg_stat_activity using (pid) where not granted and query like %s"
        )
        while (await connection.execute(statement, [f"%{query}%"])).rowcount == 0:
            await asyncio.sleep(0.01)


async def test_what_is_sent_during_the_join_arrives_once_and_after_its_answer(
    raw: Any, database: Database, connect: Any, stack: Stack, name: str
) -> None:
    # The policy waits for a lock, so that two sessions can queue up for the table before the stored messages are
    # read: the first sends, and the second keeps the table locked until what was sent has gone out.
    key = int(name.removeprefix("t_"), 16)
    await database.run(
        f"""
        create function {name}_wait() returns boolean language plpgsql as $$
        begin
          perform pg_advisory_xact_lock_shared({key});
          return true;
        end $$;
        create policy {name}_read on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}' and topic = '{name}' and {name}_wait())
        """
    )
    socket, witness = await raw(), await raw()
    assert (await join(witness, stack, name, None))["status"] == "ok"
    await database.run("select pg_advisory_lock(%s)", key)
    config = {"private": True, "broadcast": {"replay": {"limit": 1}}}
    await socket.push(f"realtime:{name}", "phx_join", {"config": config, "access_token": stack.token()})
    await waits_for_lock(stack, "rollback")
    sender, holder = await connect(), await connect()
    lock = "begin; lock table realtime.messages in access exclusive mode /* {} */"
    queued: list[asyncio.Task[Any]] = []
    for session, label in ((sender, f"{name} 1"), (holder, f"{name} 2")):
        queued.append(asyncio.create_task(session.run(lock.format(label))))
        await waits_for_lock(stack, f"{label} */")
    await database.run("select pg_advisory_unlock(%s)", key)
    await queued[0]
    await waits_for_lock(stack, "order by inserted_at desc")
    for number in (1, 2):
        await send(sender, name, number)
    await sender.run("commit")
    for _ in range(2):
        await witness.receive_event("broadcast")
    await queued[1]
    await holder.run("commit")

    assert (await socket.receive())["event"] == "phx_reply"
    payloads = [(await socket.receive())["payload"] for _ in range(2)]
    assert [(item["payload"]["n"], "replayed" in item["meta"]) for item in payloads] == [
        (2, True),
        (1, False),
    ]
    await socket.nothing_more()


async def test_supabase_py_receives_what_it_missed(
    client: Any, database: Database, stack: Stack, topic: str
) -> None:
    await send(database, topic, 1)
    inbox, user = Inbox(), await client(token=stack.token())
    config = {"broadcast": {"replay": {"since": 0, "limit": 5}}, "presence": None, "private": True}
    channel = user.channel(topic, {"config": config})
    channel.on_broadcast("note", inbox)
    await channel.subscribe()
    [message] = await inbox.count(1)
    assert (message["payload"]["n"], message["meta"]["replayed"]) == (1, True)
    assert message["meta"]["id"] == message["payload"]["id"]
