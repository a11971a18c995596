"""The wake supervisor: connections come and go, it stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from runhold.runtime import wake
from runhold.runtime.config import WorkerConfig
from runhold.runtime.realtime import Topics
from runhold.runtime.wake import Listener
from runhold.store.client import Access
from runhold.testing.chaos.patience import eventually

WORKER = UUID(int=1)
KEY = "sb_secret_x"


class FakeConnection:
    def __init__(self, topics: Topics, on_ready: Callable[[], None]) -> None:
        self.trouble = asyncio.Event()
        self.why = ""
        self.topics = topics
        self.ready = on_ready
        self.closed = False

    def send(self, topic: str, event: str) -> None:
        self.topics[topic][event]()

    def wake(self) -> None:
        self.send("runhold:workers", "wake")

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
        self.looks = 0
        config = WorkerConfig(url="http://x.test", secret_key=KEY)
        self.listener = Listener(
            config, WORKER, on_wake=self._woken, on_joined=self._joined, connect=self._connect
        )

    @property
    def now(self) -> FakeConnection:
        return self.connections[-1]

    @property
    def joins(self) -> int:
        return self.listener.stats.joins

    def beat(self) -> None:
        """A heartbeat whose probe comes through."""
        self.now.probe()
        self.listener.expect_probe()

    async def _connect(
        self, url: str, access: Access, topics: Topics, on_ready: Callable[[], None]
    ) -> FakeConnection:
        self.attempts += 1
        if self.refusing:
            raise OSError(f"refused wss://x.test/websocket?apikey={access.api_key}")
        self.connections.append(FakeConnection(topics, on_ready))
        return self.now

    def _woken(self) -> None:
        self.wakes += 1

    def _joined(self) -> None:
        self.looks += 1


@pytest.fixture
async def air(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(wake, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(wake, "PROBE_WAIT_S", 0.3)
    air = Air()
    task = asyncio.create_task(air.listener.run())
    await eventually(lambda: air.joins)
    yield air
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(connection.closed for connection in air.connections)


async def test_events_are_passed_on_and_counted(air: Air) -> None:
    before = datetime.now(UTC)
    air.now.wake()
    air.now.wake()
    assert air.wakes == air.listener.stats.events == 2
    assert air.listener.stats.last_event_at is not None
    assert air.listener.stats.last_event_at >= before
    assert air.listener.stats.last_probe_at is None


async def test_joining_being_ready_and_the_first_probe_are_reasons_to_look(air: Air) -> None:
    assert air.looks == 1
    air.now.ready()
    assert air.looks == 2
    air.now.probe()
    assert air.looks == 3
    air.now.probe()
    assert air.looks == 3


async def test_a_connection_is_believed_only_while_probes_come_through_it(air: Air) -> None:
    assert not air.listener.is_heard  # joined, but not tested yet
    air.beat()
    assert air.listener.is_heard
    for _ in range(8):
        await asyncio.sleep(0.03)
        air.beat()
        assert air.listener.is_heard
    assert len(air.connections) == 1
    air.listener.expect_probe()  # and it does not come
    assert air.listener.is_heard
    await eventually(lambda: not air.listener.is_heard)
    await eventually(lambda: len(air.connections) >= 2)  # deaf: a new one
    assert air.connections[0].closed
    assert air.listener.stats.last_trouble == "the probe was not heard"
    assert air.listener.stats.resubscribes >= 1


async def test_a_probe_may_be_slower_than_the_heartbeat_s_answer(air: Air) -> None:
    for _ in range(5):
        air.listener.expect_probe()
        await asyncio.sleep(0.02)
        air.now.probe()
    await asyncio.sleep(0.1)
    assert air.listener.is_heard
    assert air.joins == 1


async def test_no_heartbeat_is_not_realtime_s_fault(air: Air) -> None:
    air.beat()
    await asyncio.sleep(0.4)  # the API is away: no probe is sent, none is missing
    assert air.listener.is_heard
    assert air.joins == 1


async def test_a_connection_that_never_hears_a_probe_is_replaced(air: Air) -> None:
    for number in range(1, 4):
        await eventually(lambda number=number: air.joins == number)
        air.listener.expect_probe()
    assert not air.listener.is_heard


async def test_a_probe_of_the_last_connection_does_not_speak_for_the_new_one(air: Air) -> None:
    air.now.probe()
    air.now.trouble.set()
    await eventually(lambda: len(air.connections) == 2)
    assert not air.listener.is_heard


async def test_wake_ups_that_get_lost_while_probes_come_through_replace_the_connection(air: Air) -> None:
    air.beat()
    for _ in range(3):
        air.listener.miss()
        air.listener.miss()
        air.now.wake()  # not all of them are lost
    await asyncio.sleep(0.05)
    assert air.joins == 1
    for _ in range(3):
        air.listener.miss()
    await eventually(lambda: air.joins == 2)


async def test_trouble_means_a_new_connection_and_another_look(air: Air) -> None:
    for number in range(1, 6):
        await eventually(lambda number=number: air.joins == number)
        air.now.probe()
        air.now.why = "phx_close"
        air.now.trouble.set()
    await eventually(lambda: air.joins == 6)
    assert [each.closed for each in air.connections] == [True] * 5 + [False]
    assert air.listener.stats.last_trouble == "phx_close"
    assert air.looks == 6 + 5


async def test_a_server_that_refuses_is_asked_for_ever_and_the_key_is_not_told(
    air: Air, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    air.refusing = True
    air.now.trouble.set()
    await eventually(lambda: air.attempts > 8)
    assert not air.listener.is_heard
    assert "refused" in caplog.text
    assert KEY not in caplog.text + str(air.listener.stats)
    assert [each.levelno for each in caplog.records if "not heard" in each.message].count(
        logging.WARNING
    ) == 1  # the first; a long outage does not fill the log
    air.refusing = False
    await eventually(lambda: air.joins == 2)
    air.beat()
    assert air.listener.is_heard
    assert "Realtime is heard" in caplog.text


async def test_a_good_connection_is_replaced_before_its_token_can_run_out(
    air: Air, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "RECYCLE_S", 0.1)
    air.now.trouble.set()
    await eventually(lambda: air.joins == 2)
    while air.joins < 4:
        air.beat()
        await asyncio.sleep(0.01)


def _pauses(monkeypatch: pytest.MonkeyPatch, count: int, **state: Any) -> list[float]:
    """The pauses between attempts that a listener makes, at the most that chance allows."""
    pauses: list[float] = []

    async def noted(_: wake.Listener, seconds: float, __: Access) -> None:
        pauses.append(seconds)
        if len(pauses) == count:
            raise asyncio.CancelledError

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr(wake.Listener, "_pause", noted)

    async def main() -> None:
        air = Air()
        vars(air).update(state)
        listening = asyncio.create_task(air.listener.run())
        while not listening.done():
            await asyncio.sleep(0.001)
            if air.connections and not air.now.trouble.is_set():
                air.beat()
                await asyncio.sleep(0.005)
                air.now.trouble.set()
        await listening

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    return pauses


def test_pauses_between_attempts_grow_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = _pauses(monkeypatch, 12, refusing=True)
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 60


def test_pauses_grow_too_when_connections_are_lost_as_soon_as_they_are_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _pauses(monkeypatch, 4) == [1, 2, 4, 8]


def test_after_a_connection_that_was_heard_for_long_the_first_attempt_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wake, "STEADY_S", 0.0)
    assert _pauses(monkeypatch, 4) == [1, 1, 1, 1]


async def test_a_new_key_is_used_at_once_and_by_a_connection_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    presented: list[Access] = []
    now = [Access("sb_secret_old")]

    async def connect(url: str, access: Access, *_: Any) -> Any:
        presented.append(access)
        if access.api_key == "sb_secret_rejected":
            raise OSError("403")
        return Deaf()

    monkeypatch.setattr(wake, "TICK_S", 0.01)
    monkeypatch.setattr(wake, "BACKOFF_BASE_S", 1000.0)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    config = WorkerConfig(url="http://x.test", secret_key="sb_secret_old")
    listener = wake.Listener(
        config, uuid4(), on_wake=_nothing, on_joined=_nothing, access=lambda: now[0], connect=connect
    )
    listening = asyncio.create_task(listener.run())
    for number, key in enumerate(("sb_secret_rejected", "sb_secret_new"), start=1):
        await eventually(lambda number=number: len(presented) == number)
        now[0] = Access(key)
    await eventually(lambda: presented[-1].api_key == "sb_secret_new")
    assert [access.api_key for access in presented] == [
        "sb_secret_old",
        "sb_secret_rejected",
        "sb_secret_new",
    ]
    listening.cancel()


class Deaf:
    """A connection on which nothing happens."""

    def __init__(self) -> None:
        self.trouble, self.why = asyncio.Event(), ""

    async def aclose(self) -> None:
        """Nothing is open."""


def _nothing() -> None:
    pass
