"""Limits and cancellation, where they are enforced for the second time: when the worker records."""

from __future__ import annotations

from typing import Any

import pytest
from world import Row, World, call, question, refused, result, step

INTENT = [call(2, 0, "save", "idempotent", "running")]
READ = [call(2, 0, "look", "read", "succeeded", output="seen")]
"""A read that was quick: it comes with its step, and the run means to ask its model what to do with it."""


@pytest.mark.parametrize(
    ("limits", "entry", "code", "detail"),
    [
        (
            {"max_steps": 1},
            {},
            "MAX_STEPS_EXCEEDED",
            {"limit": "max_steps", "allowed": 1, "used": 2, "step": 2},
        ),
        (
            {"max_tokens": 19},
            {},
            "MAX_TOKENS_EXCEEDED",
            {"limit": "max_tokens", "allowed": 19, "used": 20, "step": 2},
        ),
        (
            {"max_cost_usd": 0.3},
            {},
            "MAX_COST_EXCEEDED",
            {"limit": "max_cost_usd", "allowed": 0.3, "used": 0.5, "step": 2},
        ),
        (
            {"max_tool_calls": 1},
            {},
            "MAX_TOOL_CALLS_EXCEEDED",
            {"limit": "max_tool_calls", "allowed": 1, "used": 2, "step": 2},
        ),
        (
            {"total_timeout_s": 1.5},
            {"active_ms": 600},
            "TOTAL_TIMEOUT",
            {"limit": "total_timeout_s", "allowed": 1.5, "used": 1.6, "step": 2},
        ),
    ],
)
@pytest.mark.parametrize("calls", [INTENT, READ])
def test_passed_limit_stops_with_its_code_and_stores_what_happened(
    world: World, limits: Row, entry: Row, code: str, detail: Row, calls: list[Row]
) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits=limits)
    first = worker.record(
        run,
        steps=[step(1, worker.definition, cost_usd=0.25)],
        calls=[call(1, 0, "look", "read", "succeeded")],
        active_ms=1000,
    )
    assert first["verdict"] == "ok"
    steps = [step(2, worker.definition, cost_usd=0.25)]
    verdict = worker.record(run, steps=steps, calls=calls, **entry)
    assert (verdict["verdict"], verdict["code"], verdict["detail"]) == ("stop", code, detail)
    stored = 2 if calls is READ else 1  # an intent is not
    row = world.run(run["id"])
    assert (row["status"], row["step_count"], row["token_count"], row["tool_call_count"]) == (
        "running",
        2,
        20,
        stored,
    )
    assert len(world.calls(run["id"])) == stored


@pytest.mark.parametrize("calls", [INTENT, READ])
def test_stop_that_was_lost_is_said_again(world: World, calls: list[Row]) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"max_steps": 1})
    worker.record(run, steps=[step(1, worker.definition)])
    entry = worker.entry(run, steps=[step(2, worker.definition)], calls=calls)
    first, again = worker.record_all([entry]), worker.record_all([entry])
    assert [verdict["code"] for verdict in first + again] == ["MAX_STEPS_EXCEEDED"] * 2
    assert world.run(run["id"])["step_count"] == 2


def test_finished_reads_go_on_after_a_cancel_and_hear_of_it(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)])
    world.user(user, "select agent_cancel(%s)", run["id"])
    verdict = worker.record(run, steps=[step(2, worker.definition)], calls=READ)
    assert (verdict["verdict"], verdict["cancel_requested"]) == ("ok", True)


def test_lost_stop_counts_no_call_twice(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"total_timeout_s": 1, "max_tool_calls": 5})
    looks = [call(1, position, "look", "read", "succeeded") for position in range(4)]
    entry = worker.entry(
        run,
        steps=[step(1, worker.definition)],
        calls=[*looks, call(1, 4, "save", "idempotent", "running")],
        active_ms=2000,
    )
    first, again = worker.record_all([entry]), worker.record_all([entry])
    assert [verdict["code"] for verdict in first + again] == ["TOTAL_TIMEOUT"] * 2


def test_reads_of_a_run_that_was_ended_meanwhile_are_stored_and_go_no_further(world: World) -> None:
    """By a worker whose clock is slow: it shall not ask its model again and again."""
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.sql(
        "update agent_executions set status = 'failed', error = 'WORKER_LOST', worker_id = null, completed_at = now() where id = %s",
        run["id"],
    )
    verdict = worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "succeeded")]
    )
    assert (verdict["verdict"], verdict["code"]) == ("stop", "WORKER_LOST")
    assert len(world.calls(run["id"])) == 1


