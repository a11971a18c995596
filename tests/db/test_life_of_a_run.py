"""A run's whole life, in SQL alone."""

from __future__ import annotations

from world import World, call, question, result, step


def test_run_is_submitted_claimed_recorded_and_completed(world: World) -> None:
    user, worker = world.person(), world.worker()
    run_id = world.submit(user)

    (run,) = worker.claim()
    assert run["id"] == run_id
    assert run["fence"] == 1
    assert run["input"] == {"x": 1}

    verdict = worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "running")], active_ms=5
    )
    assert verdict["verdict"] == "ok"
    worker.record(run, results=[result(1, 0, output={"found": None})])
    verdict = worker.record(
        run,
        steps=[step(2, worker.definition, tokens=7)],
        transition={"to": "completed", "result": {"text": "done"}},
    )
    assert verdict["verdict"] == "ok"

    row = world.run(run_id)
    assert (row["status"], row["result"], row["step_count"], row["token_count"]) == (
        "completed",
        {"text": "done"},
        2,
        17,
    )
    assert row["completed_at"] is not None
    assert row["worker_id"] is None
    assert world.calls(run_id)[0]["tool_output"] == {"found": None}
    assert world.events(run_id) == ["submitted", "claimed", "completed"]


def test_gated_call_waits_for_a_reviewer_and_runs_once_with_what_they_approved(world: World) -> None:
    user, reviewer, worker = world.person(), world.reviewer(), world.worker()
    run_id = world.submit(user)
    (run,) = worker.claim()
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "send", "unsafe", "awaiting_review")],
        reviews=[question(1, 0)],
    )
    assert worker.end(run, "awaiting_review")["verdict"] == "ok"
    assert world.status(run_id) == "awaiting_review"
    assert worker.claim() == []

    (review,) = world.reviews(run_id)
    assert review["proposed_input"] == {"n": 0}
    (decided,) = world.decide(reviewer, review["id"], edited_input={"n": 7})
    assert str(decided["reviewer_id"]) == reviewer
    assert world.status(run_id) == "pending"

    other = world.worker()
    (run,) = other.claim()
    assert run["reviews"][0]["status"] == "approved"
    verdict = other.record(run, starts=[{"step_number": 1, "position": 0}])
    assert verdict["started"] == [
        {
            "step_number": 1,
            "position": 0,
            "taken": True,
            "input": {"n": 7},
            "edited": True,
            "attempt": 1,
            "reason": None,
        }
    ]
    again = other.record(run, starts=[{"step_number": 1, "position": 0}])
    assert again["started"][0]["taken"] is False
    other.record(run, results=[result(1, 0, output="sent")])
    other.end(run, "completed", result={"ok": True})
    assert world.status(run_id) == "completed"


def test_rejection_ends_the_call_with_the_reviewers_words(world: World) -> None:
    user, reviewer, worker = world.person(), world.reviewer(), world.worker()
    run_id = world.submit(user)
    (run,) = worker.claim()
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "send", "unsafe", "awaiting_review")],
        reviews=[question(1, 0)],
    )
    worker.end(run, "awaiting_review")
    world.decide(reviewer, world.reviews(run_id)[0]["id"], "rejected", comment="Not to them.")
    (run,) = worker.claim()
    assert run["calls"][0]["status"] == "rejected"
    assert run["calls"][0]["error"] == "Not to them."


def test_lost_worker_leaves_unsafe_calls_unknown_and_others_to_run_again(world: World) -> None:
    user, reviewer, worker = world.person(), world.reviewer(), world.worker()
    safe, unsafe = world.submit(user), world.submit(user)
    runs = {run["id"]: run for run in worker.claim()}
    for run_id, tool, effect in ((safe, "save", "idempotent"), (unsafe, "send", "unsafe")):
        worker.record(
            runs[run_id], steps=[step(1, worker.definition)], calls=[call(1, 0, tool, effect, "running")]
        )

    other = world.worker()
    world.at(25)
    other.heartbeat()
    world.at(45)
    other.heartbeat()
    assert world.service("select agent_sweep()")["requeued"] == 2

    assert world.status(safe) == "pending"
    assert world.calls(safe)[0]["status"] == "pending"
    assert world.status(unsafe) == "awaiting_review"
    assert world.calls(unsafe)[0]["status"] == "unknown"
    (review,) = world.reviews(unsafe)
    assert review["kind"] == "unknown_outcome"

    late = worker.record(runs[safe], results=[result(1, 0)])
    assert late["verdict"] == "fenced"

    world.decide(reviewer, review["id"], answer={"outcome": "happened", "result": {"id": 1}})
    assert world.status(unsafe) == "pending"
    assert world.calls(unsafe)[0]["tool_output"] == {"id": 1}


def test_cancel_is_seen_by_the_worker_and_ends_the_run(world: World) -> None:
    user, worker = world.person(), world.worker()
    run_id = world.submit(user)
    (run,) = worker.claim()
    answer = world.user(user, "select agent_cancel(%s, 'changed my mind')", run_id)[0]["agent_cancel"]
    assert answer == {"id": run_id, "status": "running", "cancel_requested": True}
    assert worker.heartbeat([run_id])["cancelled"] == [run_id]
    verdict = worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")]
    )
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED")
    assert world.calls(run_id) == []
    assert world.run(run_id)["step_count"] == 1
    worker.end(run, "completed", result={"text": "too late"})
    row = world.run(run_id)
    assert row["status"] == "cancelled"
    assert row["error_detail"]["result"] == {"text": "too late"}
    assert row["result"] is None
