"""agent_retry: a failed run goes on where it ended, and nothing unsafe starts without a person."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from test_state_machine import a_run_that_is
from world import DEFINITION, Row, Worker, World, call, question, refused, result, step

LIMITS = {
    "MAX_STEPS_EXCEEDED": ("max_steps", 2, {}),
    "MAX_TOKENS_EXCEEDED": ("max_tokens", 20, {}),
    "MAX_COST_EXCEEDED": ("max_cost_usd", 0.5, {"cost_usd": 0.25}),
    "MAX_TOOL_CALLS_EXCEEDED": ("max_tool_calls", 2, {}),
    "TOTAL_TIMEOUT": ("total_timeout_s", 2, {}),
}


def retry(world: World, user: str, run_id: str, limits: Any = None) -> Row:
    given = None if limits is None else Jsonb(limits)
    return world.user(user, "select agent_retry(%s, %s)", run_id, given)[0]["agent_retry"]


def failed(world: World, worker: Worker, user: str, error: str = "MODEL_ERROR", **columns: Any) -> str:
    run = world.running(worker, user, **columns)
    assert worker.end(run, "failed", error=error)["verdict"] == "ok"
    return run["id"]


def used_up(world: World, worker: Worker, user: str, error: str) -> str:
    """A run that used up a limit of its own, in two steps of 10 tokens, a call and a second each."""
    limit, allowed, more = LIMITS[error]
    run = world.running(worker, user, limits={limit: allowed})
    for number in (1, 2):
        worker.record(
            run,
            steps=[step(number, worker.definition, **more)],
            calls=[call(number, 0, "look", "read", "succeeded")],
            active_ms=1000,
        )
    worker.end(run, "failed", error=error)
    return run["id"]


def test_failed_run_goes_on_as_if_nothing_had_been(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "succeeded")])
    worker.end(run, "pending", reason="model_outage")
    (run,) = worker.claim()
    worker.end(run, "failed", error="MODEL_ERROR", detail={"message": "down"})
    answer = retry(world, user, run["id"])
    row = world.run(run["id"])
    assert (answer["id"], answer["status"]) == (run["id"], "pending")
    for column in (
        "error",
        "error_detail",
        "completed_at",
        "cancel_requested_at",
        "outage_since",
        "result",
        "wake_at",
    ):
        assert row[column] is None, column
    assert row["attempt"] == 0
    (again,) = worker.claim()
    assert again["resumed_after_step"] == 1
    assert (again["attempt"], again["fence"], again["outage_since"]) == (1, run["fence"] + 1, None)
    assert [s["step_number"] for s in again["steps"]] == [1]
    assert [c["status"] for c in again["calls"]] == ["succeeded"]
    assert worker.end(again, "completed", result=1)["verdict"] == "ok"


def test_event_says_who_retried_and_with_which_limits(world: World) -> None:
    worker, user, operator = world.worker(), world.person(), world.reviewer(role="operator")
    run_id = failed(world, worker, user, limits={"max_tokens": 100})
    retry(world, operator, run_id, {"max_steps": 5})
    (event,) = world.sql("select * from agent_events where kind = 'retried'")
    assert (event["actor_kind"], str(event["actor_id"])) == ("reviewer", operator)
    assert event["data"] == {"limits": {"max_steps": 5, "max_tokens": 100}}  # put over the run's own


@pytest.mark.parametrize("state", ["pending", "running", "completed", "cancelled", "awaiting_review"])
def test_only_a_failed_run_can_be_retried(world: World, state: str) -> None:
    run_id = a_run_that_is(world, world.worker(), state)
    hint = "agent_fork" if state in ("completed", "cancelled") else "under way"
    with refused("RH018", says=f"this one is {state}.", hint=hint):
        retry(world, str(world.run(run_id)["user_id"]), run_id)
    assert world.status(run_id) == state


def test_second_click_is_told_that_the_run_is_under_way(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run_id = failed(world, worker, user)
    with over.acting("authenticated", user) as cursor:
        cursor.execute("select agent_retry(%s)", (run_id,))
        second = world.background(lambda: retry(world, user, run_id))
        assert second.waits()
    with refused("RH018", says="pending"):
        second.result()
    assert world.events(run_id).count("retried") == 1


def test_cancel_that_lost_the_race_does_not_outlive_the_retry(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = failed(world, worker, user)
    world.sql("update agent_executions set cancel_requested_at = now() where id = %s", run_id)
    retry(world, user, run_id)
    (run,) = worker.claim()
    assert run["cancel_requested"] is False


def test_strangers_learn_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = failed(world, worker, user)
    for nobody in (world.person(), world.reviewer(), world.reviewer(role="operator", agent_type="reader")):
        with refused("RH006", says="There is no such run, or it is not yours."):
            retry(world, nobody, run_id)
    with refused("42501"):
        world.anon("select agent_retry(%s)", run_id)
    assert world.status(run_id) == "failed"


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", LIMITS)
def test_limit_that_is_used_up_must_be_widened(world: World, error: str) -> None:
    worker, user = (
        world.worker({**DEFINITION, "limits": {**DEFINITION["limits"], "max_cost_usd": 9}}),
        world.person(),
    )
    run_id = used_up(world, worker, user, error)
    limit, allowed, _ = LIMITS[error]
    for limits in (None, {limit: allowed}):
        with refused(
            "RH019",
            says=f"{limit} is used up ({allowed} of {allowed})",
            hint=f'{{"{limit}": …}} above {allowed}',
        ):
            retry(world, user, run_id, limits)
    retry(world, user, run_id, {limit: allowed + 1})
    (run,) = worker.claim()
    assert run["limits"][limit] == allowed + 1
    assert run["limits"]["step_timeout_s"] == 30


def test_what_was_too_little_for_one_more_call_is_too_little_still(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"max_tokens": 30})
    worker.record(run, steps=[step(1, worker.definition, tokens=25)])
    worker.end(
        run, "failed", error="MAX_TOKENS_EXCEEDED", detail={"limit": "max_tokens", "allowed": 30, "used": 25}
    )
    with refused("RH019", says="max_tokens is used up (25 of 30)"):
        retry(world, user, run["id"])
    retry(world, user, run["id"], {"max_tokens": 31})


def test_limit_that_operators_widened_meanwhile_is_wide_enough(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(limits={"max_steps": 1})
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)])
    worker.end(
        run, "failed", error="MAX_STEPS_EXCEEDED", detail={"limit": "max_steps", "allowed": 1, "used": 1}
    )
    with refused("RH019"):
        retry(world, user, run["id"])
    world.configure(limits={"max_steps": 3})
    assert retry(world, user, run["id"])["status"] == "pending"


def test_owner_stays_within_the_types_limits(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(limits={"max_steps": 25})
    run_id = failed(world, worker, user)
    with refused("RH004", says="The limit max_steps of 26 is wider than agent type writer allows (25)."):
        retry(world, user, run_id, {"max_steps": 26})
    for limits in ([1], {"max_stepz": 1}, {"max_steps": "9"}, {"max_steps": 0}):
        with refused("RH004"):
            retry(world, user, run_id, limits)
    assert retry(world, user, run_id, {"max_steps": 25})["limits"] == {"max_steps": 25}


@pytest.mark.parametrize("who", ["operator", "service"])
def test_operators_go_beyond_the_types_limits_for_this_run_alone(world: World, who: str) -> None:
    worker, user = world.worker(), world.person()
    run_id = failed(world, worker, user, limits={"max_tokens": 100})
    widened = {"max_steps": 50, "max_tokens": 50_000}
    if who == "operator":
        retry(world, world.reviewer(role="operator"), run_id, widened)
    else:
        world.service("select agent_retry(%s, %s)", run_id, Jsonb(widened))
    (run,) = worker.claim()
    assert (run["limits"]["max_steps"], run["limits"]["max_tokens"]) == (50, 50_000)
    assert world.run(run_id)["allowance"] == {"max_steps": 50}  # the rest is the type's, and stays so
    other = world.submit(user)
    (unwidened,) = worker.claim()
    assert (unwidened["id"], unwidened["limits"]["max_steps"]) == (other, 25)
    worker.record(run, steps=[step(n, worker.definition, tokens=1) for n in range(1, 27)])
    assert worker.record(run, starts=[], calls=[call(26, 0, "look", "read", "running")])["verdict"] == "ok"
    worker.end(run, "failed", error="MODEL_ERROR")
    with refused("RH004"):  # the owner may repeat what the operator allowed, and no more
        retry(world, user, run_id, {"max_steps": 51})
    assert retry(world, user, run_id, {"max_steps": 50})["limits"]["max_steps"] == 50


# -- calls that the end left open -----------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["read", "idempotent"])
@pytest.mark.parametrize("told", [True, False], ids=["told by its worker", "its worker was lost"])
def test_call_that_the_end_cut_off_runs_again_under_its_number(world: World, effect: str, told: bool) -> None:
    worker, user = world.worker({**DEFINITION, "max_attempts": 1}), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[
            call(1, 0, "save", effect, "running"),
            call(1, 1, "save", effect, "failed", error="no such file"),
        ],
    )
    if told:
        worker.end(run, "failed", error="TOTAL_TIMEOUT", detail={"limit": "total_timeout_s"})
    else:
        worker.heartbeat([])
    assert world.status(run["id"]) == "failed"
    cut_off, own = world.calls(run["id"])
    assert (cut_off["status"], cut_off["cut_off"], own["cut_off"]) == ("failed", "running", None)

    retry(world, user, run["id"])
    (again,) = worker.claim()
    assert [(c["status"], c["error"]) for c in again["calls"]] == [
        ("pending", None),
        ("failed", "no such file"),
    ]
    verdict = worker.record(again, starts=[{"step_number": 1, "position": 0}])
    assert (verdict["started"][0]["taken"], verdict["started"][0]["attempt"]) == (True, 2)
    worker.record(again, results=[result(1, 0)])
    assert [c["status"] for c in world.calls(run["id"])] == ["succeeded", "failed"]


def test_unsafe_call_that_the_end_cut_off_waits_for_a_person(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    assert world.open_reviews(run["id"]) == []
    retry(world, user, run["id"])
    (review,) = world.open_reviews(run["id"])
    assert review["kind"] == "unknown_outcome"

    (again,) = worker.claim()
    assert again["calls"][0]["status"] == "unknown"
    assert worker.record(again, starts=[{"step_number": 1, "position": 0}])["started"][0]["taken"] is False
    assert worker.end(again, "awaiting_review")["verdict"] == "ok"
    assert world.status(run["id"]) == "awaiting_review"
    world.decide(reviewer, review["id"], answer={"outcome": "happened", "result": 7})
    (again,) = worker.claim()
    assert (again["calls"][0]["status"], again["calls"][0]["output"]) == ("succeeded", 7)


@pytest.mark.parametrize("how", ["stopped", "expired"])
def test_unknown_call_that_ended_the_run_is_asked_about_again(world: World, how: str) -> None:
    worker, user, reviewer = world.worker(lease_ms=600_000), world.person(), world.reviewer()
    run_id, review = world.unknown(worker, user)
    if how == "stopped":
        world.decide(reviewer, review["id"], "rejected")
    else:
        world.at(3700)
        world.sweep()
    assert world.run(run_id)["error"] == ("STOPPED_BY_REVIEWER" if how == "stopped" else "REVIEW_EXPIRED")
    retry(world, user, run_id)
    (asked,) = world.open_reviews(run_id)
    assert (asked["kind"], asked["id"] != review["id"]) == ("unknown_outcome", True)

    worker.heartbeat()
    # whoever answers before a worker comes is heard as well, and so is a worker that dies before it pauses
    (run,) = worker.claim()
    worker.release(run)
    assert world.status(run_id) == "awaiting_review"
    world.decide(reviewer, asked["id"], answer={"outcome": "again"})
    (run,) = worker.claim()
    assert worker.record(run, starts=[{"step_number": 1, "position": 0}])["started"][0]["taken"] is True


def test_stop_that_comes_before_a_worker_ends_the_run_again(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run_id, review = world.unknown(worker, user)
    world.decide(reviewer, review["id"], "rejected")
    retry(world, user, run_id)
    world.decide(reviewer, world.open_reviews(run_id)[0]["id"], "rejected")
    (run,) = worker.claim()
    worker.release(run)
    assert (world.status(run_id), world.run(run_id)["error"]) == ("failed", "STOPPED_BY_REVIEWER")


def test_question_that_the_end_closed_is_put_again(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, i, "send", "unsafe", "awaiting_review") for i in range(4)],
        reviews=[question(1, 0), question(1, 1, "question", "Which one?"), question(1, 2), question(1, 3)],
    )
    reviews = world.open_reviews(run["id"])
    world.decide(reviewer, reviews[2]["id"])
    world.decide(reviewer, reviews[3]["id"], "rejected", comment="No.")
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    assert {c["status"] for c in world.calls(run["id"])} == {"rejected"}

    retry(world, user, run["id"])
    calls = world.calls(run["id"])
    assert [c["status"] for c in calls] == ["awaiting_review"] * 3 + ["rejected"]
    assert calls[3]["error"] == "No."
    asked = world.open_reviews(run["id"])
    assert [(r["kind"], r["summary"]) for r in asked] == [("approval", "May it?"), ("question", "Which one?")]
    # the approval that nobody used holds still
    (again,) = worker.claim()
    starts = [{"step_number": 1, "position": i} for i in range(4)]
    started = worker.record(again, starts=starts)["started"]
    assert [s["taken"] for s in started] == [False, False, True, False]


def test_run_it_again_that_nobody_used_holds_still(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run, (approval,) = world.paused(worker, user)
    world.decide(reviewer, approval["id"])
    start = [{"step_number": 1, "position": 0}]
    (run,) = worker.claim()
    assert worker.record(run, starts=start)["started"][0]["taken"] is True
    worker.release(run)
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], answer={"outcome": "again"})
    (run,) = worker.claim()
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    retry(world, user, run["id"])
    assert world.open_reviews(run["id"]) == []  # the last word about this call, not the first
    (run,) = worker.claim()
    assert worker.record(run, starts=start)["started"][0]["taken"] is True


def test_approval_that_expired_with_the_run_is_asked_for_again(world: World) -> None:
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.configure(review_on_expiry="fail")
    run, _ = world.paused(worker, user)
    world.at(3700)
    world.sweep()
    assert world.run(run["id"])["error"] == "REVIEW_EXPIRED"
    retry(world, user, run["id"])
    assert world.calls(run["id"])[0]["status"] == "awaiting_review"
    assert [r["kind"] for r in world.open_reviews(run["id"])] == ["approval"]


def test_result_that_came_after_the_end_is_not_run_for_again(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    worker.record(run, results=[result(1, 0, output="saved")])
    retry(world, user, run["id"])
    assert [(c["status"], c["tool_output"]) for c in world.calls(run["id"])] == [("succeeded", "saved")]


def test_messages_that_nobody_read_are_read_after_the_retry(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.user(user, "select agent_send(%s, 'Shorter.')", run["id"])
    worker.end(run, "failed", error="MODEL_ERROR")
    retry(world, user, run["id"])
    assert [m["content"] for m in worker.claim()[0]["messages"]] == ["Shorter."]
