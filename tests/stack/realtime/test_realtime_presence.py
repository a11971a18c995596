"""Presence: state, joins and leaves, keys, and the rights on private channels."""

from typing import Any

import pytest
from realtime_stack import Database, Inbox, RawSocket, Stack

VERSIONS = pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])


async def track(socket: RawSocket, topic: str, data: Any, event: str = "track") -> str | None:
    push = {"type": "presence", "event": event, "payload": data}
    return await socket.push(f"realtime:{topic}", "presence", push)


def only_meta(side: Any, key: str) -> dict[str, Any]:
    """The one meta under the one key of a diff's side."""
    assert set(side) == {key}
    [meta] = side[key]["metas"]
    return meta


async def answer(socket: RawSocket) -> dict[str, Any]:
    """The payload of the next reply."""
    return (await socket.receive_event("phx_reply"))["payload"]


OK = {"status": "ok", "response": {}}
REFUSED = {"status": "error", "response": {}}


@VERSIONS
async def test_a_tracked_client_is_seen_by_all_until_it_leaves(raw: Any, version: str, name: str) -> None:
    first, second = await raw(version=version), await raw()
    await first.join(name, presence={"enabled": True, "key": "ann"})
    state = await first.receive()
    assert (state["event"], state["payload"], state["ref"]) == ("presence_state", {}, None)

    ref = await track(first, name, {"mood": "good"})
    diff, reply = await first.receive(), await first.receive()
    assert (diff["event"], diff["ref"], diff["payload"]["leaves"]) == ("presence_diff", None, {})
    meta = only_meta(diff["payload"]["joins"], "ann")
    assert meta == {"mood": "good", "phx_ref": meta["phx_ref"]}
    assert (reply["ref"], reply["payload"]) == (ref, OK)

    await second.join(name, presence={"enabled": True, "key": "bob"})
    state = await second.receive()
    assert (state["event"], state["payload"]) == ("presence_state", {"ann": {"metas": [meta]}})
    assert (state["ref"], state["join_ref"]) == (None, "1")

    # Other data replace the former, and refer to them.
    await track(first, name, {"mood": "better"})
    payload = (await second.receive())["payload"]
    newer = only_meta(payload["joins"], "ann")
    assert newer == {"mood": "better", "phx_ref": newer["phx_ref"], "phx_ref_prev": meta["phx_ref"]}
    assert only_meta(payload["leaves"], "ann") == meta
    assert newer["phx_ref"] != meta["phx_ref"]
    # Equal data change nothing.
    await first.receive_event("phx_reply")
    await track(first, name, {"mood": "better"})
    assert (await first.receive())["payload"] == OK
    await second.nothing_more()

    await track(first, name, {}, event="UNTRACK")
    payload = (await second.receive())["payload"]
    assert (payload["joins"], only_meta(payload["leaves"], "ann")) == ({}, newer)
    assert await answer(first) == OK
    await track(first, name, {}, event="untrack")
    assert (await first.receive())["payload"] == OK

    await track(first, name, {"n": 1})
    await second.receive()
    await answer(first)
    await first.push(f"realtime:{name}", "phx_leave", {})
    # The client that left gets one message about it, and no other.
    assert [(await first.receive())["event"] for _ in range(2)] == ["phx_reply", "phx_close"]
    assert only_meta((await second.receive())["payload"]["leaves"], "ann")["n"] == 1


async def test_several_sockets_of_one_key_are_several_metas(raw: Any, name: str) -> None:
    watcher, *others = [await raw() for _ in range(3)]
    for number, socket in enumerate(others):
        await socket.join(name, presence={"key": "ann", "enabled": True})
        await track(socket, name, {"n": number})
        assert await answer(socket) == OK
    await watcher.join(name, presence={"key": "", "enabled": True})
    state = (await watcher.receive())["payload"]
    assert [meta["n"] for meta in state["ann"]["metas"]] == [0, 1]
    # A lost connection counts as a leave of its own meta alone.
    await others[0].socket.close()
    assert only_meta((await watcher.receive())["payload"]["leaves"], "ann")["n"] == 0
    # So does joining again.
    await others[1].push(f"realtime:{name}", "phx_join", {})
    assert only_meta((await watcher.receive())["payload"]["leaves"], "ann")["n"] == 1


