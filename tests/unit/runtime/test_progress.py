"""Progress: one request for all runs, gathered, dropped when nobody takes it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
import respx
from aiohttp import web

from runhold.runtime import progress as progress_module
from runhold.runtime.progress import (
    LONGEST_PAUSE_S,
    MAX_EVENTS,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGES_PER_REQUEST,
    MAX_RUNS_WAITING,
    Progress,
)
from runhold.store.client import Access

ADA, BOB = UUID(int=1), UUID(int=2)
ENDPOINT = "http://project.test/realtime/v1/api/broadcast"


async def sent_by(progress: Progress, route: respx.Route, count: int = 1) -> list[dict[str, object]]:
    """Let the task run until ``count`` requests were made; the messages of all."""
    task = asyncio.create_task(progress.run())
    async with asyncio.timeout(30):
        while route.call_count < count:
            await asyncio.sleep(0)
    task.cancel()
    return [m for call in route.calls for m in json.loads(call.request.content)["messages"]]


@respx.mock
async def test_runs_share_a_request_and_their_news_are_gathered() -> None:
    route = respx.post(ENDPOINT).mock(httpx.Response(202))
    async with httpx.AsyncClient() as http:
        progress = Progress("http://project.test", lambda: Access("sb_secret_x"), http)
        ada, bob = progress.sink(ADA), progress.sink(BOB)
        ada("step", {"step": 1})
        ada("text", {"step": 1, "text": "Hel"})
        ada("text", {"step": 1, "text": "lo"})
        ada("tool", {"name": "look"})
        bob("step", {"step": 4})
        messages = await sent_by(progress, route)
    assert [(m["topic"], m["event"], m["private"]) for m in messages] == [
        (f"execution:{ADA}", "progress", True),
        (f"execution:{ADA}", "text", True),
        (f"execution:{BOB}", "progress", True),
    ]
    assert messages[0]["payload"] == {
        "events": [{"event": "step", "step": 1}, {"event": "tool", "name": "look"}]
    }
    assert messages[1]["payload"] == {"step": 1, "text": "Hello"}
    assert route.calls[0].request.headers["apikey"] == "sb_secret_x"


@respx.mock
async def test_too_much_news_loses_its_oldest() -> None:
    route = respx.post(ENDPOINT).mock(httpx.Response(202))
    async with httpx.AsyncClient() as http:
        progress = Progress("http://project.test", lambda: Access("k"), http)
        for n in range(MAX_EVENTS + 10):
            progress.add(ADA, "tool", {"n": n})
        (message,) = await sent_by(progress, route)
    events = message["payload"]["events"]  # pyright: ignore
    assert [event["n"] for event in events] == list(range(10, MAX_EVENTS + 10))  # pyright: ignore


@respx.mock
async def test_many_runs_take_turns_the_oldest_news_first_and_what_is_too_much_is_dropped() -> None:
    route = respx.post(ENDPOINT).mock(httpx.Response(202))
    async with httpx.AsyncClient() as http:
        progress = Progress("http://project.test", lambda: Access("k"), http)
        for n in range(MAX_RUNS_WAITING + 3):
            progress.add(UUID(int=n), "step", {"step": 1})
        messages = await sent_by(progress, route)
    assert [m["topic"] for m in messages] == [
        f"execution:{UUID(int=n)}" for n in range(3, 3 + MAX_MESSAGES_PER_REQUEST)
    ]
    assert progress.dropped == 3


@respx.mock
@pytest.mark.parametrize("trouble", [httpx.Response(500), httpx.ConnectError("away")])
async def test_deaf_realtime_costs_a_message_and_one_complaint(
    trouble: httpx.Response | httpx.ConnectError, caplog: pytest.LogCaptureFixture
) -> None:
    route = respx.post(ENDPOINT)
    route.mock(trouble) if isinstance(trouble, httpx.Response) else route.mock(side_effect=trouble)
    async with httpx.AsyncClient() as http:
        progress = Progress("http://project.test", lambda: Access("sb_secret_x"), http)
        for n in range(3):
            progress.add(ADA, "tool", {"n": n})
            with caplog.at_level(logging.WARNING):
                await sent_by(progress, route, n + 1)
    assert progress.dropped >= 2
    assert len(caplog.records) == 1
    assert "sb_secret_x" not in caplog.text


@respx.mock
async def test_what_is_no_json_is_dropped_and_the_task_lives() -> None:
    route = respx.post(ENDPOINT).mock(httpx.Response(202))
    async with httpx.AsyncClient() as http:
        progress = Progress("http://project.test", lambda: Access("k"), http)
        task = asyncio.create_task(progress.run())
        progress.add(ADA, "tool", {"n": object()})
        async with asyncio.timeout(30):
            while not progress.dropped:
                await asyncio.sleep(0.01)
            progress.add(BOB, "tool", {"n": 1})
            while not route.call_count:
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()


# ------------------------------------------------------------------------------------- Realtime's limits, over real HTTP

Message = dict[str, Any]


@asynccontextmanager
async def realtime(answer: Callable[[list[Message]], int], heard: list[Message]) -> AsyncIterator[str]:
    """A server that answers each batch with the status that ``answer`` returns, and appends accepted messages to ``heard``."""

    async def broadcast(request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        status = answer(messages)
        if status < 300:
            heard.extend(messages)
        return web.Response(status=status)

    app = web.Application(client_max_size=10**7)
    app.router.add_post("/realtime/v1/api/broadcast", broadcast)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(progress: Progress) -> AsyncIterator[None]:
    task = asyncio.create_task(progress.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.005)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "INTERVAL_S", 0.001)


@pytest.mark.usefixtures("fast")
async def test_a_quota_that_is_used_up_loses_no_news_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard, sizes = list[Message](), list[int]()

    def answer(messages: list[Message]) -> int:
        sizes.append(len(messages))
        return 429 if len(sizes) <= 5 else 202

    async with realtime(answer, heard) as url, httpx.AsyncClient() as http:
        progress = Progress(url, lambda: Access("k"), http)
        for n in range(40):
            progress.add(UUID(int=n), "step", {"step": 1})
            progress.add(UUID(int=n), "text", {"step": 1, "text": "a"})
        async with running(progress):
            await until(lambda: len(sizes) == 2)
            progress.add(UUID(int=0), "step", {"step": 2})
            progress.add(UUID(int=0), "text", {"step": 1, "text": "b"})
            await until(lambda: len(heard) >= 80)
    assert sizes[:5] == [16, 8, 4, 2, 2], "a refused request is followed by a smaller one"
    assert max(sizes) <= MAX_MESSAGES_PER_REQUEST
    first = [m for m in heard if m["topic"] == f"execution:{UUID(int=0)}"]
    assert [e["step"] for m in first if m["event"] == "progress" for e in m["payload"]["events"]] == [1, 2]
    assert "".join(m["payload"]["text"] for m in first if m["event"] == "text") == "ab"
    assert progress.dropped == 0
    (record,) = [r for r in caplog.records if r.name == "runhold.runtime.progress"]
    assert "[429]" in record.getMessage()


def test_the_pause_grows_to_a_bound_and_shrinks_again() -> None:
    pace = progress_module._Pace()  # pyright: ignore[reportPrivateUsage]
    for _ in range(20):
        pace.slower(0)
    assert (pace.messages, pace.pause_s) == (1, LONGEST_PAUSE_S)
    for _ in range(20):
        pace.faster()
    assert (pace.messages, pace.pause_s) == (MAX_MESSAGES_PER_REQUEST, progress_module.INTERVAL_S)
    pace.slower(7)
    assert pace.pause_s == 7


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("status", [413, 422])
async def test_one_message_that_realtime_refuses_costs_no_other(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Message] = []

    def answer(messages: list[Message]) -> int:
        return status if any("bad" in json.dumps(m["payload"]) for m in messages) else 202

    async with realtime(answer, heard) as url, httpx.AsyncClient() as http:
        progress = Progress(url, lambda: Access("k"), http)
        for n in range(16):
            progress.add(UUID(int=n), "tool", {"name": "bad" if n == 5 else "good"})
        async with running(progress):
            await until(lambda: len(heard) == 15)
    assert progress.dropped == 1
    assert f"Realtime answered {status}" in caplog.text


@pytest.mark.usefixtures("fast")
async def test_no_message_is_larger_than_the_smallest_plan_takes() -> None:
    heard: list[Message] = []
    async with realtime(lambda _: 202, heard) as url, httpx.AsyncClient() as http:
        progress = Progress(url, lambda: Access("k"), http)
        for n in range(MAX_EVENTS):
            progress.add(ADA, "emit", {"n": n, "data": "x" * 50_000})
        progress.add(BOB, "emit", {"data": "x" * (MAX_MESSAGE_BYTES + 1)})
        progress.add(BOB, "emit", {"data": "ä"})
        progress.add(BOB, "text", {"step": 1, "text": "\U0001f600" * 20_000})
        async with running(progress):
            await until(lambda: len(heard) == 3)
    assert max(len(json.dumps(m)) for m in heard) < 256_000
    assert [e["n"] for e in heard[0]["payload"]["events"]] == [47, 48, 49]
    assert heard[1]["payload"] == {"events": [{"event": "emit", "data": "ä"}]}
    assert progress.dropped == 1


@pytest.mark.usefixtures("fast")
async def test_a_quota_met_between_halves_repeats_nothing_that_was_taken() -> None:
    heard, answers = list[Message](), iter([422, 202, 429])

    async with realtime(lambda _: next(answers, 202), heard) as url, httpx.AsyncClient() as http:
        progress = Progress(url, lambda: Access("k"), http)
        for n in range(8):
            progress.add(UUID(int=n), "step", {"step": n})
        async with running(progress):
            await until(lambda: len(heard) >= 8)
            await asyncio.sleep(0.05)
    steps = [event["step"] for message in heard for event in message["payload"]["events"]]
    assert sorted(steps) == list(range(8))
    assert progress.dropped == 0


@pytest.mark.usefixtures("fast")
async def test_events_that_are_refused_do_not_cost_their_runs_text() -> None:
    heard: list[Message] = []

    def answer(messages: list[Message]) -> int:
        return 422 if any(message["event"] == "progress" for message in messages) else 202

    async with realtime(answer, heard) as url, httpx.AsyncClient() as http:
        progress = Progress(url, lambda: Access("k"), http)
        progress.add(ADA, "tool", {"name": "bad"})
        progress.add(ADA, "text", {"step": 1, "text": "good"})
        async with running(progress):
            await until(lambda: heard)
    assert [message["payload"]["text"] for message in heard] == ["good"]
    assert progress.dropped == 1
