"""Handshake, joins, leaves and tokens, frame by frame."""

from typing import Any

import aiohttp
import pytest
from realtime_stack import Stack

from runhold.local.realtime import RealtimeServer

VERSIONS = pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])


async def refusal(http: aiohttp.ClientSession, stack: Stack, **query: str) -> tuple[int, str]:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await http.ws_connect(f"{stack.url}/realtime/v1/websocket", params=query)
    async with http.get(f"{stack.url}/realtime/v1/websocket", params=query) as response:
        body = await response.json()
    assert response.status == caught.value.status
    return response.status, body["error"]


async def test_handshake_refuses_bad_keys_and_versions(http: aiohttp.ClientSession, stack: Stack) -> None:
    assert await refusal(http, stack) == (401, "API key is missing")
    assert await refusal(http, stack, apikey="sb_publishable_other") == (
        401,
        "The token provided is not a valid JWT",
    )
    forged = stack.token(secret="x" * 40)
    assert await refusal(http, stack, apikey=forged) == (401, "Failed to validate JWT signature")
    assert await refusal(http, stack, apikey=stack.token(seconds=-5)) == (401, "Token has expired")
    missing = "Fields `role` and `exp` are required in JWT"
    assert await refusal(http, stack, apikey=stack.token(role=None)) == (401, missing)
    assert await refusal(http, stack, apikey=stack.token(exp=None)) == (401, missing)
    status, _ = await refusal(http, stack, vsn="3.0.0", apikey=stack.publishable_key)
    assert status == 403


@VERSIONS
async def test_every_kind_of_key_joins(raw: Any, stack: Stack, version: str, name: str) -> None:
    for key in (stack.publishable_key, stack.secret_key, stack.token(role="anon")):
        socket = await raw(key=key, version=version)
        reply = await socket.join(name)
        assert reply == {"status": "ok", "response": {"postgres_changes": []}}


@VERSIONS
async def test_heartbeat_without_reference_is_answered(raw: Any, version: str) -> None:
    socket = await raw(version=version)
    await socket.push("phoenix", "heartbeat", {}, ref=None)
    frame = await socket.receive()
    assert (frame["event"], frame["ref"]) == ("phx_reply", None)
    assert frame["payload"] == {"status": "ok", "response": {}}


@VERSIONS
async def test_join_configuration_may_be_null_or_of_wrong_types(raw: Any, version: str, name: str) -> None:
    socket = await raw(version=version)
    for config in (
        None,
        {"broadcast": None, "presence": None, "private": None, "postgres_changes": None},
        {"broadcast": 7, "presence": "x", "postgres_changes": [None, 3], "unknown": {}},
    ):
        await socket.push(f"realtime:{name}", "phx_join", {"config": config, "access_token": None})
        frame = await socket.receive_event("phx_reply")
        assert frame["payload"] == {"status": "ok", "response": {"postgres_changes": []}}


async def test_topics_that_cannot_be_joined(raw: Any) -> None:
    socket = await raw()
    for topic, reason in (
        ("other:x", "unmatched topic"),
        ("realtime:", "TopicNameRequired: You must provide a topic name"),
    ):
        ref = await socket.push(topic, "phx_join", {})
        frame = await socket.receive()
        assert frame["ref"] == ref
        assert frame["payload"] == {"status": "error", "response": {"reason": reason}}


@VERSIONS
async def test_leave_is_answered_and_directly_followed_by_close(raw: Any, version: str, name: str) -> None:
    socket = await raw(version=version)
    await socket.join(name)
    ref = await socket.push(f"realtime:{name}", "phx_leave", {})
    reply, close = await socket.receive(), await socket.receive()
    assert (reply["event"], reply["ref"], reply["payload"]["status"]) == ("phx_reply", ref, "ok")
    assert (close["event"], close["ref"], close["payload"]) == ("phx_close", "1", {})
    await socket.push(f"realtime:{name}", "phx_leave", {})
    assert (await socket.receive())["payload"] == {"status": "ok", "response": {}}
    await socket.push(f"realtime:{name}", "broadcast", {"event": "x"})
    assert (await socket.receive())["payload"]["response"] == {"reason": "unmatched topic"}
    await socket.nothing_more()