async def test_keys_are_made_up_unless_given(raw: Any, name: str) -> None:
    watcher = await raw()
    await watcher.join(name)
    keys: list[str] = []
    sockets = [await raw() for _ in range(5)]
    for socket, key in zip(sockets, ("", None, [], 7, True), strict=True):
        await socket.join(name, presence={"key": key, "enabled": True})
        await track(socket, name, {})
        [made] = (await watcher.receive())["payload"]["joins"]
        keys.append(made)
    assert len(set(keys)) == 5
    assert all(len(key) == 36 for key in keys[:3])
    assert keys[3:] == ["7", "true"]


async def test_a_channel_that_did_not_ask_for_presence_takes_part_once_it_tracks(raw: Any, name: str) -> None:
    first, second = await raw(), await raw()
    await first.join(name, presence={"enabled": True, "key": "ann"})
    await track(first, name, {})
    await answer(first)
    await second.join(name, presence={"key": "bob", "enabled": False})
    await second.nothing_more()  # no state …
    await track(first, name, {"n": 1})
    assert (await second.receive())["event"] == "presence_diff"  # … but changes, on a public channel
    await track(second, name, {})
    frames = [await second.receive() for _ in range(3)]
    assert [frame["event"] for frame in frames] == ["presence_diff", "phx_reply", "presence_state"]
    assert set(frames[2]["payload"]) == {"ann", "bob"}
    await track(second, name, {"n": 2})
    assert [(await second.receive())["event"] for _ in range(2)] == ["presence_diff", "phx_reply"]
    await second.nothing_more()


async def test_wrong_pushes_are_answered(raw: Any, name: str) -> None:
    socket = await raw()
    await socket.join(name, presence={"enabled": True})
    await socket.receive()
    for data in (None, [], "text", 1):
        await track(socket, name, data)
        assert await answer(socket) == {
            "status": "error",
            "response": {"reason": "Presence track payload must be a map"},
        }
    for event in ("other", 5):
        await track(socket, name, {}, event=event)  # type: ignore[arg-type]
        assert await answer(socket) == REFUSED
    await socket.push(f"realtime:{name}", "presence", {"type": "presence"})
    assert await answer(socket) == OK
    # A payload may be missing: there is no data.
    await socket.push(f"realtime:{name}", "presence", {"type": "presence", "event": "track"})
    assert set((await socket.receive())["payload"]) == {"joins", "leaves"}
    assert await answer(socket) == OK
    # 1 and true are different data.
    for value in (1, True, 1.5):
        await track(socket, name, {"n": value})
        assert (await socket.receive())["event"] == "presence_diff"
        assert await answer(socket) == OK
    await track(socket, name, {"text": "x" * 3_100_000})
    system, close = await socket.receive(), await socket.receive()
    assert system["payload"]["message"] == "Track message size exceeded"
    assert close["event"] == "phx_close"


