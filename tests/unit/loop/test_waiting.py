"""Waiting for the first of a few futures."""

from __future__ import annotations

import asyncio

import pytest

from runhold.loop.waiting import until_any


async def test_the_first_future_ends_it_and_the_others_are_left_alone() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    loop.call_soon(first.set_result, None)
    await until_any((second, first), 600)
    assert first.done()
    assert not second.done()
    second.cancel()


async def test_time_ends_it() -> None:
    future = asyncio.get_running_loop().create_future()
    await until_any((future,), 0)
    assert not future.done()


async def test_a_task_that_was_just_made_has_begun_even_if_another_future_is_done() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    task = asyncio.create_task(work())
    await until_any((task, done), 600)
    assert begun.is_set()
    assert not task.done()
    task.cancel()


async def test_whoever_waits_can_be_cancelled_and_the_future_goes_on() -> None:
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(until_any((future,)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not future.cancelled()
    future.set_result(None)
