"""Budgets: who is budgeted, what is reserved, and what a run is told that finds nothing left."""

from __future__ import annotations

import pytest
from budget_world import (
    ask,
    budget,
    clock,
    granted,
    reserve,
    think,
    usage,
    usage_usd,
)
from world import World, refused

pytestmark = pytest.mark.usefixtures("balanced")


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


def test_cap_is_a_number(world: World) -> None:
    """Above NaN is nothing, so that a cap of it would be none."""
    with refused("23514"):
        budget(world, max_usd="NaN")
    with refused("23514"):
        world.service(
            "insert into model_prices (model, input_usd, cached_input_usd, output_usd) values ('m', 1, 1, 'NaN') returning model"
        )


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