async def test_policies_decide_who_reads_and_writes_presence(
    raw: Any, database: Database, stack: Stack, name: str
) -> None:
    # Everybody reads broadcasts; who reads or writes presence is named by the token.
    claim = "current_setting('request.jwt.claims', true)::jsonb ->> 'may'"
    await database.run(
        f"""
        create policy {name}_broadcast on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}' and extension = 'broadcast');
        create policy {name}_read on realtime.messages for select to authenticated
          using (realtime.topic() = '{name}' and extension = 'presence' and {claim} in ('read', 'both'));
        create policy {name}_write on realtime.messages for insert to authenticated
          with check (realtime.topic() = '{name}' and extension = 'presence' and {claim} in ('write', 'both'));
        """
    )
    sockets: dict[str, RawSocket] = {}
    for may, state in (("read", True), ("write", False), ("both", True), ("none", False)):
        socket = sockets[may] = await raw()
        presence = {"enabled": True, "key": may}
        reply = await socket.join(name, private=True, token=stack.token(may=may), presence=presence)
        assert reply["status"] == "ok"
        if state:
            assert (await socket.receive())["event"] == "presence_state"
        await socket.nothing_more()
    for may, expected in (("read", REFUSED), ("none", REFUSED), ("write", OK), ("both", OK)):
        await track(sockets[may], name, {"may": may})
        assert await answer(sockets[may]) == expected
    seen = [(await sockets["read"].receive())["payload"]["joins"] for _ in range(2)]
    assert [set(joins) for joins in seen] == [{"write"}, {"both"}]
    for may in ("write", "none"):
        await sockets[may].nothing_more()

    # The right to write presence is not the right to write broadcasts.
    await sockets["both"].push(
        f"realtime:{name}", "broadcast", {"type": "broadcast", "event": "x", "payload": {}}
    )
    await sockets["read"].nothing_more()

    # Where presence was not asked for, its policies are not asked before the client tracks.
    for may, sees in (("both", True), ("write", False)):
        late = await raw()
        await late.join(name, private=True, token=stack.token(may=may), presence={"key": f"late {may}"})
        await track(sockets["both"], name, {"for": may})
        await answer(sockets["both"])
        await late.nothing_more()
        await track(late, name, {})
        if sees:
            assert [(await late.receive())["event"] for _ in range(3)] == [
                "presence_diff",
                "phx_reply",
                "presence_state",
            ]
        else:
            assert (await late.receive())["payload"] == OK
        await late.nothing_more()

    # A public channel of the same name has a presence of its own.
    public = await raw()
    await public.join(name, presence={"enabled": True})
    assert (await public.receive())["payload"] == {}

    # A new token may bring the right to write, and ends the channel if a right to read is lost.
    socket = sockets["read"]
    await socket.push(f"realtime:{name}", "access_token", {"access_token": stack.token(may="both")})
    await track(socket, name, {})
    assert await answer(socket) == OK
    await socket.push(f"realtime:{name}", "access_token", {"access_token": stack.token(may="write")})
    system = await socket.receive_event("system")
    assert system["payload"]["message"] == (
        f"You no longer have permission to read from this Channel topic: {name}"
    )
    assert (await socket.receive_event("phx_close"))["ref"] == "1"


async def test_supabase_py_sees_who_comes_and_goes(client: Any, name: str) -> None:
    logs: dict[str, Inbox] = {}
    channels: dict[str, Any] = {}
    for who in ("ann", "bob"):
        log, user = Inbox(), await client()
        config = {"config": {"broadcast": None, "presence": {"key": who, "enabled": True}, "private": False}}
        channel = user.channel(name, config)
        channel.on_presence_sync(lambda log=log: log("sync"))
        channel.on_presence_join(lambda key, _current, new, log=log: log("join", key, new[0].get("n")))
        channel.on_presence_leave(lambda key, current, left, log=log: log("leave", key, left[0].get("n")))
        await channel.subscribe()
        await log.count(1)
        logs[who], channels[who] = log, channel
    await channels["ann"].track({"n": 1})
    await logs["bob"].until(lambda items: ("join", "ann", 1) in items)
    await channels["bob"].track({"n": 2})
    await logs["ann"].until(lambda items: ("join", "bob", 2) in items)
    await channels["ann"].track({"n": 3})
    await logs["bob"].until(lambda items: ("join", "ann", 3) in items and ("leave", "ann", 1) in items)
    state = channels["bob"].presence_state()
    assert {key: [meta["n"] for meta in metas] for key, metas in state.items()} == {"ann": [3], "bob": [2]}
    await channels["ann"].untrack()
    await logs["bob"].until(lambda items: ("leave", "ann", 3) in items)
    await channels["bob"].unsubscribe()
    await logs["ann"].until(lambda items: ("leave", "bob", 2) in items)
    assert channels["ann"].presence_state() == {}
