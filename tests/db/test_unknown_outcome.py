"""Nobody knows whether an unsafe call happened: a person says that it did, runs it again, or stops the run."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import Row, World, call, refused, result, step

FIRST: Row = {"step_number": 1, "position": 0}


def test_it_happened_and_this_was_the_result(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    run_id, review = world.unknown(worker, world.person())
    assert world.status(run_id) == "awaiting_review"
    assert review["summary"] == "Did send happen? The worker was lost while this call ran."
    world.decide(reviewer, review["id"], answer={"outcome": "happened", "result": {"id": None}})
    (settled,) = world.calls(run_id)
    assert (settled["status"], settled["tool_output"], settled["error"]) == ("succeeded", {"id": None}, None)
    assert settled["finished_at"] is not None
    assert world.status(run_id) == "pending"


def test_it_happened_without_a_result(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    run_id, review = world.unknown(worker, world.person())
    world.decide(reviewer, review["id"], answer={"outcome": "happened"})
    assert world.calls(run_id)[0]["tool_output"] == "A person confirmed that this happened."


def test_run_it_again_is_a_fresh_approval_used_once(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    run_id, review = world.unknown(worker, world.person())
    world.decide(reviewer, review["id"], answer={"outcome": "again"})
    (waiting,) = world.calls(run_id)
    assert (waiting["status"], waiting["error"]) == ("awaiting_review", None)
    (run,) = worker.claim()
    (taken,) = worker.record(run, starts=[FIRST])["started"]
    assert (taken["taken"], taken["attempt"]) == (True, 2)
    (refused_now,) = worker.record(run, starts=[FIRST])["started"]
    assert refused_now["taken"] is False
    worker.release(run)  # lost again: asked again, by a new review
    (second,) = world.open_reviews(run_id)
    assert second["id"] != review["id"]


def test_run_it_again_runs_what_a_reviewer_had_changed(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"], edited_input={"n": 7})
    (run,) = worker.claim()
    worker.record(run, starts=[FIRST])
    worker.release(run)
    (asked,) = world.open_reviews(run["id"])
    assert asked["proposed_input"] == {"n": 7}
    world.decide(reviewer, asked["id"], answer={"outcome": "again"})
    (run,) = worker.claim()
    assert worker.record(run, starts=[FIRST])["started"][0]["input"] == {"n": 7}


def test_stop_ends_the_run(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    run_id, review = world.unknown(worker, world.person())
    world.decide(reviewer, review["id"], "rejected", comment="Too risky.")
    row = world.run(run_id)
    assert (row["status"], row["error"]) == ("failed", "STOPPED_BY_REVIEWER")
    assert row["error_detail"] == {"review_id": str(review["id"]), "tool": "send", "comment": "Too risky."}
    assert world.calls(run_id)[0]["status"] == "unknown"


def test_stop_closes_the_runs_other_reviews(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    worker.record(run, calls=[call(1, 1, "send", "unsafe", "running")])
    worker.release(run)
    (unknown,) = [r for r in world.open_reviews(run["id"]) if r["kind"] == "unknown_outcome"]
    world.decide(reviewer, unknown["id"], "rejected")
    assert world.status(run["id"]) == "failed"
    assert world.open_reviews(run["id"]) == []
    assert [c["status"] for c in world.calls(run["id"])] == ["rejected", "unknown"]


@pytest.mark.parametrize(
    "answer", [None, {}, {"outcome": "maybe"}, {"outcome": None}, ["happened"], "happened", 1]
)
def test_answer_must_say_what_is_known(world: World, answer: Any) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    _, review = world.unknown(worker, world.person())
    with refused("RH011", says='answer must be {"outcome": "happened"', hint="rejected to stop"):
        world.decide(reviewer, review["id"], answer=None if answer is None else Jsonb(answer))


def test_answer_while_the_run_is_worked_on_is_told_at_the_pause(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    worker.record(run, results=[result(1, 0, "unknown", error="timed out")])
    (review,) = world.open_reviews(run["id"])
    world.decide(reviewer, review["id"], answer={"outcome": "happened", "result": "sent"})
    verdict = worker.end(run, "awaiting_review")
    assert verdict["verdict"] == "continue"
    assert [(c["status"], c["output"]) for c in verdict["calls"]] == [("succeeded", "sent")]


def test_stop_while_the_run_is_worked_on_holds_when_its_worker_is_lost(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    worker.record(run, results=[result(1, 0, "unknown")])
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], "rejected")
    assert world.status(run["id"]) == "running"
    worker.release(run)
    row = world.run(run["id"])
    assert (row["status"], row["error"]) == ("failed", "STOPPED_BY_REVIEWER")
    assert world.open_reviews(run["id"]) == []  # nobody is asked again


def test_stop_stands_when_another_call_becomes_unknown(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    calls = [call(1, n, "send", "unsafe", "running") for n in range(2)]
    worker.record(run, steps=[step(1, worker.definition)], calls=calls)
    worker.record(run, results=[result(1, 0, "unknown")])
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], "rejected")
    worker.record(run, results=[result(1, 1, "unknown")])
    (asked,) = world.open_reviews(run["id"])  # about the second alone
    assert asked["tool_call_id"] == world.calls(run["id"])[1]["id"]


def test_late_result_may_settle_what_was_unknown_when_the_run_ended(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    world.user(user, "select agent_cancel(%s)", run["id"])
    worker.release(run)  # cancelled, the call unknown
    assert world.run(run["id"])["error_detail"]["unknown"] == ["send"]
    worker.record(run, results=[result(1, 0, output="it did happen")])
    assert world.calls(run["id"])[0]["tool_output"] == "it did happen"
