"""A provider that is down is asked by one run at a time, and the others wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.ports import ModelReply
from runhold.models.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_WAIT_S,
    RETURNS_PER_S,
    Breaker,
)

REPLY = ModelReply(message={"role": "assistant", "content": "hi"}, finish_reason="stop", usage=None)


class Provider:
    """Answers, or does what ``trouble`` says; ``gate`` holds answers back."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[str] = []
        self.trouble: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None
        self.breaker = Breaker(self, clock=lambda: self.now)

    async def complete(
        self, body: dict[str, Any], *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        self.asked.append(body["model"])
        trouble, gate = self.trouble.get(body["model"]), self.gate
        if gate is not None:
            await gate.wait()
        if trouble is not None:
            raise trouble
        return REPLY

    async def call(self, model: str = "m") -> str | ModelUnavailable:
        try:
            await self.breaker.complete({"model": model}, timeout_s=1)
        except ModelUnavailable as error:
            return error
        except (ModelTimeout, ModelRejected) as error:
            return type(error).__name__
        return "answer"

    async def is_asked(self, model: str = "m") -> bool:
        before = len(self.asked)
        await self.call(model)
        return len(self.asked) > before

    async def wait_s(self) -> float:
        """How long a run that is turned away waits."""
        before = len(self.asked)
        error = await self.call()
        assert isinstance(error, ModelUnavailable)
        assert len(self.asked) == before
        assert error.retry_after_s is not None
        return error.retry_after_s


@pytest.fixture
def provider() -> Provider:
    made = Provider()
    made.trouble["m"] = ModelUnavailable("503")
    return made


async def break_it(provider: Provider) -> None:
    for _ in range(FAILURES_TO_OPEN):
        assert await provider.is_asked()


async def test_outages_in_a_row_open_it_and_then_nobody_is_asked(provider: Provider) -> None:
    await break_it(provider)
    error = await provider.call()
    assert isinstance(error, ModelUnavailable)
    assert "503" in str(error)
    assert len(provider.asked) == FAILURES_TO_OPEN
    assert (provider.breaker.opened["m"], provider.breaker.turned_away["m"]) == (1, 1)


async def test_an_answer_in_between_keeps_it_closed(provider: Provider) -> None:
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            assert await provider.is_asked()
        down = provider.trouble.pop("m")
        assert await provider.call() == "answer"
        provider.trouble["m"] = down


async def test_other_models_are_not_concerned(provider: Provider) -> None:
    await break_it(provider)
    assert await provider.call("other") == "answer"


async def test_one_probe_at_a_time_is_let_through_when_its_time_has_come(provider: Provider) -> None:
    await break_it(provider)
    provider.now += FIRST_PAUSE_S - 0.1
    assert not await provider.is_asked()
    provider.now += 0.2
    provider.gate = asyncio.Event()
    before = len(provider.asked)
    calls = [asyncio.create_task(provider.call()) for _ in range(9)]
    done, _ = await asyncio.wait(calls, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    assert len(provider.asked) == before + 1
    assert len(done) >= 1
    provider.trouble.clear()
    provider.gate.set()
    await asyncio.gather(*calls)


async def test_its_success_closes_it_for_all(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await break_it(provider)
    await provider.call()
    provider.trouble.clear()
    provider.now += FIRST_PAUSE_S
    assert [await provider.call() for _ in range(9)] == ["answer"] * 9
    assert "answers again after 2 s; 1 calls were not made" in caplog.text


async def test_its_failure_doubles_the_pause_up_to_a_bound(provider: Provider) -> None:
    await break_it(provider)
    pause = FIRST_PAUSE_S
    for _ in range(9):
        provider.now += pause - 0.1
        assert not await provider.is_asked()
        provider.now += 0.2
        assert await provider.is_asked()
        pause = min(pause * 2, LONGEST_PAUSE_S)
    assert pause == LONGEST_PAUSE_S


async def test_it_stays_open_as_long_as_the_provider_asks_for(provider: Provider) -> None:
    provider.trouble["m"] = ModelUnavailable("429", retry_after_s=40)
    await break_it(provider)
    provider.now += 39
    assert not await provider.is_asked()
    provider.now += 1
    assert await provider.is_asked()


async def test_a_refusal_is_an_answer(provider: Provider) -> None:
    await break_it(provider)
    provider.trouble["m"] = ModelRejected("bad request", status=400)
    provider.now += FIRST_PAUSE_S
    assert await provider.call() == await provider.call() == "ModelRejected"


async def test_a_probe_that_says_nothing_leaves_its_place_to_the_next(provider: Provider) -> None:
    await break_it(provider)
    provider.now += FIRST_PAUSE_S
    provider.trouble["m"] = ModelTimeout("slow")
    assert await provider.call() == "ModelTimeout"
    provider.gate = asyncio.Event()
    probe = asyncio.create_task(provider.call())
    await asyncio.sleep(0)
    assert not await provider.is_asked()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    provider.gate = None
    assert await provider.is_asked()


async def test_late_news_of_calls_made_before_changes_nothing(provider: Provider) -> None:
    provider.gate = asyncio.Event()
    late = [asyncio.create_task(provider.call()) for _ in range(20)]
    await asyncio.sleep(0)
    gate, provider.gate = provider.gate, None
    await break_it(provider)
    gate.set()
    await asyncio.gather(*late)
    assert provider.breaker.opened["m"] == 1
    provider.now += FIRST_PAUSE_S
    assert await provider.is_asked(), "the pause was not doubled by them"


async def test_hundreds_of_runs_that_are_turned_away_come_back_one_after_the_other(
    provider: Provider,
) -> None:
    await break_it(provider)
    waits = [await provider.wait_s() for _ in range(300)]
    assert waits[0] > FIRST_PAUSE_S
    per_s = max(sum(second <= wait < second + 1 for wait in waits) for second in range(60))
    assert per_s <= RETURNS_PER_S + 1
    assert waits[-1] <= FIRST_PAUSE_S + 300 / RETURNS_PER_S + 0.1
    waits = [await provider.wait_s() for _ in range(3000)]
    assert max(waits) <= LONGEST_WAIT_S
