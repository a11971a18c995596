"""Runs change workers: how soon, how often, and whose fault it was."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import psycopg
import pytest
from town import Town, eventually

LEASE_S = 2
HOLD = "hold_idempotent"


def sql(town: Town, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement as the owner of the tables."""
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return cursor.fetchall() if cursor.description else []


def events(town: Town, run_id: str, kind: str) -> list[tuple[datetime, dict[str, Any]]]:
    """When a run became ``kind``, by the database's clock, oldest first."""
    return sql(
        town,
        "select at, data from agent_events where execution_id = %s and kind = %s order by id",
        run_id,
        kind,
    )  # pyright: ignore[reportReturnType]


async def ready(town: Town, n: int) -> None:
    """Wait until ``n`` workers of this town are at work."""
    await eventually(
        lambda: sum("worker ready" in worker.log for worker in town.workers) >= n, f"{n} workers"
    )


async def test_released_run_goes_on_elsewhere_within_a_second(town: Town) -> None:
    first = town.worker("--grace", "0", lease_s=30)
    user = await town.person()
    run_id = await town.submit(user, ["call", HOLD, {"name": "a"}], ["say", "Done."])
    await town.holding("a")
    town.worker(lease_s=30)
    await ready(town, 2)
    assert await first.terminate() == 0
    town.let_go("a")
    row = await town.until(user, run_id, "completed")
    assert row["attempt"] == 1, "a release is not counted"
    ((requeued, why),) = events(town, run_id, "requeued")
    (_, (claimed, _)) = events(town, run_id, "claimed")
    assert why["reason"] == "shutdown"
    seconds = (claimed - requeued).total_seconds()
    print(f"{seconds:.3f} s from the release to the next claim")
    assert seconds < 5  # a slow machine; 0.0x s usually


async def test_runs_of_a_killed_worker_go_on_on_one_that_lived_all_along(town: Town) -> None:
    first = town.worker("--capacity", "2", lease_s=LEASE_S)
    user = await town.person()
    ids = [await town.submit(user, ["call", HOLD, {"name": name}], ["say", "Done."]) for name in "ab"]
    for name in "ab":
        await town.holding(name)
    second = town.worker(lease_s=LEASE_S)
    await ready(town, 2)
    first.kill()
    for name in "ab":
        town.let_go(name)
    for run_id in ids:
        assert (await town.until(user, run_id, "completed"))["attempt"] == 1  # 2, until its next step
        assert [data["reason"] for _, data in events(town, run_id, "requeued")] == ["worker_lost"]
    assert second.log.count("worker ready") == 1
    assert len({key for kind, key in town.ledger if kind.startswith("key of")}) == 2


async def test_run_that_kills_its_workers_is_ended_and_one_that_gets_on_is_not(town: Town) -> None:
    sql(town, "update agent_types set max_attempts = 2 where name = 'clerk'")
    try:
        for _ in range(5):
            town.worker("--capacity", "1", lease_s=LEASE_S)
        await ready(town, 5)
        user = await town.person()
        deadly = await town.submit(user, ["call", "die", {"name": "always", "times": 99}], ["say", "Never."])
        tough = await town.submit(
            user, *(["call", "die", {"name": f"once-{n}", "times": 1}] for n in range(2)), ["say", "Alive."]
        )
        row = await town.until(user, deadly, "failed")
        assert (row["error"], row["error_detail"]["used"]) == ("WORKER_LOST", 2)
        row = await town.until(user, tough, "completed")
        assert row["result"] == {"text": "Alive."}
        assert len(events(town, tough, "requeued")) == 2
        assert town.ledger.count(["die", "always"]) == 2
    finally:
        sql(town, "update agent_types set max_attempts = null where name = 'clerk'")


async def test_tool_that_blocks_the_event_loop_costs_its_own_worker_the_lease(town: Town) -> None:
    first = town.worker("--capacity", "2", lease_s=LEASE_S)
    user = await town.person()
    beside = await town.submit(user, ["call", HOLD, {"name": "beside"}], ["say", "Done."])
    await town.holding("beside")
    blocking = await town.submit(
        user, ["call", "block", {"name": "block", "seconds": 3.5 * LEASE_S}], ["say", "Done."]
    )
    await town.holding("block")
    second = town.worker(lease_s=LEASE_S)
    await ready(town, 2)
    town.let_go("block")
    town.let_go("beside")
    assert (await town.until(user, beside, "completed"))["error"] is None
    await town.until(user, blocking, "completed")
    await eventually(lambda: first.log.count("worker ready") == 2, "a new registration of the first worker")
    assert "in tool block (clerk.py:" in first.log
    assert "Traceback" not in first.log + second.log
    assert [data["reason"] for _, data in events(town, beside, "requeued")] == ["worker_lost"]


@pytest.mark.parametrize("how", ["by push", "by poll"])
async def test_cancel_reaches_a_running_worker(town: Town, how: str) -> None:
    worker = town.worker(*(["--no-realtime"] if how == "by poll" else []), lease_s=6)
    user = await town.person()
    await ready(town, 1)
    warm = await town.submit(user, ["say", "warm"])
    await town.until(user, warm, "completed")
    run_id = await town.submit(user, ["hang", ["say", "Too late."]])
    await town.holding("model")
    began = time.monotonic()
    await user.rpc("agent_cancel", {"execution_id": run_id, "reason": "enough"}).execute()
    row = await town.until(user, run_id, "cancelled")
    seconds = time.monotonic() - began
    print(f"{seconds:.3f} s until a cancel was obeyed, {how}")
    assert row["error_detail"]["finished"] == []
    assert seconds < 15
    assert "Traceback" not in worker.log
