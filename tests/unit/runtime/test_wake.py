"""The wake supervisor: connections come and go, it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from runhold.runtime import wake
from runhold.runtime.config import WorkerConfig
from runhold.runtime.realtime import Topics
from runhold.runtime.wake import Listener

WORKER = UUID(int=1)


class FakeConnection:
    def __init__(self, topics: Topics) -> None:
        self.trouble = asyncio.Event()
        self.topics = topics
        self.closed = False

    def send(self, topic: str, event: str) -> None:
        self.topics[topic][event]()

    def probe(self) -> None:
        self.send(f"runhold:worker:{WORKER}", "probe")

    async def aclose(self) -> None:
        self.closed = True


class Air:
    """What the listener hears through."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.attempts = 0
        self.refusing = False
        self.wakes = 0
        self.joined = 0
        config = WorkerConfig(url="http://x.test", secret_key="sb_secret_x")
        self.listener = Listener(
            config,
            WORKER,
            probe_every_s=0.04,
            on_wake=self._woken,
            on_joined=self._joined,
            connect=self._connect,
        )

    @property
    def now(self) -> FakeConnection:
        return self.connections[-1]

    async def _connect(self, url: str, key: str, topics: Topics) -> FakeConnection:
        self.attempts += 1
        if self.refusing:
            raise OSError("refused")
        self.connections.append(FakeConnection(topics))
        return self.now

    def _woken(self) -> None:
        self.wakes += 1

    def _joined(self) -> None:
        self.joined += 1


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.002)


@pytest.fixture
async def air(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(wake, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(wake, "PROBE_TRAVEL_S", 0.02)
    air = Air()
    task = asyncio.create_task(air.listener.run())
    await asyncio.sleep(0.01)
    yield air
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(connection.closed for connection in air.connections)


async def test_joining_is_a_reason_to_look_and_events_are_passed_on(air: Air) -> None:
    await until(lambda: air.joined == 1)
    air.now.send("runhold:workers", "wake")
    air.now.send("runhold:workers", "wake")
    assert air.wakes == 2


async def test_a_connection_is_believed_only_while_the_probe_comes_through_it(air: Air) -> None:
    await until(lambda: air.joined == 1)
    assert not air.listener.is_heard  # joined, but not tested yet
    air.now.probe()
    assert air.listener.is_heard
    for _ in range(8):
        await asyncio.sleep(0.03)
        air.now.probe()
        assert air.listener.is_heard
    assert len(air.connections) == 1
    await until(lambda: not air.listener.is_heard)
    await until(lambda: len(air.connections) >= 2)  # deaf: a new one
    assert air.connections[0].closed


async def test_a_connection_that_never_hears_the_probe_is_replaced(air: Air) -> None:
    await until(lambda: len(air.connections) >= 3)
    assert not air.listener.is_heard


async def test_a_probe_of_the_last_connection_does_not_speak_for_the_new_one(air: Air) -> None:
    air.now.probe()
    air.now.trouble.set()
    await until(lambda: len(air.connections) == 2)
    assert not air.listener.is_heard


async def test_trouble_means_a_new_connection_and_another_look(air: Air) -> None:
    for number in range(1, 6):
        await until(lambda number=number: air.joined == number)
        air.now.probe()
        air.now.trouble.set()
    await until(lambda: air.joined == 6)
    assert [each.closed for each in air.connections] == [True] * 5 + [False]


async def test_a_server_that_refuses_is_asked_for_ever(air: Air) -> None:
    air.refusing = True
    air.now.trouble.set()
    await until(lambda: air.attempts > 8)
    assert not air.listener.is_heard
    air.refusing = False
    await until(lambda: air.joined == 2)
    air.now.probe()
    assert air.listener.is_heard


async def test_a_good_connection_is_replaced_before_its_token_can_run_out(
    air: Air, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "RECYCLE_S", 0.1)
    air.now.trouble.set()
    await until(lambda: air.joined == 2)
    while air.joined < 4:
        air.now.probe()
        await asyncio.sleep(0.01)


def test_pauses_between_attempts_grow_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            raise asyncio.CancelledError

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def main() -> None:
        air = Air()
        air.refusing = True
        await air.listener.run()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 60
