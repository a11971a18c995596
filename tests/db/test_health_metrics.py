"""agent_health_metrics: one JSON object over what the caller may see."""

from __future__ import annotations

from typing import Any

import pytest
from world import DEFINITION, World, call, question, result, step


@pytest.fixture
def month(world: World) -> tuple[World, str, str]:
    """Two people's runs. The first's: two completed (1 and 3 steps), one failed, one cancelled, one paused, one queued."""
    worker, reviewer = world.worker(lease_ms=600_000), world.reviewer()
    one, two = world.person(), world.person()
    for steps, limits in ((1, None), (3, {"max_steps": 6})):
        run = world.running(worker, one, limits=limits)
        for number in range(1, steps + 1):
            worker.record(
                run,
                steps=[step(number, worker.definition, cost_usd=0.5)],
                calls=[call(number, 0, "look", "read", "succeeded", latency_ms=number * 10)],
                active_ms=1000,
            )
        worker.end(run, "completed", result={})
    run = world.running(worker, one)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "failed", error="x")]
    )
    worker.end(run, "failed", error="TOOL_FAILED")
    world.user(one, "select agent_cancel(%s)", world.submit(one))
    run, (review,) = world.paused(worker, one)
    world.decide(reviewer, review["id"])
    (run,) = worker.claim()
    worker.record(run, starts=[{"step_number": 1, "position": 0}])
    worker.record(
        run,
        results=[result(1, 0, output=1)],
        steps=[step(2, worker.definition)],
        calls=[call(2, 0, "send", "unsafe", "awaiting_review")],
        reviews=[question(2, 0)],
    )
    worker.end(run, "awaiting_review")
    world.submit(one)
    world.submit(two)
    return world, one, two


def health(world: World, user: str, *args: Any) -> dict[str, Any]:
    holes = ", ".join(["%s"] * len(args))
    return world.user(user, f"select agent_health_metrics({holes})", *args)[0]["agent_health_metrics"]


def test_numbers_of_a_seeded_month(month: tuple[World, str, str]) -> None:
    world, one, _ = month
    found = health(world, one)
    assert found["runs"] == 6
    assert found["runs_by_status"] == {
        "completed": 2,
        "failed": 1,
        "cancelled": 1,
        "awaiting_review": 1,
        "pending": 1,
    }
    assert found["completion_rate"] == 0.5
    assert found["failures_by_code"] == {"TOOL_FAILED": 1}
    # 1 of 25 steps, 3 of 6
    assert found["steps"] == {"avg": 2.0, "p50": 2.0, "p95": 2.9, "efficiency": 0.27}
    tools = found["tools"]
    # what the paused run called counts once it has ended
    assert (tools["calls"], tools["success_rate"]) == (5, round(4 / 5, 4))
    assert tools["by_tool"]["look"] == {
        "calls": 4,
        "success_rate": 1.0,
        "latency_ms_p50": 15,
        "latency_ms_p95": pytest.approx(28.5),
    }
    assert tools["by_tool"]["save"]["success_rate"] == 0.0
    assert found["reviews"] == {
        "rate": 0.0,
        "by_outcome": {"pending": 1},
        "wait_ms_p50": None,
        "wait_ms_p95": None,
    }
    assert found["cost"]["tokens"] == 50
    assert found["cost"]["usd"] == 2.0
    assert (found["cost"]["tokens_per_completion"], found["cost"]["usd_per_completion"]) == (25.0, 1.0)
    assert (found["time_ms"]["active_p50"], found["time_ms"]["active_p95"]) == pytest.approx(
        (500, 2700), rel=0.05
    )
    queue = found["queue"]
    assert (queue["depth"], queue["awaiting_review"], queue["stuck"]) == (1, 1, 0)
    assert queue["oldest_pending_s"] >= 0


def test_reviews_count_once_their_run_has_ended(month: tuple[World, str, str]) -> None:
    world, one, _ = month
    (review,) = world.sql("select * from agent_reviews where status = 'pending'")
    world.decide(world.reviewer(), review["id"], "rejected")
    world.user(one, "select agent_cancel(%s)", review["execution_id"])
    found = health(world, one)
    assert found["reviews"]["rate"] == 0.2
    assert found["reviews"]["by_outcome"] == {"approved": 1, "rejected": 1}
    assert found["reviews"]["wait_ms_p50"] >= 0
    assert found["tools"]["by_tool"]["send"] == {
        "calls": 2,
        "success_rate": 1.0,
        "latency_ms_p50": 1,
        "latency_ms_p95": 1,
    }


def test_everybody_gets_the_numbers_of_what_they_may_see(month: tuple[World, str, str]) -> None:
    world, _, two = month
    assert health(world, two)["runs"] == 1
    assert health(world, world.person())["runs"] == 0
    assert health(world, world.reviewer())["runs"] == 0
    assert world.service("select agent_health_metrics()")["runs"] == 7


def test_nothing_is_no_division_by_zero(world: World) -> None:
    found = health(world, world.person())
    assert (found["completion_rate"], found["steps"]["avg"], found["tools"]["success_rate"]) == (
        None,
        None,
        None,
    )
    assert (found["cost"]["tokens"], found["cost"]["usd_per_completion"]) == (0, None)
    assert (found["runs_by_status"], found["failures_by_code"], found["tools"]["by_tool"]) == ({}, {}, {})
    assert found["queue"] == {
        "depth": 0,
        "oldest_pending_s": None,
        "awaiting_review": 0,
        "stuck": 0,
        "waiting": {},
    }


def test_one_type_and_one_span(world: World) -> None:
    worker = world.worker(DEFINITION, {**DEFINITION, "agent_type": "reader"})
    user = world.person()
    world.submit(user)
    world.submit(user, "reader")
    assert worker.claim()
    assert health(world, user, "reader")["runs_by_status"] == {"running": 1}
    assert health(world, user, "nobody")["runs"] == 0
    assert health(world, user, None, "2020-01-01", "2021-01-01")["runs"] == 0
    assert health(world, user, None, "2020-01-01", "2021-01-01")["queue"]["depth"] == 0


def test_runs_that_nothing_will_wake_are_stuck(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.paused(worker, user)
    world.sql("delete from agent_reviews")
    world.running(worker, user)
    world.sql("update agent_executions set updated_at = now() - interval '1 h' where status = 'running'")
    assert health(world, user)["queue"]["stuck"] == 2
