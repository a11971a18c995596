"""Budgets: what is charged for a step, for a call that was never answered, and for a run that left without a word."""

from __future__ import annotations

import psycopg
import pytest
from budget_world import (
    ask,
    budget,
    charges,
    clock,
    granted,
    reserve,
    think,
    usage,
    usage_usd,
)
from world import World, call, step

pytestmark = pytest.mark.usefixtures("balanced")


# ---------------------------------------------------------------------------------------------- settling


def test_step_is_charged_as_it_was_and_the_rest_given_back(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000, max_usd=1)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900, min_usd=0.1, max_usd=0.9)
    think(worker, run, 1, 250, 0.125)
    assert usage(world) == (250, 0)
    assert usage_usd(world) == (0.125, 0)
    row = world.run(run["id"])
    assert (row["reserved_in"], row["reserved_tokens"], row["reserved_usd"]) == (None, 0, 0)


def test_step_stopped_by_a_limit_is_charged(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person(), limits={"max_steps": 1})
    reserve(worker, run, 100, 900)
    worker.record(run, steps=[step(1, worker.definition, tokens=100)])
    reserve(worker, run, 100, 900)
    verdict = worker.record(
        run,
        steps=[step(2, worker.definition, tokens=50)],
        calls=[call(2, 0, "look", "read", "running")],
        reserve=ask(1, 500),
    )
    assert (verdict["verdict"], "reserved" in verdict) == ("stop", False)
    assert usage(world) == (150, 0)


def test_entry_that_is_no_step_keeps_what_is_reserved(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900)
    worker.record(run, state={"n": 1}, charge=False)
    assert usage(world) == (0, 900)


def test_end_without_a_call_gives_back(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    for to, more in (
        ("completed", {"result": {}}),
        ("failed", {"error": "MODEL_REFUSED"}),
        ("pending", {"reason": "model_outage"}),
    ):
        run = world.running(worker, world.person())
        reserve(worker, run, 100, 900)
        assert worker.end(run, to, **more)["verdict"] == "ok"
        assert usage(world) == (0, 0), to
        assert charges(world, run["id"]) == []


def test_call_that_was_never_answered_is_charged_as_estimated(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000, max_usd=1)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900, min_usd=0.1, max_usd=0.5)
    worker.record(run, charge=True, transition={"to": "failed", "error": "STEP_TIMEOUT"})
    assert usage(world) == (900, 0)
    assert usage_usd(world) == (0.5, 0)
    assert charges(world, run["id"]) == [{"tokens": 900, "usd": 0.5}]


def test_call_that_was_never_answered_and_the_next_try(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 300)
    assert worker.record(run, charge=True, reserve=ask(100, 300))["reserved"] == granted(300)
    assert usage(world) == (300, 300)


def test_charge_of_a_call_that_was_answered_is_its_step(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900)
    think(worker, run, 1, 200, charge=True)
    worker.record(run, charge=True)
    assert usage(world) == (200, 0)
    assert charges(world, run["id"]) == []


def test_step_is_charged_to_the_period_in_which_it_was_reserved(world: World) -> None:
    clock(world, "2031-01-31T23:59:00Z")
    worker = world.worker()
    budget(world, max_tokens=1000)
    budget(world, period="month", max_tokens=9000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900)
    clock(world, "2031-02-01T00:01:00Z")
    think(worker, run, 1, 200)
    rows = world.sql(
        "select period, period_start::text as day, tokens, reserved_tokens as reserved from agent_usage order by 1, 2"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("day", "2031-01-31", 200, 0),
        ("day", "2031-02-01", 0, 0),
        ("month", "2031-01-01", 200, 0),
        ("month", "2031-02-01", 0, 0),
    ]


def test_budget_holds_over_midnight(world: World) -> None:
    """What was reserved before it does not come on top of what the new day has given away meanwhile."""
    clock(world, "2031-01-31T23:59:00Z")
    worker = world.worker()
    budget(world, max_tokens=1000)
    before, after = world.running(worker, world.person()), world.running(worker, world.person())
    reserve(worker, before, 100, 900)
    clock(world, "2031-02-01T00:00:01Z")
    assert reserve(worker, after, 100, 1000) == granted(1000)
    verdict = think(worker, before, 1, 900, reserve=ask(100, 900))
    assert verdict["reserved"]["detail"]["reason"] == "reserved_by_others"
    think(worker, after, 1, 1000)
    used = world.sql("select period_start::text as day, tokens from agent_usage order by 1")
    assert used == [{"day": "2031-01-31", "tokens": 900}, {"day": "2031-02-01", "tokens": 1000}]


def test_step_is_charged_to_budgets_that_were_made_while_it_was_thought(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, max_tokens=1000)
    run = world.running(worker, user)
    reserve(worker, run, 100, 900)
    budget(world, "user", user, max_tokens=500)
    assert think(worker, run, 1, 450, reserve=ask(10, 100))["reserved"] == granted(50)
    assert (usage(world), usage(world, "user", user)) == ((450, 50), (450, 50))


def test_call_of_the_old_period_that_was_lost_is_charged_to_it(world: World) -> None:
    clock(world, "2031-01-31T23:59:00Z")
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900)
    clock(world, "2031-02-01T00:01:00Z")
    worker.record(run, charge=True, transition={"to": "failed", "error": "STEP_TIMEOUT"})
    assert world.sql("select period_start::text as day, tokens from agent_usage where tokens > 0") == [
        {"day": "2031-01-31", "tokens": 900}
    ]


