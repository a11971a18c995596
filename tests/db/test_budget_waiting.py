"""Budgets: runs that wait for the next period, or for an operator."""

from __future__ import annotations

import pytest
from budget_world import (
    budget,
    clock,
    reserve,
    think,
)
from world import DEFINITION, Row, Worker, World

pytestmark = pytest.mark.usefixtures("balanced")


# ----------------------------------------------------------------------------------------------- waiting


def waiting(world: World, worker: Worker, user: str) -> Row:
    """A run that found its budget used up, and waits for the end of the day as its type says."""
    run = world.running(worker, user)
    refusal = reserve(worker, run, 100, 1000)
    assert refusal["then"] == "wait"
    worker.end(
        run,
        "pending",
        reason="budget",
        delay_ms=refusal["delay_ms"],
        detail={"waiting_for": "budget", **refusal["detail"]},
    )
    return run


@pytest.fixture
def used_up(world: World) -> World:
    """Noon; the writers' budget of the day is used up, and they wait."""
    clock(world, "2031-01-15T12:00:00Z")
    worker = world.worker()
    world.configure(on_budget="wait")
    budget(world, "type", "writer", max_tokens=500)
    run = world.running(worker, world.person())
    think(worker, run, 1, 450)
    worker.end(run, "completed", result={})
    return world


def test_owner_sees_why_a_run_waits_until_it_is_claimed(used_up: World) -> None:
    worker, user = used_up.worker(), used_up.person()
    run = waiting(used_up, worker, user)
    (seen,) = used_up.user(user, "select status, error_detail, attempt from agent_executions")
    assert seen["status"] == "pending"
    assert seen["attempt"] == 0, "waiting is no attempt"
    assert seen["error_detail"] == {
        "waiting_for": "budget",
        "limit": "budget",
        "reason": "exceeded",
        "scope": "type",
        "period": "day",
        "step": 0,
        "unit": "tokens",
        "asked": 100,
    }
    assert worker.claim() == []
    clock(used_up, "2031-01-16T00:02:00Z")
    worker = used_up.worker()
    assert [again["id"] for again in worker.claim()] == [run["id"]]
    assert used_up.run(run["id"])["error_detail"] is None


def seconds_to_wake(world: World, run: Row) -> float:
    return world.one(
        "select extract(epoch from wake_at - runhold.now())::float from agent_executions where id = %s",
        run["id"],
    )


@pytest.mark.parametrize(
    "change",
    [
        "update agent_budgets set max_tokens = 1000 returning id",
        "delete from agent_budgets returning id",
        "update agent_budgets set max_tokens = null, max_usd = 5 returning id",
    ],
)
def test_wider_budget_wakes_who_waits_for_it(used_up: World, change: str) -> None:
    run = waiting(used_up, used_up.worker(), used_up.person())
    assert seconds_to_wake(used_up, run) > 10_000
    used_up.service(change)
    assert 0 <= seconds_to_wake(used_up, run) <= 5


@pytest.mark.parametrize(
    "change",
    [
        "update agent_budgets set max_tokens = 540 returning id",
        "update agent_budgets set max_tokens = 1 returning id",
        "insert into agent_budgets (scope, period, max_tokens) values ('all', 'day', 1000000) returning id",
    ],
)
def test_budget_that_is_still_too_small_wakes_nobody(used_up: World, change: str) -> None:
    """Ten thousand waiting runs would all be claimed and put back."""
    run = waiting(used_up, used_up.worker(), used_up.person())
    used_up.service(change)
    assert seconds_to_wake(used_up, run) > 10_000


def test_other_waiting_runs_are_not_woken(used_up: World) -> None:
    later = used_up.submit(used_up.person(), wake_at="2031-01-20T00:00:00Z")
    used_up.service("delete from agent_budgets returning id")
    assert used_up.run(later)["wake_at"].day == 20


def test_sweep_wakes_whom_the_change_missed(used_up: World) -> None:
    """The run was put to sleep at the very moment at which an operator changed the budget."""
    run = waiting(used_up, used_up.worker(), used_up.person())
    used_up.sql("alter table agent_budgets disable trigger after_budgets_change")
    used_up.sql("update agent_budgets set max_tokens = 1000")
    used_up.sql("alter table agent_budgets enable trigger after_budgets_change")
    assert used_up.sweep()["repaired"] == 1
    assert 0 <= seconds_to_wake(used_up, run) <= 5
    assert used_up.sweep()["repaired"] == 0


def test_sweep_wakes_whose_type_waits_no_more(used_up: World) -> None:
    """They find their budget used up still, and fail."""
    worker = used_up.worker()
    run = waiting(used_up, worker, used_up.person())
    assert used_up.sweep()["repaired"] == 0
    used_up.configure(on_budget="fail")
    assert used_up.sweep()["repaired"] == 1
    clock(used_up, "2031-01-15T12:00:06Z")
    (claimed,) = worker.claim()
    assert claimed["id"] == run["id"]
    assert reserve(worker, claimed, 100, 1000)["then"] == "fail"


def test_workers_are_told_that_runs_were_woken(used_up: World) -> None:
    waiting(used_up, used_up.worker(), used_up.person())
    used_up.sql("delete from realtime.messages")
    used_up.sql("select setval('runhold.last_wake', 0)")
    used_up.service("delete from agent_budgets returning id")
    assert used_up.one("select count(*) from realtime.messages where topic = 'runhold:workers'") == 1


def test_budget_exceeded_is_how_a_run_fails(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, max_tokens=50)
    run = world.running(worker, user)
    refusal = reserve(worker, run, 100, 1000)
    worker.end(run, "failed", error="BUDGET_EXCEEDED", detail=refusal["detail"])
    (seen,) = world.user(user, "select error, error_detail from agent_executions")
    assert seen["error"] == "BUDGET_EXCEEDED"
    assert seen["error_detail"]["scope"] == "all"


def test_definition_has_no_say_in_what_an_operator_sets(world: World) -> None:
    """Registering again leaves on_budget as it is."""
    world.worker()
    world.configure(on_budget="wait")
    world.worker({**DEFINITION, "version": "2"})
    assert world.one("select on_budget from agent_types") == "wait"
