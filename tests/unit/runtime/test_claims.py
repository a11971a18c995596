"""When a worker looks for work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from fake_port import FakePort

from runhold.errors import StoreError
from runhold.runtime import claims
from runhold.runtime.claims import Claimer
from runhold.runtime.held import HeldRuns
from runhold.store.answers import GatewayAnswer, UnreadableAnswer
from runhold.store.records import Claim
from runhold.testing.chaos.patience import eventually


class Desk:
    """A claimer whose runs are taken by hand."""

    def __init__(self, capacity: int = 4, poll_s: float = 2.0) -> None:
        self.port = FakePort()
        self.held = HeldRuns(capacity)
        self.taken: list[Any] = []
        self.heard = True
        self.dead = False
        self.misses = 0
        self.claimer = Claimer(
            self.port,
            uuid4(),
            {},
            self.held,
            take=self.take,
            is_heard=lambda: self.heard,
            on_missed=self.miss,
            on_dead=self.die,
            poll_s=poll_s,
        )

    def take(self, claim: Claim) -> None:
        for run in claim.runs:
            held: Any = type("Held", (), {"run": run, "drop": lambda self, reason: None})()
            self.held.add(held)
            self.taken.append(held)

    def miss(self) -> None:
        self.misses += 1

    def die(self) -> None:
        self.dead = True

    @property
    def looked(self) -> int:
        return len(self.port.calls_of("claim"))


@asynccontextmanager
async def claiming(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.claimer.run())
    await eventually(lambda: desk.looked)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(claims, "POLL_JITTER", 0.0)
    monkeypatch.setattr(claims, "TRAILING_S", 0.05)
    monkeypatch.setattr(claims, "EMPTY_JITTER_S", 0.0)
    monkeypatch.setattr(claims, "TICK_S", 0.02)
    return Desk()


async def test_a_wake_up_is_followed_at_once_and_once_more_a_moment_later(desk: Desk) -> None:
    async with claiming(desk):
        assert desk.looked == 1
        desk.port.submit()
        began = time.monotonic()
        desk.claimer.wake()
        await eventually(lambda: desk.looked == 2)
        assert time.monotonic() - began < 0.03
        desk.port.submit()  # its wake-up was swallowed: more than ten a second
        await eventually(lambda: desk.looked == 3)
        assert time.monotonic() - began >= 0.05
        await asyncio.sleep(0.12)
        assert desk.looked == 3
    assert desk.claimer.found == {"start": 0, "push": 2, "poll": 0}


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
    desk = Desk(poll_s=0.03)
    desk.heard = heard
    async with claiming(desk):
        await asyncio.sleep(0.32)
        assert most / 3 < desk.looked <= most + 1


async def test_polls_are_never_more_frequent_than_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_HEARD_S", 0.01)
    desk = Desk(poll_s=5)
    async with claiming(desk):
        await asyncio.sleep(0.1)
        assert desk.looked == 1  # asked to poll every 5 s, it does not poll more often when it hears


async def test_a_poll_that_finds_what_no_wake_up_told_of_makes_the_next_ones_frequent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_HEARD_S", 0.3)
    monkeypatch.setattr(claims, "DOUBT_S", 0.3)
    desk = Desk(poll_s=0.02)
    async with claiming(desk):
        await asyncio.sleep(0.1)
        assert desk.looked == 1
        desk.port.submit()
        await eventually(lambda: desk.claimer.missed == 1)
        assert desk.misses == 1
        looked = desk.looked
        await eventually(lambda: desk.looked >= looked + 4)
        desk.port.submit()
        await eventually(lambda: desk.misses == 2)
    assert desk.claimer.found == {"start": 0, "push": 0, "poll": 2}


async def test_what_a_poll_finds_while_realtime_is_not_heard_was_not_missed(desk: Desk) -> None:
    desk = Desk(poll_s=0.02)
    desk.heard = False
    async with claiming(desk):
        desk.port.submit()
        await eventually(lambda: desk.claimer.found["poll"])
    assert (desk.misses, desk.claimer.missed) == (0, 0)


async def test_workers_that_were_woken_for_nothing_do_not_look_again_all_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "EMPTY_JITTER_S", 0.1)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    async with claiming(desk):
        began = time.monotonic()
        desk.claimer.wake()
        await eventually(lambda: desk.looked == 3)
        assert time.monotonic() - began >= 0.15


async def test_polling_quickens_when_hearing_stops_in_the_middle_of_a_long_wait(
    desk: Desk,
) -> None:
    desk = Desk(poll_s=0.02)
    async with claiming(desk):
        await asyncio.sleep(0.05)
        assert desk.looked == 1
        desk.heard = False
        await eventually(lambda: desk.looked >= 4)
        desk.port.submit()
        await eventually(lambda: desk.claimer.found["poll"])


async def test_a_run_that_becomes_due_is_looked_for_then(desk: Desk) -> None:
    desk.port.next_due = due = datetime.now(UTC) + timedelta(seconds=0.15)
    async with claiming(desk):
        await eventually(lambda: desk.looked == 2)
        assert datetime.now(UTC) >= due
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
        await eventually(lambda: len(desk.taken) == 4)
        desk.claimer.wake()
        await asyncio.sleep(0.03)
        assert desk.looked == 1
        desk.held.remove(desk.taken[0])
        await eventually(lambda: len(desk.taken) == 5)
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
        await eventually(lambda: desk.looked == 3)
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
        await eventually(lambda: desk.claimer.last_seq == 1)
    assert numbers == [0]


@pytest.mark.parametrize(
    "error", [UnreadableAnswer("not JSON"), GatewayAnswer("403", status=403, says="Blocked")], ids=str
)
async def test_an_answer_that_can_not_be_read_does_not_make_the_worker_deaf(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    """Its runs are not held, so that the next heartbeat gives them back, counted; other claims go on."""
    monkeypatch.setattr(claims, "RETRY_S", 0.001)
    desk.port.submit()
    real = desk.port.claim

    async def claim(worker_id: Any, seq: int, *rest: Any) -> Claim:
        answer = await real(worker_id, seq, *rest)
        if seq == 1:
            raise error
        return answer

    desk.port.claim = claim  # type: ignore[method-assign]
    async with claiming(desk):
        await eventually(lambda: desk.claimer.last_seq >= 1)
        desk.port.submit()
        desk.port.submit()
        desk.claimer.wake()
        await eventually(lambda: len(desk.taken) == 2)
    # those after it come one by one: the one at fault may be claimed again
    assert {n for seq, n in desk.port.calls_of("claim") if seq > 1} == {1}
    assert {n for seq, n in desk.port.calls_of("claim") if seq == 1} == {4}


async def test_a_gateway_that_answers_no_claim_costs_no_run_an_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "RETRY_S", 0.001)
    desk.port.submit()
    desk.port.always_failing["claim"] = GatewayAnswer("403", status=403, says="Blocked")
    async with claiming(desk):
        await eventually(lambda: desk.looked > 20)
        assert desk.claimer.last_seq == 0
        del desk.port.always_failing["claim"]
        await eventually(lambda: len(desk.taken) == 1)
    assert desk.claimer.last_seq == 1


async def test_a_claim_is_repeated_under_its_number_while_nobody_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "RETRY_S", 0.001)
    desk.port.submit()
    desk.port.failing["claim"].extend(["lost"] * 3 * claims.MAX_UNREADABLE)
    async with claiming(desk):
        await eventually(lambda: len(desk.taken) == 1)
    assert desk.claimer.last_seq == 1