def test_new_period_begins_with_nothing_used(world: World) -> None:
    clock(world, "2031-01-30T12:00:00Z")
    worker = world.worker()
    budget(world, max_tokens=500)
    run = world.running(worker, world.person())
    think(worker, run, 1, 500)
    assert reserve(worker, run, 1, 100)["granted"] is False
    clock(world, "2031-01-31T00:00:00Z")
    assert reserve(worker, run, 1, 100) == granted(100)


def test_late_step_is_not_charged_twice(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, max_tokens=1000)
    run = world.running(worker, user)
    reserve(worker, run, 100, 900)
    world.user(user, "select agent_cancel(%s)", run["id"])
    worker.release(run)
    assert usage(world) == (900, 0)
    verdict = think(worker, run, 1, 400)
    assert (verdict["verdict"], "budgeted" in verdict) == ("ok", False)
    assert world.run(run["id"])["step_count"] == 1
    assert usage(world) == (900, 0)


# ------------------------------------------------------------------------------------- leaving without a word


def silent_for_a_lease(world: World) -> None:
    """Another worker beats meanwhile, so that the sweep may trust the silence."""
    beating = world.worker()
    for at in (15, 30, 45):
        world.at(at)
        beating.heartbeat()


def test_lost_worker_costs_what_was_reserved(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 600)
    silent_for_a_lease(world)
    assert world.sweep()["requeued"] == 1
    assert usage(world) == (600, 0)
    assert charges(world, run["id"]) == [{"tokens": 600, "usd": 0}]
    other = world.worker()
    (again,) = other.claim()
    assert reserve(other, again, 100, 600) == granted(400)


@pytest.mark.parametrize("how", ["release", "stop", "forgotten"])
def test_run_given_back_without_a_word_is_charged(world: World, how: str) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 600)
    if how == "release":
        worker.release(run)
    elif how == "stop":
        worker.stop(draining=False)
    else:
        worker.heartbeat([])
    assert world.status(run["id"]) == "pending"
    assert usage(world) == (600, 0)
    assert charges(world, run["id"]) == [{"tokens": 600, "usd": 0}]


def test_run_given_back_that_held_nothing_costs_nothing(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    worker.release(run)
    assert world.one("select count(*) from agent_usage") == 0
    assert charges(world, run["id"]) == []


def test_no_reservation_stays_behind(world: World) -> None:
    """Whoever forgets it can not change the state."""
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 600)
    with pytest.raises(psycopg.errors.CheckViolation, match="reserved_only_while_running"):
        world.sql("update agent_executions set status = 'pending' where id = %s", run["id"])


def test_erased_persons_calls_are_charged_to_the_budgets_of_many(world: World) -> None:
    worker, gone, stays = world.worker(), world.person(), world.person()
    budget(world, max_tokens=1000)
    budget(world, "user", gone, max_tokens=1000)
    for user, tokens in ((gone, 200), (gone, 300), (stays, 50)):
        run = world.running(worker, user)
        assert reserve(worker, run, 1, tokens) == granted(tokens)
    world.sql("delete from auth.users where id = %s", gone)
    assert usage(world) == (500, 50)
    assert [row["scope"] for row in world.sql("select scope from agent_usage")] == ["all"]


def test_two_people_erased_at_once(world: World) -> None:
    worker, people = world.worker(), [world.person() for _ in range(2)]
    budget(world, max_tokens=1000)
    for user in people:
        budget(world, "user", user, max_tokens=1000)
        reserve(worker, world.running(worker, user), 1, 100)
    world.sql("delete from auth.users where id = any (%s::uuid[])", people)
    assert usage(world) == (200, 0)
    assert world.one("select count(*) from agent_usage") == 1


def test_run_that_is_deleted_by_hand_is_charged(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 1, 100)
    world.sql("delete from agent_executions where id = %s", run["id"])
    assert usage(world) == (100, 0)


# ------------------------------------------------------------------------------------------ lost answers


def test_repeated_entry_is_told_what_is_held(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000, max_usd=5)
    run = world.running(worker, world.person())
    entry = worker.entry(run, reserve=ask(100, 600, min_usd=1, max_usd=2))
    first = worker.record_all([entry])[0]
    again = worker.record_all([entry])[0]
    assert again["reserved"] == first["reserved"] == granted(600, usd=2)
    assert again["budgeted"] is True
    assert usage(world) == (0, 600)


def test_repeated_entry_that_got_nothing_asks_anew_in_a_moment(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=50)
    run = world.running(worker, world.person())
    entry = worker.entry(run, reserve=ask(100, 600))
    assert worker.record_all([entry])[0]["reserved"]["then"] == "fail"
    again = worker.record_all([entry])[0]["reserved"]
    assert (again["granted"], again["then"], again["delay_ms"]) == (False, "wait", 1000)


def test_repeated_step_is_charged_once(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    entry = worker.entry(run, steps=[step(1, worker.definition, tokens=100)], reserve=ask(1, 200))
    worker.record_all([entry])
    worker.record_all([entry])
    assert usage(world) == (100, 200)


def test_stale_entry_reserves_nothing(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    stale = worker.entry(run, reserve=ask(1, 200))
    worker.release(run)
    (again,) = worker.claim()
    verdict = worker.record_all([stale])[0]
    assert (verdict["verdict"], "reserved" in verdict) == ("fenced", False)
    assert reserve(worker, again, 1, 1000) == granted(1000)
