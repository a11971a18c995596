"""No part of the worker ends unnoticed."""

from __future__ import annotations

import asyncio

import pytest

from runhold.runtime.side_tasks import SideTaskDied, SideTasks


async def test_an_error_of_a_side_task_is_told_with_its_name_and_cause() -> None:
    side = SideTasks()

    async def broken() -> None:
        raise ValueError("odd")

    side.start("sweeper", broken())
    side.start("other", asyncio.Event().wait())
    with pytest.raises(SideTaskDied, match=r"sweeper stopped \(ValueError: odd\)") as caught:
        await asyncio.wait_for(side.one_died(), 1)
    assert isinstance(caught.value.__cause__, ValueError)
    await side.stop()


async def test_a_side_task_that_just_returns_is_missed_too() -> None:
    side = SideTasks()
    side.start("writer", asyncio.sleep(0))
    with pytest.raises(SideTaskDied, match="writer"):
        await asyncio.wait_for(side.one_died(), 1)
    await side.stop()


async def test_stopping_them_is_no_death() -> None:
    side = SideTasks()
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    side.start("a", work("a"))
    side.start("b", work("b"))
    await asyncio.sleep(0)
    await side.stop("a")
    assert ended == ["a"]
    await side.stop()
    assert ended == ["a", "b"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(side.one_died(), 0.01)
