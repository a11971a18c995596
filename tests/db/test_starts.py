"""Gated calls: taken once, with what was approved, and only while it is what was approved."""

from __future__ import annotations

from typing import Any

import pytest
from world import Row, Worker, World, call, question, result, step

FIRST: Row = {"step_number": 1, "position": 0}


def start(worker: Worker, run: Row, **which: Any) -> Row:
    verdict = worker.record(run, starts=[{**FIRST, **which}])
    (started,) = verdict["started"]
    assert verdict["verdict"] == ("continue" if started["reason"] == "not_approved" else "ok")
    return started


def approved(world: World, **decision: Any) -> tuple[Worker, Row, Row]:
    """A claimed run whose one gated call is approved: the worker, the run and the review."""
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    _, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"], **decision)
    (run,) = worker.claim()
    return worker, run, world.review(review["id"])


def test_approved_call_starts_with_what_was_approved(world: World) -> None:
    worker, run, review = approved(world)
    assert start(worker, run) == {
        **FIRST,
        "taken": True,
        "input": {"n": 0},
        "edited": False,
        "attempt": 1,
        "reason": None,
    }
    assert world.calls(run["id"])[0]["status"] == "running"
    assert world.review(review["id"])["used_at"] is not None


def test_edit_of_the_reviewer_is_what_runs_and_what_is_kept(world: World) -> None:
    worker, run, _ = approved(world, edited_input={"n": None, "to": "someone"})
    started = start(worker, run)
    assert (started["input"], started["edited"]) == ({"n": None, "to": "someone"}, True)
    (stored,) = world.calls(run["id"])
    assert (stored["tool_input"], stored["edited"]) == ({"n": None, "to": "someone"}, True)


def test_edit_that_changes_nothing_is_none(world: World) -> None:
    worker, run, _ = approved(world, edited_input={"n": 0})
    assert start(worker, run)["edited"] is False


def test_approval_is_used_once(world: World) -> None:
    worker, run, _ = approved(world)
    assert start(worker, run)["taken"] is True
    again = start(worker, run)
    assert (again["taken"], again["reason"]) == (False, "not_pending")


def test_lost_answer_is_answered_again_without_using_anything(world: World) -> None:
    worker, run, review = approved(world, edited_input={"n": 7})
    entry = worker.entry(run, starts=[FIRST])
    (first,) = worker.record_all([entry])
    used_at = world.review(review["id"])["used_at"]
    (second,) = worker.record_all([entry])
    assert first["started"] == second["started"]
    assert second["started"][0]["taken"] is True
    assert world.review(review["id"])["used_at"] == used_at
    assert world.calls(run["id"])[0]["attempt"] == 1


def test_used_approval_does_not_survive_a_lost_worker(world: World) -> None:
    """The effect may have happened: only a person can say, and "again" is a fresh approval."""
    worker, run, _ = approved(world)
    start(worker, run)
    worker.release(run)
    (review,) = world.open_reviews(run["id"])
    assert review["kind"] == "unknown_outcome"
    assert worker.claim() == []


@pytest.mark.parametrize("status", ["rejected", None])
def test_call_without_an_approval_does_not_start(world: World, status: str | None) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    world.gate(worker, run)
    if status is not None:
        world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], status)
    started = start(worker, run)
    assert (started["taken"], started["reason"]) == (False, "not_pending" if status else "not_approved")


def test_approval_that_is_being_written_counts_only_once_it_is_there(world: World) -> None:
    """Whoever holds a run never waits for a review."""
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    other = world.another()
    with other.acting("authenticated", reviewer) as cursor:
        cursor.execute(
            "update agent_reviews set comment = 'x', status = 'approved' where id = %s", (review["id"],)
        )
        busy = worker.record(
            run, starts=[FIRST]
        )  # the decision holds the run: told at once, not after a wait
    assert busy["verdict"] == "busy"
    assert worker.record(run, seq=2, starts=[FIRST])["started"][0]["taken"] is True


def test_pending_call_starts_without_asking(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "pending")]
    )
    assert start(worker, run)["taken"] is True
    assert world.calls(run["id"])[0]["attempt"] == 1


def test_call_that_runs_again_counts_its_attempts(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    worker.release(run)
    (again,) = worker.claim()
    assert start(worker, again)["attempt"] == 2


@pytest.mark.parametrize("status", ["succeeded", "failed", "rejected", "unknown", "running"])
def test_call_in_any_other_state_does_not_start(world: World, status: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", status)])
    started = start(worker, run)
    assert (started["taken"], started["reason"]) == (False, "not_pending")
    assert world.calls(run["id"])[0]["status"] == status


def test_call_that_does_not_exist_does_not_start(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    assert start(worker, run) == {**FIRST, "taken": False, "reason": "no_such_call"}


def test_what_changed_since_the_review_does_not_start(world: World) -> None:
    worker, run, _ = approved(world)
    world.sql("""update agent_tool_calls set tool_input = '{"n": 999}'""")
    started = start(worker, run)
    assert (started["taken"], started["reason"]) == (False, "changed_since_review")
    assert world.calls(run["id"])[0]["status"] == "awaiting_review"


def test_question_that_is_asked_anew_makes_the_old_approval_worthless(world: World) -> None:
    """An edit that fails the tool's schema is asked again: until that is decided, nothing starts."""
    worker, run, _ = approved(world, edited_input={"n": "nonsense"})
    worker.record(run, reviews=[question(1, 0, summary="That does not fit.")])
    started = start(worker, run)
    assert (started["taken"], started["reason"]) == (False, "not_approved")


def test_each_call_needs_its_own_approval(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    world.gate(worker, run, 2)
    world.decide(reviewer, world.open_reviews(run["id"])[1]["id"])
    verdict = worker.record(run, starts=[FIRST, {**FIRST, "position": 1}])
    assert [(s["position"], s["taken"]) for s in verdict["started"]] == [(0, False), (1, True)]


def test_result_of_a_started_call_ends_it(world: World) -> None:
    worker, run, _ = approved(world)
    start(worker, run)
    worker.record(run, results=[result(1, 0, output={"id": "m1"})])
    (stored,) = world.calls(run["id"])
    assert (stored["status"], stored["tool_output"]) == ("succeeded", {"id": "m1"})


def test_hash_is_over_all_that_was_asked(world: World) -> None:
    worker, user = world.worker(), world.person()
    hashes = set[str]()
    for _ in range(2):
        run = world.running(worker, user)
        world.gate(worker, run, 2)
        hashes |= {review["input_hash"] for review in world.open_reviews(run["id"])}
    assert len(hashes) == 2  # by position and input; the same question in two runs has the same hash
    assert all(len(h) == 64 for h in hashes)
