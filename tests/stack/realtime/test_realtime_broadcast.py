"""Broadcast: from sockets, over HTTP, from the database; on public and private channels."""

import json
from typing import Any

import aiohttp
import psycopg
import pytest
from realtime import RealtimeSubscribeStates
from realtime_stack import Database, Inbox, Stack


def push_of(event: str, payload: Any) -> dict[str, Any]:
    return {"type": "broadcast", "event": event, "payload": payload}


async def test_reaches_others_and_the_sender_only_if_asked(client: Any, name: str) -> None:
    inboxes = [Inbox(), Inbox()]
    for own, inbox in zip((False, True), inboxes, strict=True):
        user = await client()
        channel = user.channel(name, {"config": {"broadcast": {"self": own, "ack": False}, "private": False}})
        channel.on_broadcast("note", inbox)
        await channel.subscribe()
        inbox.channel = channel  # type: ignore[attr-defined]
    await inboxes[0].channel.send_broadcast("note", {"n": 1})  # type: ignore[attr-defined]
    await inboxes[1].count(1)
    await inboxes[1].channel.send_broadcast("note", {"n": 2})  # type: ignore[attr-defined]
    assert [item["payload"] for item in await inboxes[1].count(2)] == [{"n": 1}, {"n": 2}]
    assert [item["payload"] for item in await inboxes[0].count(1)] == [{"n": 2}]


async def test_acknowledged_after_it_was_handed_out(raw: Any, name: str) -> None:
    sender, receiver = await raw(version="1.0.0"), await raw(version="2.0.0")
    await receiver.join(name)
    await sender.join(name, broadcast={"ack": True})
    payload = push_of("note", {"text": "ä", "list": [1, 2.5, None]})
    ref = await sender.push(f"realtime:{name}", "broadcast", payload)
    reply = await sender.receive()
    assert (reply["ref"], reply["payload"]) == (ref, {"status": "ok", "response": {}})
    frame = await receiver.receive()
    assert (frame["event"], frame["payload"], frame["ref"], frame["join_ref"]) == (
        "broadcast",
        payload,
        None,
        None,
    )


async def test_too_large_a_message_is_dropped_and_said_so(raw: Any, name: str) -> None:
    socket = await raw()
    await socket.join(name, broadcast={"ack": True, "self": True})
    await socket.push(f"realtime:{name}", "broadcast", push_of("note", {"text": "x" * 3_100_000}))
    assert (await socket.receive())["payload"] == {
        "status": "error",
        "response": {"error": "payload_size_exceeded"},
    }


def binary_push(topic: str, event: str, body: bytes, encoding: int) -> bytes:
    fields = [b"1", b"7", topic.encode(), event.encode(), b""]
    return bytes([3, *(len(part) for part in fields), encoding]) + b"".join(fields) + body


async def test_binary_frames_carry_json_to_all_and_raw_bytes_to_version_2(raw: Any, name: str) -> None:
    sender, old, new = await raw(), await raw(version="1.0.0"), await raw()
    for socket in (sender, old, new):
        await socket.join(name)
    await sender.socket.send_bytes(binary_push(f"realtime:{name}", "raw", b"\x00\xff", 0))
    await sender.socket.send_bytes(binary_push(f"realtime:{name}", "json", b'{"n": 1.50}', 1))
    message = await new.socket.receive()
    topic = f"realtime:{name}".encode()
    assert message.data == bytes([4, len(topic), 3, 0, 0]) + topic + b"raw" + b"\x00\xff"
    assert (await old.receive())["payload"] == push_of("json", {"n": 1.5})
    text = (await new.socket.receive()).data
    assert '"payload":{"n": 1.50}' in text  # digit for digit
    await old.nothing_more()


@pytest.mark.parametrize("key_header", ["apikey", "Authorization"])
async def test_batch_over_http(
    raw: Any, http: aiohttp.ClientSession, stack: Stack, name: str, key_header: str
) -> None:
    socket = await raw()
    await socket.join(name)
    key = stack.publishable_key
    headers = {key_header: f"Bearer {key}" if key_header == "Authorization" else key}
    messages = [
        {"topic": name, "event": "a", "payload": {"n": 1}},
        {"topic": "x", "event": "b", "payload": {}},
    ]
    url = f"{stack.url}/realtime/v1/api/broadcast"
    async with http.post(url, json={"messages": messages}, headers=headers) as response:
        assert (response.status, await response.text()) == (202, "")
    assert (await socket.receive())["payload"] == push_of("a", {"n": 1})
    for body in ({}, {"messages": [{"topic": name, "event": "a"}]}, {"messages": [{"payload": []}]}, []):
        async with http.post(url, json=body, headers=headers) as response:
            assert response.status == 422
            assert "errors" in await response.json()
    async with http.post(url, json={"messages": messages}) as response:
        assert (response.status, await response.json()) == (401, {"message": "Unauthorized"})


