"""Connections for many concurrent calls."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from model_support import BASE_URL, KEY
from openai import AsyncOpenAI

from runhold.models.lanes import LANE_CALLS, Lanes


def lanes() -> tuple[Lanes, list[httpx.AsyncClient]]:
    opened: list[httpx.AsyncClient] = []

    def make(http: httpx.AsyncClient) -> AsyncOpenAI:
        opened.append(http)
        return AsyncOpenAI(api_key=KEY, base_url=BASE_URL)

    return Lanes(make, BASE_URL), opened


async def test_a_lane_takes_so_many_calls_and_no_more() -> None:
    pool, opened = lanes()
    async with AsyncExitStack() as calls:
        clients = [await calls.enter_async_context(pool.client()) for _ in range(3 * LANE_CALLS)]
    assert len(opened) == 3
    assert [clients.count(client) for client in dict.fromkeys(clients)] == [LANE_CALLS] * 3


async def test_calls_one_after_another_share_a_lane_also_after_errors() -> None:
    pool, opened = lanes()
    for _ in range(3 * LANE_CALLS):
        try:
            async with pool.client():
                raise LookupError
        except LookupError:
            pass
    assert len(opened) == 1


async def test_a_cancelled_call_retires_its_lane_when_the_others_are_done() -> None:
    pool, opened = lanes()

    async def cancelled_beside(neighbour: AsyncOpenAI) -> None:
        async with pool.client() as client:
            assert client is neighbour
            raise asyncio.CancelledError

    async with pool.client() as neighbour:
        with pytest.raises(asyncio.CancelledError):
            await cancelled_beside(neighbour)
        assert not neighbour.is_closed()
        async with pool.client() as fresh:
            assert fresh is not neighbour
    assert neighbour.is_closed()
    assert not fresh.is_closed()
    assert len(opened) == 2


async def test_closes_every_lane() -> None:
    pool, opened = lanes()
    made: list[AsyncOpenAI] = []
    async with AsyncExitStack() as calls:
        made = [await calls.enter_async_context(pool.client()) for _ in range(2 * LANE_CALLS)]
    await pool.aclose()
    assert len(opened) == 2
    assert all(client.is_closed() for client in made)


def test_the_calls_own_time_is_the_only_limit_on_reading() -> None:
    pool, opened = lanes()
    pool._open()  # pyright: ignore[reportPrivateUsage]
    assert opened[0].timeout.read is None
    assert opened[0].timeout.pool is None
    assert opened[0].timeout.connect is not None
