"""How long a worker may believe in its lease."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any
from uuid import uuid4

import pytest
from fake_port import FakePort

from runhold.errors import StoreUnavailable, WorkerDead
from runhold.runtime import heartbeat
from runhold.runtime.clock import lease_now
from runhold.runtime.heartbeat import HeartbeatThread
from runhold.runtime.lease import Lease
from runhold.testing.chaos.patience import eventually


def test_a_lease_counts_from_when_the_request_was_sent() -> None:
    now = 100.0
    lease = Lease(lambda: now)
    assert lease.is_lost
    assert not lease.may_start_effect()
    lease.renew(sent_at=90.0, lease_ms=30_000)
    assert lease.remaining_s == 20
    now = 114.9
    assert lease.may_start_effect()
    now = 115.1  # less than a sixth is left
    assert not lease.may_start_effect()
    assert not lease.is_lost
    now = 120.0
    assert lease.is_lost


def test_an_answer_that_was_overtaken_does_not_shorten_it() -> None:
    lease = Lease(lambda: 0.0)
    lease.renew(sent_at=10.0, lease_ms=30_000)
    lease.renew(sent_at=5.0, lease_ms=30_000)
    assert lease.remaining_s == 40


class Beating:
    """A heartbeat on a fake port."""

    def __init__(self, lease_s: float = 0.3) -> None:
        self.port = FakePort(lease_ms=round(lease_s * 1000))
        self.lease = Lease()
        self.lease.renew(lease_now(), round(lease_s * 1000))
        self.replies: list[Any] = []
        self.threads: set[str] = set()
        self.dead = 0
        self.seq = 0
        self.order: list[str] = []
        self.thread = HeartbeatThread(
            open_port=self._open,
            worker_id=uuid4(),
            lease=self.lease,
            lease_s=lease_s,
            held=lambda: self.order.append("held") or [],  # type: ignore[func-returns-value]
            last_seq=self._last_seq,
            on_reply=self._replied,
            on_dead=self._died,
        )

    @property
    def beats(self) -> int:
        return len(self.port.calls_of("heartbeat"))

    async def _open(self) -> FakePort:
        self.threads.add(threading.current_thread().name)
        return self.port

    def _last_seq(self) -> int:
        self.order.append("seq")
        return self.seq

    def _replied(self, reply: Any, asked: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.replies.append(reply)

    def _died(self) -> None:
        self.dead += 1


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_lease_is_renewed_three_times_as_often_as_needed_from_a_thread() -> None:
    beating = Beating()
    task = asyncio.create_task(beating.thread.run())
    await asyncio.sleep(0.65)
    assert 5 <= beating.beats <= 8
    assert len(beating.replies) == beating.beats
    assert beating.lease.remaining_s > 0.15
    assert beating.threads == {"runhold-heartbeat", threading.main_thread().name}
    assert beating.order[:2] == ["seq", "held"]
    await stopped(task)
    assert beating.port.calls_of("aclose")
    beats = beating.beats
    await asyncio.sleep(0.15)
    assert beating.beats == beats


async def test_a_blocked_event_loop_is_renewed_for_a_while_and_then_not_any_more() -> None:
    beating = Beating(lease_s=0.6)
    task = asyncio.create_task(beating.thread.run())
    await eventually(lambda: beating.beats)
    time.sleep(0.35)  # noqa: ASYNC251 - a tool that blocks
    assert beating.lease.remaining_s > 0.3
    await asyncio.sleep(0.05)
    began = beating.beats
    time.sleep(1.2)  # noqa: ASYNC251
    assert beating.beats - began <= 3
    assert beating.lease.is_lost
    await stopped(task)


async def test_who_blocks_the_event_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    beating = Beating(lease_s=0.3)
    task = asyncio.create_task(beating.thread.run())
    await eventually(lambda: beating.beats)

    async def post() -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - two leases

    await asyncio.create_task(post(), name="tool post")
    (said,) = [record for record in caplog.records if "stood still" in record.message]
    assert "in tool post (test_lease.py:" in said.message
    assert ", post)" in said.message
    assert "must be a plain `def`" in said.message
    beats = beating.beats
    await eventually(lambda: beating.beats > beats)  # it turns again, and the lease is asked for again
    await stopped(task)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock here runs on in sleep")
def test_leases_count_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease()
    lease.renew(lease_now(), 30_000)
    assert lease.may_start_effect()
    real = time.clock_gettime
    slept_s = {time.CLOCK_BOOTTIME: 3600.0}  # what the monotonic clock knows nothing of
    monkeypatch.setattr(time, "clock_gettime", lambda kind: real(kind) + slept_s.get(kind, 0.0))
    assert lease.is_lost
    assert not lease.may_start_effect()


async def test_a_failed_beat_is_repeated_soon_and_the_lease_is_kept() -> None:
    beating = Beating()
    beating.port.failing["heartbeat"].extend([StoreUnavailable("down")] * 3)
    task = asyncio.create_task(beating.thread.run())
    await eventually(lambda: beating.replies)
    assert beating.beats >= 4
    assert not beating.lease.is_lost
    await stopped(task)


async def test_the_news_of_its_death_ends_the_heart() -> None:
    beating = Beating()
    beating.port.always_failing["heartbeat"] = WorkerDead("dead", code="RH012")
    await asyncio.wait_for(beating.thread.run(), 5)
    assert beating.dead == 1
    assert beating.beats == 1


async def test_a_heart_that_breaks_is_noticed() -> None:
    beating = Beating()
    beating.port.always_failing["heartbeat"] = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(beating.thread.run(), 5)


async def test_a_nudge_brings_the_next_beat_forward_but_not_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "MIN_NUDGE_S", 0.1)
    beating = Beating(lease_s=30)
    task = asyncio.create_task(beating.thread.run())
    await eventually(lambda: beating.beats == 1)
    for _ in range(60):
        beating.thread.nudge()
        await asyncio.sleep(0.005)
    assert 3 <= beating.beats <= 6
    await stopped(task)
    beating.thread.nudge()  # after its end: nothing
