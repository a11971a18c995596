"""Progress: one request for all runs, gathered, dropped when nobody takes it."""

from __future__ import annotations

import asyncio
import json
import logging
from uuid import UUID

import httpx
import pytest
import respx

from runhold.runtime.progress import MAX_EVENTS, MAX_RUNS_PER_REQUEST, MAX_RUNS_WAITING, Progress
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
        f"execution:{UUID(int=n)}" for n in range(3, 3 + MAX_RUNS_PER_REQUEST)
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
