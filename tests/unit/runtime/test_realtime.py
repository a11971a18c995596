"""The adapter over realtime-py, against a small Phoenix server on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from runhold.errors import ConfigError
from runhold.runtime import realtime
from runhold.runtime.realtime import Connection, NotJoined, connect, require_version
from runhold.store.client import Access
from runhold.testing.chaos.patience import eventually

KEY = "sb_secret_0123456789"


class Phoenix:
    """Takes joins as it is told to, and sends what it is told to."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.joins: list[dict[str, Any]] = []
        self.refuses = ""
        self.silent = False
        self.port = 0

    async def serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        async for text in socket:
            message = json.loads(text)
            if message["event"] == "phx_join":
                self.joins.append(message)
                if self.silent:
                    continue
            bad = bool(self.refuses) and self.refuses in message["topic"]
            answer = (
                {"status": "error", "response": {"reason": "Unauthorized"}}
                if bad
                else {"status": "ok", "response": {}}
            )
            await self.send(message["topic"], "phx_reply", answer, message["ref"], socket)
            if message["event"] == "phx_leave":
                await self.send(message["topic"], "phx_close", {}, None, socket)

    async def send(
        self,
        topic: str,
        event: str,
        payload: Any,
        ref: str | None = None,
        socket: ServerConnection | None = None,
    ) -> None:
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        await (socket or self.sockets[-1]).send(json.dumps(frame))

    async def broadcast(self, topic: str, event: str) -> None:
        await self.send(
            f"realtime:{topic}", "broadcast", {"type": "broadcast", "event": event, "payload": {}}
        )


@pytest.fixture
async def phoenix() -> AsyncIterator[Phoenix]:
    made = Phoenix()
    server: Server = await serve(made.serve, "127.0.0.1", 0)
    made.port = next(iter(server.sockets)).getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


class Ear:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ready = 0

    def on_ready(self) -> None:
        self.ready += 1

    @property
    def topics(self) -> dict[str, Any]:
        return {
            "runhold:workers": {"wake": lambda: self.heard.append("wake")},
            "runhold:worker:1": {"probe": lambda: self.heard.append("probe")},
        }


async def _connect(phoenix: Phoenix, ear: Ear) -> Connection:
    return await connect(f"http://127.0.0.1:{phoenix.port}", Access(KEY), ear.topics, ear.on_ready)


async def test_private_topics_are_joined_and_their_events_heard(phoenix: Phoenix) -> None:
    ear = Ear()
    connection = await _connect(phoenix, ear)
    assert [join["topic"] for join in phoenix.joins] == [
        "realtime:runhold:workers",
        "realtime:runhold:worker:1",
    ]
    assert all(join["payload"]["config"]["private"] for join in phoenix.joins)
    assert len(phoenix.sockets) == 1
    await phoenix.broadcast("runhold:workers", "wake")
    await phoenix.broadcast("runhold:worker:1", "probe")
    await phoenix.broadcast("runhold:workers", "something else")
    await eventually(lambda: len(ear.heard) == 2)
    assert ear.heard == ["wake", "probe"]
    assert ear.ready == 0
    said = {
        "status": "ok",
        "message": "Replication connection established",
        "extension": "system",
        "channel": "x",
    }
    await phoenix.send("realtime:runhold:workers", "system", said)
    await eventually(lambda: ear.ready == 1)
    assert not connection.trouble.is_set()
    await connection.aclose()
    await eventually(lambda: phoenix.sockets[0].state.name == "CLOSED")


async def test_a_token_says_who_joins_and_the_publishable_key_where(phoenix: Phoenix) -> None:
    ear = Ear()
    access = Access("sb_publishable_x", "header.of.worker")
    connection = await connect(f"http://127.0.0.1:{phoenix.port}", access, ear.topics, ear.on_ready)
    assert [join["payload"]["access_token"] for join in phoenix.joins] == ["header.of.worker"] * 2
    request = phoenix.sockets[0].request
    assert request is not None
    assert "apikey=sb_publishable_x" in request.path
    assert "header.of.worker" not in request.path
    await connection.aclose()


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_a_socket_that_the_server_closes_is_trouble(phoenix: Phoenix, code: int) -> None:
    connection = await _connect(phoenix, Ear())
    await phoenix.sockets[0].close(code)
    await asyncio.wait_for(connection.trouble.wait(), 5)
    assert connection.why
    await connection.aclose()


