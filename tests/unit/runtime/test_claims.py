"""When a worker looks for work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from fake_port import FakePort

from runhold.runtime import claims
from runhold.runtime.claims import Claimer
from runhold.runtime.held import HeldRuns
from runhold.store.records import Claim


class Desk:
    """A claimer whose runs are taken by hand."""

    def __init__(self, capacity: int = 4) -> None:
        self.port = FakePort()
        self.held = HeldRuns(capacity)
        self.taken: list[Any] = []
        self.heard = True
        self.dead = False
        self.claimer = Claimer(
            self.port,
            uuid4(),
            {},
            self.held,
            take=self.take,
            is_heard=lambda: self.heard,
            on_dead=self.die,
        )

    def take(self, claim: Claim) -> None:
        for run in claim.runs:
            held: Any = type("Held", (), {"run": run, "drop": lambda self, reason: None})()
            self.held.add(held)
            self.taken.append(held)

    def die(self) -> None:
        self.dead = True

    @property
    def looked(self) -> int:
        return len(self.port.calls_of("claim"))


@asynccontextmanager
async def claiming(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.claimer.run())
    await until(lambda: desk.looked)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.002)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(claims, "POLL_JITTER", 0.0)
    monkeypatch.setattr(claims, "TRAILING_S", 0.05)
    return Desk()


async def test_a_wake_up_is_followed_at_once_and_once_more_a_moment_later(desk: Desk) -> None:
    async with claiming(desk):
        assert desk.looked == 1
        desk.port.submit()
        began = time.monotonic()
        desk.claimer.wake()
        await until(lambda: desk.looked == 2)
        assert time.monotonic() - began < 0.03
        desk.port.submit()  # its wake-up was swallowed: more than ten a second
        await until(lambda: desk.looked == 3)
        assert time.monotonic() - began >= 0.05
        await asyncio.sleep(0.12)
        assert desk.looked == 3
    assert desk.claimer.found == {"start": 0, "push": 2}


async def test_many_wake_ups_while_a_claim_is_under_way_are_one_reason_to_look_again(desk: Desk) -> None:
    def while_claiming() -> None:
        if desk.looked == 2:
            for _ in range(20):
                desk.claimer.wake()

    desk.port.on_claim = while_claiming
    async with claiming(desk):
        desk.claimer.wake()
        await asyncio.sleep(0.15)
        assert desk.looked == 4  # start, the wake-up, those during it, the trailing look


@pytest.mark.parametrize(("heard", "most"), [(True, 2), (False, 12)])
async def test_polls_are_frequent_only_while_realtime_is_not_heard(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, heard: bool, most: int
) -> None:
    monkeypatch.setattr(claims, "POLL_HEARD_S", 0.3)
    monkeypatch.setattr(claims, "POLL_DEAF_S", 0.03)
    desk.heard = heard
    async with claiming(desk):
        await asyncio.sleep(0.32)
        assert most / 3 < desk.looked <= most + 1


async def test_polling_quickens_when_hearing_stops_in_the_middle_of_a_long_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_DEAF_S", 0.02)
    async with claiming(desk):
        await asyncio.sleep(0.05)
        assert desk.looked == 1
        desk.heard = False
        await until(lambda: desk.looked >= 4)
        desk.port.submit()
        await until(lambda: desk.claimer.found["poll"])


async def test_a_run_that_becomes_due_is_looked_for_then(desk: Desk) -> None:
    desk.port.next_due = datetime.now(UTC) + timedelta(seconds=0.15)
    async with claiming(desk):
        await asyncio.sleep(0.1)
        assert desk.looked == 1
        await until(lambda: desk.looked == 2)
        assert desk.claimer.looked["due"] == 1


async def test_a_database_clock_behind_ours_makes_no_storm(desk: Desk) -> None:
    desk.port.next_due = datetime.now(UTC) - timedelta(seconds=5)
    async with claiming(desk):
        await asyncio.sleep(0.8)
        assert 3 <= desk.looked <= 6  # at 0.05, 0.15, 0.35, 0.75 s


async def test_full_slots_wait_and_a_free_one_is_filled_at_once(desk: Desk) -> None:
    for _ in range(6):
        desk.port.submit()
    async with claiming(desk):
        await until(lambda: len(desk.taken) == 4)
        desk.claimer.wake()
        await asyncio.sleep(0.03)
        assert desk.looked == 1
        desk.held.remove(desk.taken[0])
        await until(lambda: len(desk.taken) == 5)
        assert desk.port.calls_of("claim")[-1] == (2, 1)
    assert desk.claimer.found["slot"] == 1


async def test_more_is_asked_for_at_once(desk: Desk) -> None:
    desk.port.submit()
    real = desk.port.claim

    async def claim(*args: Any) -> Claim:
        answer = await real(*args)
        return Claim(runs=answer.runs, truncated=[], unreadable=[], next_due=None, more=desk.looked < 3)

    desk.port.claim = claim  # type: ignore[method-assign]
    async with claiming(desk):
        await until(lambda: desk.looked == 3)
        await asyncio.sleep(0.03)
        assert desk.looked == 3


async def test_the_number_rises_only_after_the_runs_are_held(desk: Desk) -> None:
    numbers: list[int] = []
    real = desk.take

    def take(claim: Claim) -> None:
        numbers.append(desk.claimer.last_seq)
        real(claim)

    desk.claimer._take = take  # pyright: ignore[reportPrivateUsage]
    async with claiming(desk):
        await until(lambda: desk.claimer.last_seq == 1)
    assert numbers == [0]
