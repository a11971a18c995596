"""A decision and a worker meet at the same run: whoever comes first, the run goes on, and nobody waits for ever.

Reviewers lock review → run. So whoever holds a run never waits for a review: it takes those that are free.
"""

from __future__ import annotations

import psycopg
from psycopg.types.json import Jsonb
from world import Row, Worker, World, refused, result


def test_decision_before_the_pause_means_there_is_no_pause(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    world.decide(reviewer, review["id"], comment="Go.")
    assert world.status(run["id"]) == "running"  # only the review is marked
    verdict = worker.end(run, "awaiting_review", reason=None)
    assert verdict["verdict"] == "continue"
    assert [c["status"] for c in verdict["calls"]] == ["awaiting_review"]
    (told,) = verdict["reviews"]
    assert (told["status"], told["used"], told["comment"]) == ("approved", False, "Go.")
    assert world.status(run["id"]) == "running"
    assert world.run(run["id"])["worker_id"] is not None


def test_all_but_the_pause_is_stored_when_it_is_told_to_continue(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"])
    entry = worker.entry(run, transition={"to": "awaiting_review"}, active_ms=40, state={"k": 1})
    (verdict,) = worker.record_all([entry])
    assert verdict["verdict"] == "continue"
    row = world.run(run["id"])
    assert (row["active_ms"], row["state"], row["recorded_seq"]) == (40, {"k": 1}, entry["seq"])


def test_worker_first(world: World) -> None:
    """The pause is written but not committed; the decision waits for the run and then sees the pause."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    over = world.another()
    with over.acting("service_role") as cursor:
        entry = worker.entry(run, transition={"to": "awaiting_review"})
        assert record_in(cursor, worker, entry)["verdict"] == "ok"
        racing = world.background(lambda: world.decide(reviewer, review["id"]))
        assert racing.waits()
    assert racing.result()[0]["status"] == "approved"
    assert world.status(run["id"]) == "pending"


def test_reviewer_first(world: World) -> None:
    """The decision is made but not committed; the pause does not wait for it and is told to come again."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    entry = worker.entry(run, transition={"to": "awaiting_review"})
    over = world.another()
    with over.acting("authenticated", reviewer) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
        assert worker.record_all([entry])[0]["verdict"] == "busy"
    assert worker.record_all([entry])[0]["verdict"] == "continue"


def test_reviewer_who_gave_up_leaves_the_pause_as_it_was(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    entry = worker.entry(run, transition={"to": "awaiting_review"})
    over = world.another()
    over.connection.execute("begin")
    over.connection.execute("set local role authenticated")
    over.connection.execute(f"""set local request.jwt.claims = '{{"sub": "{reviewer}"}}'""")
    over.connection.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
    assert worker.record_all([entry])[0]["verdict"] == "busy"
    over.connection.execute("rollback")
    assert worker.record_all([entry])[0]["verdict"] == "ok"
    assert world.status(run["id"]) == "awaiting_review"


def test_two_reviewers_of_two_calls_of_one_run_both_count(world: World) -> None:
    worker, user = world.worker(), world.person()
    one, two, over = world.reviewer(), world.reviewer(), world.another()
    run, (first, second) = world.paused(worker, user, 2)
    with over.acting("authenticated", one) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (first["id"],))
        racing = world.background(lambda: world.decide(two, second["id"]))
        assert racing.waits()
        assert world.another().status(run["id"]) == "awaiting_review"
    racing.result()
    assert world.status(run["id"]) == "pending"  # the second saw the first's


def test_reviewers_of_the_same_runs_crosswise_do_not_deadlock(world: World) -> None:
    worker, user = world.worker(), world.person()
    one, two, over = world.reviewer(), world.reviewer(), world.another()
    a, (a1, a2) = world.paused(worker, user, 2)
    b, (b1, b2) = world.paused(worker, user, 2)
    with over.acting("authenticated", one) as cursor:
        cursor.execute(
            "update agent_reviews set status = 'approved' where id = any (%s)", ([a1["id"], b1["id"]],)
        )
        racing = world.background(
            lambda: world.user(
                two, "update agent_reviews set status = 'approved' where id = any (%s)", [b2["id"], a2["id"]]
            )
        )
        assert racing.waits()
    racing.result()
    assert [world.status(run["id"]) for run in (a, b)] == ["pending", "pending"]


def test_cancel_and_decision_at_once_end_cancelled(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    over = world.another()
    with over.acting("authenticated", user) as cursor:
        cursor.execute("select agent_cancel(%s)", (run["id"],))
        racing = world.background(lambda: world.decide(reviewer, review["id"]))
        assert racing.waits()
    with refused("RH007", says="This review is already cancelled."):
        racing.result()
    assert world.status(run["id"]) == "cancelled"


def test_decision_and_cancel_at_once_end_cancelled(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    over = world.another()
    with over.acting("authenticated", reviewer) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
        racing = world.background(lambda: world.user(user, "select agent_cancel(%s)", run["id"]))
        assert racing.waits()
    racing.result()
    assert world.status(run["id"]) == "cancelled"
    assert world.calls(run["id"])[0]["status"] == "rejected"


def test_cancel_never_waits_for_a_review_and_the_reviewer_ends_well(world: World) -> None:
    """The reviewer holds one review of the run and waits for the run; the canceller holds the run."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (first, _) = world.paused(worker, user, 2)
    holder, over = world.another(), world.another()
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        deciding = over.background(lambda: over.decide(reviewer, first["id"], "rejected"))
        assert deciding.waits()
        cursor.execute(
            "select runhold.cancel(%s, null)", (run["id"],)
        )  # takes the other review, leaves this one
    assert deciding.result()[0]["status"] == "rejected"
    assert world.status(run["id"]) == "cancelled"
    assert world.open_reviews(run["id"]) == []


def test_sweep_waits_for_nobody(world: World) -> None:
    """Somebody decides about an expired run's other review, and holds a run; the sweep takes what is free."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    held, _ = world.paused(worker, user)
    free, _ = world.paused(worker, user)
    world.at(3601)
    over = world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (held["id"],))
        assert world.sweep()["expired"] == 1
    assert [world.status(run["id"]) for run in (held, free)] == ["awaiting_review", "pending"]
    assert world.sweep()["expired"] == 1
    assert world.status(held["id"]) == "pending"
    assert world.decide(reviewer, "00000000-0000-0000-0000-000000000000") == []


def test_sweep_leaves_a_review_alone_that_is_being_decided(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    over = world.another()
    with over.acting("authenticated", reviewer) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
        world.at(3601)
        assert world.sweep() == {"requeued": 0, "expired": 0, "repaired": 0}
    assert world.review(review["id"])["status"] == "approved"
    assert world.status(run["id"]) == "pending"


def test_erasing_the_user_while_a_reviewer_decides_ends_for_both(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    over = world.another()
    with over.acting("authenticated", reviewer) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
        erasing = world.background(lambda: world.sql("delete from auth.users where id = %s", user))
        assert erasing.waits()
    erasing.result()
    assert world.one("select count(*) from agent_reviews") == 0


def test_completing_record_and_open_decision_leave_no_open_review(world: World) -> None:
    """A review that was being decided when its run ended stays with the reviewer; nothing is left open."""
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    (review,) = world.open_reviews(run["id"])
    over = world.another()
    with over.acting("service_role") as cursor:
        entry = worker.entry(run, transition={"to": "failed", "error": "TOTAL_TIMEOUT"})
        assert record_in(cursor, worker, entry)["verdict"] == "ok"
        racing = world.background(lambda: world.decide(reviewer, review["id"]))
        assert racing.waits()
    with refused("RH007", says="already cancelled"):
        racing.result()
    assert world.open_reviews(run["id"]) == []
    worker.record(run, results=[result(1, 0)])  # late, and changes nothing about it
    assert world.calls(run["id"])[0]["status"] == "rejected"


def record_in(cursor: psycopg.Cursor[Row], worker: Worker, entry: Row) -> Row:
    """Record over another connection, in the transaction that it has open."""
    cursor.execute("select agent_worker_record(%s, %s) as answer", (worker.id, Jsonb([entry])))
    return cursor.fetchall()[0]["answer"][0]
