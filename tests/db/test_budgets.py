"""Budgets: who is budgeted, what is reserved, what is charged, and what becomes of a run that finds nothing left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from budget_world import (
    ask,
    assert_balanced,
    budget,
    charges,
    clock,
    reserve,
    think,
    usage,
    usage_usd,
)
from world import DEFINITION, Row, Worker, World, call, refused, step


@pytest.fixture(autouse=True)
def balanced(world: World) -> Iterator[None]:
    """After each story, what is reserved is what running runs hold."""
    yield
    assert_balanced(world)


def granted(tokens: int, **usd: Any) -> Row:
    return {"granted": True, "tokens": tokens, **usd}


# --------------------------------------------------------------------------------------- who is budgeted


@pytest.mark.parametrize("scope", ["all", "type", "user", "tenant"])
def test_run_is_budgeted_if_a_budget_matches(world: World, scope: str) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    key = {"all": "", "type": "writer", "user": user, "tenant": "acme"}[scope]
    budget(world, scope, key, max_tokens=1000)
    world.user(
        user,
        "insert into agent_executions (agent_type, input_data) values ('writer', '{}')",
        app_metadata={"tenant_id": "acme"},
    )
    (run,) = worker.claim()
    assert run["budgeted"] is True
    log = world.service("select agent_worker_log(%s, %s, %s)", worker.id, run["id"], run["fence"])
    assert log["budgeted"] is True
    assert reserve(worker, run, 10, 100) == granted(100)
    assert usage(world, scope, key) == (0, 100)


@pytest.mark.parametrize(("scope", "key"), [("type", "reader"), ("user", "stranger"), ("tenant", "other")])
def test_run_is_not_budgeted_by_the_budgets_of_others(world: World, scope: str, key: str) -> None:
    worker, user, stranger = world.worker(), world.person(), world.person()
    budget(world, scope, stranger if scope == "user" else key, max_tokens=1)
    run = world.running(worker, user)
    assert "budgeted" not in run
    verdict = think(worker, run, 1, 500)
    assert verdict["verdict"] == "ok"
    assert "budgeted" not in verdict
    assert world.one("select count(*) from agent_usage") == 0


def test_without_any_budget_nothing_is_counted(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    verdict = think(worker, run, 1, 500)
    assert not {"budgeted", "reserved"} & set(verdict)
    assert world.one("select count(*) from agent_usage") == 0


def test_budget_made_while_a_run_goes_on_takes_hold_at_its_next_record(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    think(worker, run, 1, 500)
    budget(world, max_tokens=1000)
    assert worker.record(run, state={"n": 1})["budgeted"] is True
    assert think(worker, run, 2, 300)["budgeted"] is True
    assert usage(world) == (300, 0), "what was spent before it was made is not counted"


def test_budget_that_is_taken_away_is_none(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    assert reserve(worker, run, 10, 100) == granted(100)
    world.sql("delete from agent_budgets")
    verdict = think(worker, run, 1, 70)
    assert "budgeted" not in verdict
    assert usage(world) == (0, 0), "given back, and nothing counts any more"
    # a worker that has not read this yet
    assert reserve(worker, run, 10, 100) == granted(100)
    assert world.run(run["id"])["reserved_in"] is None


def test_user_of_a_budget_is_written_as_ids_are(world: World) -> None:
    user = world.person()
    with refused("23514"):
        budget(world, "user", user.upper(), max_tokens=1)


# --------------------------------------------------------------------------------------------- reserving


def test_all_that_is_asked_is_reserved_while_there_is_room(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000, max_usd=1)
    one, two = (world.running(worker, world.person()) for _ in range(2))
    assert reserve(worker, one, 100, 600, min_usd=0.1, max_usd=0.5) == granted(600, usd=0.5)
    assert reserve(worker, two, 100, 400, min_usd=0.1, max_usd=0.25) == granted(400, usd=0.25)
    assert usage(world) == (0, 1000)
    assert usage_usd(world) == (0, 0.75)


def test_rest_of_a_budget_goes_to_one_run_that_is_alone(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    one, two = (world.running(worker, world.person()) for _ in range(2))
    think(worker, one, 1, 700)
    assert reserve(worker, one, 100, 600) == granted(300)
    second = reserve(worker, two, 100, 600)
    assert (second["granted"], second["then"], second["detail"]["reason"]) == (
        False,
        "wait",
        "reserved_by_others",
    )
    assert 5_000 <= second["delay_ms"] <= 15_000
    assert usage(world) == (700, 300)


def test_rest_is_not_shared_with_a_run_that_holds_something(world: World) -> None:
    """Else both would be cut short where one could finish."""
    worker = world.worker()
    budget(world, max_tokens=1000)
    one, two = (world.running(worker, world.person()) for _ in range(2))
    assert reserve(worker, one, 100, 600) == granted(600)
    assert reserve(worker, two, 100, 600)["detail"]["reason"] == "reserved_by_others"
    worker.end(one, "completed", result={})
    assert reserve(worker, two, 100, 600) == granted(600)


def test_own_reservation_is_given_back_before_anew(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    assert reserve(worker, run, 100, 900) == granted(900)
    assert reserve(worker, run, 100, 1000) == granted(1000)
    assert usage(world) == (0, 1000)


def test_step_and_the_next_reservation_are_one_entry(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    reserve(worker, run, 100, 900)
    verdict = think(worker, run, 1, 400, reserve=ask(100, 800))
    assert verdict["reserved"] == granted(600)
    assert usage(world) == (400, 600)
    row = world.run(run["id"])
    assert (row["reserved_tokens"], row["reserved_in"]) == (600, [world.one("select id from agent_usage")])


def test_every_cap_must_grant_and_the_least_counts(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, "user", user, max_tokens=300)
    budget(world, "type", "writer", period="month", max_usd=2)
    budget(world, max_tokens=5000, max_usd=0.5)
    run = world.running(worker, user)
    assert reserve(worker, run, 100, 1000, min_usd=0.1, max_usd=1) == granted(300, usd=0.5)
    for scope, key, period in (("user", user, "day"), ("type", "writer", "month"), ("all", "", "day")):
        assert usage(world, scope, key, period) == (0, 300), "the same in all of them"


def test_none_is_reserved_where_one_refuses(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, "user", user, max_tokens=50)
    budget(world, max_tokens=5000)
    run = world.running(worker, user)
    assert reserve(worker, run, 100, 1000)["granted"] is False
    assert usage(world) == (0, 0)
    assert world.run(run["id"])["reserved_in"] is None


def test_runs_of_one_flush_leave_less_to_each_other(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    runs = [world.running(worker, world.person()) for _ in range(3)]
    verdicts = worker.record_all([worker.entry(run, reserve=ask(100, 450)) for run in runs])
    assert [v["reserved"]["granted"] for v in verdicts] == [True, True, False]
    assert usage(world) == (0, 900)


def test_reserve_of_nonsense_is_refused(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    for nonsense in (
        {},
        ask(100, 50),
        ask(0, 50),
        {"min_tokens": 1},
        ask(1, 2, max_usd=1),
        ask(1, 2, min_usd=2, max_usd=1),
    ):
        with refused("RH013", says="reserve needs"):
            worker.record(run, seq=1, reserve=nonsense)


# ---------------------------------------------------------------------------------------------- exceeded


def test_owner_sees_the_numbers_of_their_own_budget(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, "user", user, max_tokens=500)
    run = world.running(worker, user)
    think(worker, run, 1, 450)
    assert reserve(worker, run, 100, 1000) == {
        "granted": False,
        "then": "fail",
        "detail": {
            "limit": "budget",
            "reason": "exceeded",
            "scope": "user",
            "period": "day",
            "step": 1,
            "unit": "tokens",
            "asked": 100,
            "allowed": 500,
            "used": 450,
        },
    }


@pytest.mark.parametrize(("scope", "key"), [("all", ""), ("type", "writer")])
def test_owner_does_not_see_what_is_left_of_a_budget_of_many(world: World, scope: str, key: str) -> None:
    worker = world.worker()
    budget(world, scope, key, max_usd=1)
    run = world.running(worker, world.person())
    think(worker, run, 1, 10, 0.95)
    refusal = reserve(worker, run, 100, 1000, min_usd=0.1, max_usd=1)
    assert refusal["detail"] == {
        "limit": "budget",
        "reason": "exceeded",
        "scope": scope,
        "period": "day",
        "step": 1,
        "unit": "usd",
        "asked": 0.1,
    }


def test_exceeded_comes_before_reserved_by_others(world: World) -> None:
    worker, user = world.worker(), world.person()
    budget(world, "user", user, max_tokens=50)
    budget(world, max_tokens=1000)
    other = world.running(worker, world.person())
    reserve(worker, other, 100, 1000)
    assert reserve(worker, world.running(worker, user), 100, 500)["detail"]["reason"] == "exceeded"


def test_type_may_let_its_runs_wait_for_the_next_period(world: World) -> None:
    clock(world, "2031-01-31T22:00:00Z")
    worker = world.worker()
    world.configure(on_budget="wait")
    budget(world, max_tokens=50)
    refusal = reserve(worker, world.running(worker, world.person()), 100, 1000)
    assert refusal["then"] == "wait"
    assert 7_200_000 <= refusal["delay_ms"] <= 7_260_000


def test_of_several_that_are_exceeded_the_longest_is_waited_for(world: World) -> None:
    clock(world, "2031-01-30T22:00:00Z")
    worker = world.worker()
    world.configure(on_budget="wait")
    budget(world, max_tokens=50)
    budget(world, period="month", max_tokens=50)
    refusal = reserve(worker, world.running(worker, world.person()), 100, 1000)
    assert refusal["detail"]["period"] == "month"
    assert 26 * 3_600_000 <= refusal["delay_ms"] <= 26 * 3_600_000 + 60_000


@pytest.mark.parametrize("on_budget", ["fail", "wait"])
def test_cap_of_money_refuses_a_model_without_a_price(world: World, on_budget: str) -> None:
    worker = world.worker()
    world.configure(on_budget=on_budget)
    budget(world, max_usd=100)
    refusal = reserve(worker, world.running(worker, world.person()), 100, 1000)
    assert (refusal["then"], refusal["detail"]["reason"]) == ("fail", "no_price")


def test_cap_of_tokens_needs_no_price(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    assert reserve(worker, world.running(worker, world.person()), 100, 1000) == granted(1000)


def test_cap_below_what_was_used_is_exceeded(world: World) -> None:
    worker = world.worker()
    budget(world, max_tokens=1000)
    run = world.running(worker, world.person())
    think(worker, run, 1, 800)
    world.service("update agent_budgets set max_tokens = 500 returning id")
    assert reserve(worker, run, 1, 10)["detail"]["reason"] == "exceeded"


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


def test_step_is_charged_to_the_period_of_its_record(world: World) -> None:
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
        ("day", "2031-01-31", 0, 0),
        ("day", "2031-02-01", 200, 0),
        ("month", "2031-01-01", 0, 0),
        ("month", "2031-02-01", 200, 0),
    ]


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