async def test_one_message_over_http(
    client: Any, raw: Any, http: aiohttp.ClientSession, stack: Stack, name: str
) -> None:
    topic, event = f"{name}/ä b", "created/now"
    socket = await raw()
    await socket.join(topic)
    user = await client()
    await user.channel(topic).http_send(event, {"n": 1})
    assert (await socket.receive())["payload"] == push_of(event, {"n": 1})
    await user.channel(topic).http_send(event, b"\x01\x02")
    assert (await socket.socket.receive()).data.endswith(event.encode() + b"\x01\x02")
    url = f"{stack.url}/realtime/v1/api/broadcast/{name}/events/x"
    headers = {"apikey": stack.publishable_key, "Content-Type": "text/plain"}
    async with http.post(url, data=b"x", headers=headers) as response:
        assert response.status == 415
    async with http.post(
        f"{url}?private=true", json={}, headers={"apikey": stack.publishable_key}
    ) as response:
        assert (response.status, await response.json()) == (403, {"message": "Unauthorized"})


async def test_send_from_the_database(raw: Any, client: Any, database: Database, name: str) -> None:
    socket, inbox, user = await raw(), Inbox(), await client()
    await socket.join(name)
    channel = user.channel(name)
    channel.on_broadcast("*", inbox)
    await channel.subscribe()
    await database.run("select realtime.send('{\"n\": 12345678901234567890.10}', 'note', %s, false)", name)
    payload = json.loads(text := (await socket.socket.receive()).data)[4]
    assert "12345678901234567890.10" in text
    assert payload["payload"]["id"] == payload["meta"]["id"]
    assert (await inbox.count(1))[0]["meta"] == payload["meta"]
    await database.run(r"select realtime.send_binary('\x0102', 'bytes', %s, false)", name)
    assert (await socket.socket.receive()).data.endswith(b"\x01\x02")
    await database.run("select realtime.send('{\"id\": 1}', 'note', %s, false)", name)
    assert (await socket.receive())["payload"]["payload"] == {"id": 1}


@pytest.mark.parametrize("payload", ["[1]", '["id"]', '"text"', "5", "null"])
async def test_what_is_no_object_is_not_sent_and_undoes_nothing(
    stack: Stack, name: str, payload: str
) -> None:
    warnings: list[str | None] = []
    async with await psycopg.AsyncConnection.connect(stack.postgres.url_as("postgres")) as connection:
        connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
        await connection.execute("select realtime.send(%s, 'note', %s, false)", [payload, name])
        sent = await connection.execute("select from realtime.messages where topic = %s", [name])
        assert sent.rowcount == 0
    assert [text for text in warnings if text and "WarnSendingBroadcastMessage" in text]


async def test_trigger_broadcasts_changes_to_a_private_channel(
    raw: Any, database: Database, stack: Stack, name: str
) -> None:
    await database.run(f"create table {name} (id int primary key, title text)")
    await database.run(
        f"""
        create function {name}_tell() returns trigger security definer language plpgsql as $$
        begin
          perform realtime.broadcast_changes(
            '{name}', tg_op, tg_op, tg_table_name, tg_table_schema, new, old
          );
          return null;
        end $$;
        create trigger tell after insert or update or delete on {name}
          for each row execute function {name}_tell();
        create policy {name}_read on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}' and extension = 'broadcast');
        """
    )
    socket = await raw()
    assert (await socket.join(name, token=stack.token(), private=True))["status"] == "ok"
    await database.run(f"insert into {name} values (1, 'a')")
    await database.run(f"update {name} set title = 'b'")
    await database.run(f"delete from {name}")
    frames = [(await socket.receive())["payload"] for _ in range(3)]
    rows = [(frame["event"], frame["payload"]["record"], frame["payload"]["old_record"]) for frame in frames]
    assert rows == [
        ("INSERT", {"id": 1, "title": "a"}, None),
        ("UPDATE", {"id": 1, "title": "b"}, {"id": 1, "title": "a"}),
        ("DELETE", None, {"id": 1, "title": "b"}),
    ]
    assert frames[0]["payload"]["table"] == name