async def test_joining_again_closes_the_former_channel(raw: Any, name: str) -> None:
    socket = await raw()
    await socket.join(name)
    await socket.push(f"realtime:{name}", "phx_join", {}, ref="9", join_ref="9")
    close, reply = await socket.receive(), await socket.receive()
    assert (close["event"], close["ref"], close["join_ref"]) == ("phx_close", "1", "1")
    assert (reply["event"], reply["ref"], reply["payload"]["status"]) == ("phx_reply", "9", "ok")


@VERSIONS
async def test_malformed_frames_leave_the_socket_open(raw: Any, version: str) -> None:
    socket = await raw(version=version)
    for text in ("{", "[]", '"x"', "{}", '{"topic":1,"event":"x","payload":{},"ref":null}', "[1,2,3,4,5]"):
        await socket.socket.send_str(text)
    for data in (b"", b"\x00", b"\x03\xff\xff\xff\xff\xff\x01", b"\x03\x00\x00\x00\x00\x00\x01{"):
        await socket.socket.send_bytes(data)
    await socket.nothing_more()


async def test_joins_with_bad_tokens_say_why(raw: Any, stack: Stack, name: str) -> None:
    socket = await raw()
    for token, reason in (
        ("not a token", "MalformedJWT: The token provided is not a valid JWT"),
        (stack.token(secret="x" * 40), "JwtSignatureError: Failed to validate JWT signature"),
        (stack.token(role=None), "InvalidJWTToken: Fields `role` and `exp` are required in JWT"),
    ):
        reply = await socket.join(name, token=token)
        assert reply == {"status": "error", "response": {"reason": reason}}
    reply = await socket.join(name, token=stack.token(seconds=-100))
    assert reply["response"]["reason"].startswith("InvalidJWTToken: Token has expired 10")
    assert reply["response"]["reason"].endswith(" seconds ago")


async def test_opaque_key_as_token_means_the_key_of_the_socket(raw: Any, stack: Stack, name: str) -> None:
    socket = await raw(key=stack.token())
    assert (await socket.join(name, token="sb_publishable_whatever"))["status"] == "ok"


@VERSIONS
async def test_channel_ends_when_its_token_expires(raw: Any, stack: Stack, version: str, name: str) -> None:
    socket = await raw(version=version)
    await socket.join(f"{name}_stays")
    await socket.join(name, token=stack.token(seconds=2))
    system, close = await socket.receive(), await socket.receive()
    assert system["event"] == "system"
    assert system["payload"]["status"] == "error"
    assert system["payload"]["extension"] == "system"
    assert system["payload"]["channel"] == name
    assert system["payload"]["message"].startswith("Token has expired ")
    assert (close["event"], close["ref"]) == ("phx_close", "1")
    await socket.push(f"realtime:{name}_stays", "phx_leave", {})
    assert (await socket.receive())["payload"]["status"] == "ok"


async def test_a_new_token_postpones_expiry_and_a_bad_one_ends_the_channel(
    raw: Any, stack: Stack, name: str
) -> None:
    socket = await raw()
    first = stack.token(seconds=2)
    await socket.join(name, token=first)
    for token in (None, "sb_publishable_x", first, stack.token()):
        await socket.push(f"realtime:{name}", "access_token", {"access_token": token})
    await socket.join(f"{name}_short", token=stack.token(seconds=3))
    assert (await socket.receive())["topic"] == f"realtime:{name}_short"  # the other one is still there
    assert (await socket.receive())["event"] == "phx_close"
    await socket.push(f"realtime:{name}", "access_token", {"access_token": "rubbish"})
    system, close = await socket.receive(), await socket.receive()
    assert system["payload"]["message"] == "The token provided is not a valid JWT"
    assert (close["event"], close["topic"]) == ("phx_close", f"realtime:{name}")


async def test_health_tells_whether_the_feed_streams(http: aiohttp.ClientSession, stack: Stack) -> None:
    async with http.get(f"{stack.url}/health") as response:
        assert await response.json() == {"status": "ok", "feed_streaming": True}


async def test_stopping_closes_sockets_as_going_away(raw: Any, stack: Stack) -> None:
    async with RealtimeServer(stack.config()) as server:
        socket = await raw(url=server.url)
        await socket.nothing_more()
    message = await socket.socket.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
