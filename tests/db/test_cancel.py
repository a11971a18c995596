"""agent_cancel, in every state and against whoever is at work at the same time."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from test_state_machine import STATES, a_run_that_is
from world import Row, Worker, World, call, refused, result, step

CANCELLED_AT_ONCE = ("pending", "awaiting_review")


def cancel(world: World, user: str, run_id: str, reason: str | None = None) -> dict[str, Any]:
    return world.user(user, "select agent_cancel(%s, %s)", run_id, reason)[0]["agent_cancel"]


@pytest.mark.parametrize("state", STATES)
def test_cancel_in_every_state(world: World, state: str) -> None:
    worker = world.worker()
    run_id = a_run_that_is(world, worker, state)
    owner = str(world.run(run_id)["user_id"])
    answer = cancel(world, owner, run_id, "enough")
    expected = "cancelled" if state in CANCELLED_AT_ONCE else state
    asked = state in (*CANCELLED_AT_ONCE, "running", "cancelled")
    row = world.run(run_id)
    detail = {"detail": row["error_detail"]} if expected == "cancelled" else {}
    assert answer == {"id": run_id, "status": expected, "cancel_requested": asked, **detail}
    assert cancel(world, owner, run_id) == answer  # may be repeated
    assert world.status(run_id) == expected
    if state in CANCELLED_AT_ONCE:
        assert world.run(run_id)["error_detail"]["reason"] == "enough"
        assert world.events(run_id).count("cancel_requested") == 1


def test_cancelled_pause_leaves_nothing_open(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, (first, second) = world.paused(worker, user, 2)
    cancel(world, user, run["id"])
    assert [world.review(r["id"])["status"] for r in (first, second)] == ["cancelled", "cancelled"]
    assert {c["status"] for c in world.calls(run["id"])} == {"rejected"}


def test_call_that_was_to_run_again_does_not_stay_open(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    calls = [call(1, 0, "save", "idempotent", "running"), call(1, 1, "look", "read", "pending")]
    worker.record(run, steps=[step(1, worker.definition)], calls=calls)
    worker.heartbeat([])  # forgotten: it goes back to the queue
    assert [c["status"] for c in world.calls(run["id"])] == ["pending", "pending"]
    cancel(world, user, run["id"])
    assert [(c["status"], c["cut_off"]) for c in world.calls(run["id"])] == [("failed", "pending")] * 2


def test_cancel_says_what_may_have_happened(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id, _ = world.unknown(worker, user)
    cancel(world, user, run_id)
    assert world.run(run_id)["error_detail"]["unknown"] == ["send"]
    assert world.calls(run_id)[0]["status"] == "unknown"


def test_completion_that_comes_first_wins(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    with over.acting("service_role") as cursor:
        entry = worker.entry(run, transition={"to": "completed", "result": {"n": 1}})
        cursor.execute("select agent_worker_record(%s, %s)", (worker.id, Jsonb([entry])))
        racing = world.background(lambda: cancel(world, user, run["id"]))
        assert racing.waits()
    assert racing.result() == {"id": run["id"], "status": "completed", "cancel_requested": False}
    assert world.run(run["id"])["result"] == {"n": 1}


def test_cancel_that_comes_first_wins_and_keeps_the_result(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    entry = worker.entry(run, transition={"to": "completed", "result": {"n": 1}})
    with over.acting("authenticated", user) as cursor:
        cursor.execute("select agent_cancel(%s)", (run["id"],))
        assert worker.record_all([entry])[0]["verdict"] == "busy"
    assert worker.record_all([entry])[0]["verdict"] == "ok"
    row = world.run(run["id"])
    assert (row["status"], row["error_detail"]["result"]) == ("cancelled", {"n": 1})


def test_cancel_and_claim_at_once(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run_id = world.submit(user)
    with over.acting("authenticated", user) as cursor:
        cursor.execute("select agent_cancel(%s)", (run_id,))
        assert worker.claim() == []  # what somebody holds is skipped
    assert worker.claim() == []
    assert world.status(run_id) == "cancelled"


def test_cancelled_run_whose_worker_is_lost_ends_cancelled(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    cancel(world, user, run["id"], "enough")
    world.at(25)
    world.worker().heartbeat()
    world.at(45)
    world.worker().heartbeat()
    world.sweep()
    row = world.run(run["id"])
    assert (row["status"], row["error_detail"]["reason"]) == ("cancelled", "enough")


def acknowledged(world: World, run_id: str) -> dict[str, Any]:
    """What a cancelled run says, without when it was asked."""
    detail = dict(world.run(run_id)["error_detail"])
    assert detail.pop("requested_at") is not None
    return detail


def three_calls(world: World, worker: Worker, user: str) -> Row:
    """A run with a call that has finished, three that run, and one that never began."""
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[
            call(1, 0, "look", "read", "succeeded"),
            call(1, 1, "save", "idempotent", "running"),
            call(1, 2, "send", "unsafe", "running"),
            call(1, 3, "find", "read", "running"),
            call(1, 4, "ask", "read", "pending"),
        ],
    )
    return run


@pytest.mark.parametrize("how", ["record", "completed", "failed", "forgotten", "goodbye", "release"])
def test_every_way_to_a_cancelled_run_says_what_had_happened(world: World, how: str) -> None:
    worker, user = world.worker(), world.person()
    world.at(0)
    run = three_calls(world, worker, user)
    world.at(1)
    answer = cancel(world, user, run["id"], "enough")
    assert answer == {"id": run["id"], "status": "running", "cancel_requested": True}
    world.at(2)
    worker.record(run, results=[result(1, 1)])
    said: dict[str, Any] = {}
    if how == "record":
        # it heard of the cancel too late to know that this came after it
        worker.end(
            run, "cancelled", detail={"step": 1, "finished": ["look", "save"], "finished_after_request": []}
        )
    elif how == "completed":
        worker.end(run, "completed", result={"n": 1})
        said = {"result": {"n": 1}}
    elif how == "failed":
        worker.end(run, "failed", error="TOOL_FAILED", detail={"message": "no", "step": 1})
        said = {"error": "TOOL_FAILED", "message": "no"}
    elif how == "forgotten":
        worker.heartbeat([])
    elif how == "goodbye":
        worker.stop(draining=False)
    else:
        worker.release(run)
    assert world.status(run["id"]) == "cancelled"
    assert acknowledged(world, run["id"]) == {
        "reason": "enough",
        "step": 1,
        "finished": ["look"],
        "finished_after_request": ["save"],
        "cut_off": ["find"],
        "unknown": ["send"],
        **said,
    }
    again = cancel(world, user, run["id"])
    assert again["detail"] == world.run(run["id"])["error_detail"]


def test_run_that_waits_says_at_once_what_had_happened(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_calls(world, worker, user)
    worker.release(run)
    assert world.status(run["id"]) == "awaiting_review"
    answer = cancel(world, user, run["id"])
    assert answer["detail"] == world.run(run["id"])["error_detail"]
    assert acknowledged(world, run["id"]) == {
        "step": 1,
        "finished": ["look"],
        "finished_after_request": [],
        "cut_off": ["save", "find"],
        "unknown": ["send"],
    }


def test_reason_is_that_of_the_last_cancel(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    cancel(world, user, run["id"], "old")
    world.sql("update agent_executions set cancel_requested_at = null")  # as a retry does
    cancel(world, user, run["id"], "new")
    worker.heartbeat([])
    assert acknowledged(world, run["id"])["reason"] == "new"


def test_strangers_learn_nothing_and_wait_for_nothing(world: World) -> None:
    worker, user, stranger = world.worker(), world.person(), world.person()
    run_id = world.submit(user)
    says = "There is no such run, or it is not yours."
    with refused("RH006", says=says):
        cancel(world, stranger, "00000000-0000-0000-0000-000000000001")
    over = world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run_id,))
        with refused("RH006", says=says):
            cancel(world, stranger, run_id)
    assert worker.claim()[0]["id"] == run_id


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ({"role": "operator"}, True),
        ({"role": "operator", "agent_type": "writer"}, True),
        ({"role": "operator", "agent_type": "reader"}, False),
        ({"role": "operator", "tenant_id": "acme"}, False),
        ({"role": "reviewer"}, False),
    ],
)
def test_operators_may_reviewers_may_not(world: World, scope: dict[str, str], may: bool) -> None:
    world.worker()
    run_id = world.submit(world.person())
    person = world.reviewer(**scope)
    if may:
        assert cancel(world, person, run_id)["status"] == "cancelled"
    else:
        with refused("RH006"):
            cancel(world, person, run_id)


def test_token_without_a_subject_may_nothing(world: World) -> None:
    world.worker()
    run_id = world.submit(world.person())
    with refused("RH006"), world.acting("authenticated") as cursor:
        cursor.execute("select agent_cancel(%s)", (run_id,))


def test_service_may(world: World) -> None:
    world.worker()
    run_id = world.submit(world.person())
    assert world.service("select agent_cancel(%s, 'ops')", run_id)["status"] == "cancelled"


def test_long_reason_is_cut(world: World) -> None:
    world.worker()
    user = world.person()
    run_id = world.submit(user)
    cancel(world, user, run_id, "x" * 100_000)
    assert len(world.run(run_id)["error_detail"]["reason"]) == 2000