async def test_a_callback_that_raises_does_not_end_the_listening(
    phoenix: Phoenix, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def broken() -> None:
        calls.append("wake")
        raise RuntimeError("a bug")

    url = f"http://127.0.0.1:{phoenix.port}"
    connection = await connect(url, Access(KEY), {"runhold:workers": {"wake": broken}}, broken)
    for _ in range(3):
        await phoenix.broadcast("runhold:workers", "wake")
    await eventually(lambda: len(calls) == 3)
    assert not connection.trouble.is_set()
    assert "a bug" in caplog.text
    await connection.aclose()


async def test_a_listener_of_the_library_that_dies_is_trouble(phoenix: Phoenix) -> None:
    ear = Ear()
    connection: Any = await _connect(phoenix, ear)
    connection._client._listen_task.cancel()
    await asyncio.wait_for(connection.trouble.wait(), 5)
    await connection.aclose()


async def test_nothing_stays_of_a_connection_whose_server_froze(
    phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "CLOSE_TIMEOUT_S", 0.1)
    server_s = asyncio.all_tasks()
    connection: Any = await _connect(phoenix, Ear())
    socket = connection._client._ws_connection
    phoenix.sockets[0].transport.pause_reading()
    library_s = {
        task for task in asyncio.all_tasks() - server_s if "realtime/_async" in repr(task.get_stack())
    }
    assert len(library_s) >= 2  # it listens, and it beats
    await connection.aclose()
    await eventually(lambda: socket.state.name == "CLOSED")
    await asyncio.wait_for(asyncio.wait(library_s), 5)
    phoenix.sockets[0].transport.abort()


async def test_the_key_is_in_no_log_however_much_is_logged(
    phoenix: Phoenix, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "websockets.server")
    caplog.set_level(logging.DEBUG)
    connection = await _connect(phoenix, Ear())
    await phoenix.sockets[0].close(1011)
    await asyncio.wait_for(connection.trouble.wait(), 5)
    await connection.aclose()
    phoenix.refuses = "runhold:workers"
    with pytest.raises(NotJoined):
        await _connect(phoenix, Ear())
    assert phoenix.joins[0]["payload"]["access_token"] == KEY
    assert "Attempting to connect" in caplog.text  # the library says what it does
    assert KEY[4:] not in caplog.text
    assert "> TEXT" not in caplog.text  # which cuts the key, but shows a part of it


def test_other_sockets_may_log() -> None:
    record = logging.LogRecord("websockets.client", logging.DEBUG, "", 0, "hello", (), None)
    assert realtime._hide_handshakes(record)


@pytest.mark.parametrize("found", ["2.30.0", "2.33.9", "1.0"])
def test_a_library_that_goes_deaf_is_refused(found: str) -> None:
    with pytest.raises(ConfigError, match=r"realtime>=2\.34"):
        require_version(found)


@pytest.mark.parametrize("found", ["2.34.0", "2.34.1rc1", "2.40", "3.0.0"])
def test_later_ones_are_taken(found: str) -> None:
    require_version(found)


def test_the_installed_one_is_taken() -> None:
    require_version()


async def test_a_channel_that_the_server_closes_is_trouble(phoenix: Phoenix) -> None:
    connection = await _connect(phoenix, Ear())
    said = {"status": "error", "message": "Token has expired", "extension": "system", "channel": "x"}
    await phoenix.send("realtime:runhold:workers", "system", said)
    await phoenix.send("realtime:runhold:workers", "phx_close", {})
    await asyncio.wait_for(connection.trouble.wait(), 5)
    await connection.aclose()


async def test_a_refused_join_is_an_error_and_the_socket_is_closed(phoenix: Phoenix) -> None:
    phoenix.refuses = "runhold:worker:1"
    with pytest.raises(NotJoined, match="Unauthorized"):
        await _connect(phoenix, Ear())
    await eventually(lambda: phoenix.sockets[0].state.name == "CLOSED")


async def test_a_server_that_never_answers_is_an_error(
    phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime, "JOIN_TIMEOUT_S", 0.1)
    monkeypatch.setattr(realtime, "CLOSE_TIMEOUT_S", 0.1)
    phoenix.silent = True
    with pytest.raises(TimeoutError):
        await _connect(phoenix, Ear())


async def test_no_server_is_an_error_at_once() -> None:
    with pytest.raises(Exception, match=r"[Cc]onnect"):
        await connect("http://127.0.0.1:9", Access(KEY), Ear().topics, Ear().on_ready)