async def test_private_channels_follow_the_policies(
    client: Any, raw: Any, database: Database, stack: Stack, name: str
) -> None:
    await database.run(
        f"""
        create policy {name}_read on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}' and auth.uid() is not null);
        create policy {name}_write on realtime.messages for insert to authenticated
          with check (realtime.topic() = '{name}' and auth.jwt_name() = 'writer');
        """.replace("auth.jwt_name()", "current_setting('request.jwt.claims', true)::jsonb ->> 'name'")
    )
    subject = "00000000-0000-4000-8000-000000000001"
    reader, writer = stack.token(sub=subject), stack.token(sub=subject, name="writer")
    refused = await raw()
    reply = await refused.join(name, private=True)
    reason = f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
    assert reply == {"status": "error", "response": {"reason": reason}}
    reply = await refused.join(name, private=True, token=stack.token())
    assert reply["status"] == "error"

    listening, public = await raw(), await raw()
    assert (await listening.join(name, private=True, token=reader))["status"] == "ok"
    assert (await public.join(name))["status"] == "ok"

    states, user = Inbox(), await client(token=writer)
    channel = user.channel(name, {"config": {"broadcast": None, "presence": None, "private": True}})
    await channel.subscribe(states)
    assert states.items[0][0] == RealtimeSubscribeStates.SUBSCRIBED
    await channel.send_broadcast("note", {"n": 1})
    assert (await listening.receive())["payload"] == push_of("note", {"n": 1})

    # Reading does not mean writing …
    silent = await raw()
    await silent.join(name, private=True, token=reader, broadcast={"ack": True})
    await silent.push(f"realtime:{name}", "broadcast", push_of("note", {"n": 2}))
    assert (await silent.receive())["payload"]["status"] == "error"
    # … until a token brings it.
    await silent.push(f"realtime:{name}", "access_token", {"access_token": writer})
    await silent.push(f"realtime:{name}", "broadcast", push_of("note", {"n": 3}))
    assert (await silent.receive())["payload"]["status"] == "ok"
    assert (await listening.receive())["payload"] == push_of("note", {"n": 3})

    # A token without the read right ends the channel.
    await listening.push(f"realtime:{name}", "access_token", {"access_token": stack.token()})
    system, close = await listening.receive(), await listening.receive()
    assert system["payload"]["message"] == (
        f"You do not have permissions to read from this Channel topic: {name}"
    )
    assert close["event"] == "phx_close"
    await public.nothing_more()


async def test_policy_that_fails_refuses_without_harm_to_others(
    raw: Any, database: Database, stack: Stack, name: str
) -> None:
    await database.run(
        f"""
        create policy {name}_broken on realtime.messages for select to authenticated
          using (case when realtime.topic() = '{name}' then 1 / (length(topic) * 0) = 1 else false end)
        """
    )
    try:
        socket = await raw()
        reply = await socket.join(name, private=True, token=stack.token())
        reason = f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
        assert reply["response"] == {"reason": reason}
        assert (await socket.join(name))["status"] == "ok"
    finally:
        await database.run(f"drop policy {name}_broken on realtime.messages")


async def test_policies_are_not_asked_about_messages_that_nobody_would_hear(
    raw: Any, http: aiohttp.ClientSession, database: Database, stack: Stack, name: str
) -> None:
    await database.run(
        f"""
        create sequence {name}_asked;
        grant usage on sequence {name}_asked to authenticated;
        create policy {name}_read on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}');
        create policy {name}_write on realtime.messages for insert to authenticated
          with check (realtime.topic() = '{name}' and nextval('{name}_asked') > 0);
        """
    )
    url, token = f"{stack.url}/realtime/v1/api/broadcast", stack.token()

    async def asked_after_sending() -> bool:
        message = {"topic": name, "event": "note", "payload": {"n": 1}, "private": True}
        headers = {"apikey": stack.publishable_key, "Authorization": f"Bearer {token}"}
        async with http.post(url, json={"messages": [message]}, headers=headers) as response:
            assert (response.status, await response.text()) == (202, "")
        [[asked]] = await database.run(f"select is_called from {name}_asked")
        return asked

    try:
        assert not await asked_after_sending()
        socket = await raw()
        assert (await socket.join(name, private=True, token=token))["status"] == "ok"
        assert await asked_after_sending()
        assert (await socket.receive())["payload"] == push_of("note", {"n": 1})
    finally:
        await database.run(
            f"drop policy {name}_read on realtime.messages; drop policy {name}_write on realtime.messages;"
            f"drop sequence {name}_asked"
        )