def test_ok_that_was_lost_is_said_again(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"max_steps": 2, "max_tool_calls": 1})
    worker.record(run, steps=[step(1, worker.definition)])
    entry = worker.entry(run, steps=[step(2, worker.definition)], calls=READ)
    assert [worker.record_all([entry])[0]["verdict"] for _ in range(2)] == ["ok", "ok"]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_steps": 2},
        {"max_tokens": 20},
        {"max_cost_usd": 0.5},
        {"max_tool_calls": 1},
        {"total_timeout_s": 2},
    ],
)
@pytest.mark.parametrize("calls", [INTENT, READ])
def test_limit_that_is_just_reached_is_not_passed(world: World, limits: Row, calls: list[Row]) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits=limits)
    worker.record(run, steps=[step(1, worker.definition, cost_usd=0.25)], active_ms=1000)
    verdict = worker.record(
        run, steps=[step(2, worker.definition, cost_usd=0.25)], calls=calls, active_ms=1000
    )
    assert verdict["verdict"] == "ok"


@pytest.mark.parametrize(
    "entry",
    [
        {"starts": [{"step_number": 1, "position": 0}]},
        {"reviews": [question(1, 0)]},
        {"calls": [call(1, 1, "look", "read", "pending")]},
        {"transition": {"to": "awaiting_review"}},
    ],
)
def test_every_kind_of_intent_is_stopped(world: World, entry: Row) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"total_timeout_s": 1})
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "pending")]
    )
    verdict = worker.record(run, active_ms=2000, **entry)
    assert (verdict["verdict"], verdict["code"]) == ("stop", "TOTAL_TIMEOUT")
    assert [c["status"] for c in world.calls(run["id"])] == ["pending"]
    assert world.open_reviews(run["id"]) == []
    assert (world.status(run["id"]), world.run(run["id"])["active_ms"]) == ("running", 2000)


@pytest.mark.parametrize("to", ["completed", "failed"])
def test_end_is_never_refused_by_a_limit(world: World, to: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"max_tokens": 5})
    verdict = worker.record(run, steps=[step(1, worker.definition)], transition={"to": to, "result": None})
    assert verdict["verdict"] == "ok"
    assert world.status(run["id"]) == to


def test_what_happened_is_stored_when_stopped_whatever_its_kind(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    world.user(user, "select agent_cancel(%s)", run["id"])
    verdict = worker.record(
        run,
        steps=[step(2, worker.definition)],
        results=[result(1, 0, output="saved")],
        calls=[
            call(2, 0, "look", "read", "succeeded", output="seen"),
            call(2, 1, "look", "read", "failed", error="bad arguments"),
            call(2, 2, "look", "read", "rejected", error="not allowed"),
            call(2, 3, "send", "unsafe", "unknown"),
            call(2, 4, "send", "unsafe", "running"),
        ],
        state={"k": 1},
    )
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED")
    statuses = [c["status"] for c in world.calls(run["id"])]
    assert statuses == ["succeeded", "succeeded", "failed", "rejected", "unknown"]
    row = world.run(run["id"])
    assert (row["step_count"], row["tool_call_count"], row["tool_error_count"]) == (2, 5, 1)
    assert row["state"] == {"k": 1}


def test_entry_without_intents_goes_on_after_a_cancel_and_says_so(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.user(user, "select agent_cancel(%s)", run["id"])
    verdict = worker.record(run, active_ms=5)
    assert (verdict["verdict"], verdict["cancel_requested"]) == ("ok", True)


@pytest.mark.parametrize("to", ["completed", "failed", "pending", "cancelled"])
def test_cancelled_run_ends_cancelled_whatever_the_worker_says(world: World, to: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.user(user, "select agent_cancel(%s)", run["id"])
    extra: dict[str, Any] = {"error": "TOOL_FAILED"} if to == "failed" else {}
    worker.end(run, to, result={"text": None}, detail={"message": "m"}, **extra)
    row = world.run(run["id"])
    assert (row["status"], row["result"], row["error"]) == ("cancelled", None, None)
    detail = row["error_detail"]
    assert (detail["result"], detail["message"]) == ({"text": None}, "m")
    assert detail["requested_at"] is not None
    assert detail.get("error") == extra.get("error")


def test_pause_after_a_cancel_is_stopped(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    world.user(user, "select agent_cancel(%s)", run["id"])
    verdict = worker.end(run, "awaiting_review")
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED")
    worker.end(run, "cancelled")
    assert world.open_reviews(run["id"]) == []


@pytest.mark.parametrize("calls", [INTENT, READ])
def test_operator_who_tightens_a_limit_stops_running_runs(world: World, calls: list[Row]) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)])
    world.configure(limits={"max_steps": 1})
    verdict = worker.record(run, steps=[step(2, worker.definition)], calls=calls)
    assert (verdict["verdict"], verdict["code"]) == ("stop", "MAX_STEPS_EXCEEDED")


def test_huge_numbers_do_not_overflow_the_check(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    with refused("22003"):
        worker.record(run, steps=[step(1, worker.definition, tokens=2**31)])
    most = 2**31 - 1
    verdict = worker.record(
        run,
        seq=1,
        steps=[step(1, worker.definition, tokens=most)],
        calls=[call(1, 0, "look", "read", "running")],
    )
    assert (verdict["verdict"], verdict["detail"]["used"]) == ("stop", most)
