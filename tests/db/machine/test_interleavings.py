"""Two connections meet at the same rows, at a known point: one has written and not committed, the other waits or passes by.

What is here is not in test_decision_races.py, test_cancel.py, test_claim.py, test_send.py, test_retry.py and test_sweep.py, which hold
the other meetings. After each, nothing is stuck: with time, one more worker and people who decide, every run ends.
"""

from __future__ import annotations

import psycopg
from psycopg.types.json import Jsonb
from world import Row, Worker, World, call, refused, result, step


def record_in(cursor: psycopg.Cursor[Row], worker: Worker, entry: Row) -> str:
    """Record in the transaction that ``cursor`` has open; the verdict."""
    cursor.execute("select agent_worker_record(%s, %s) as answer", (worker.id, Jsonb([entry])))
    return cursor.fetchall()[0]["answer"][0]["verdict"]


def lost_run(world: World) -> tuple[Row, Worker, Worker]:
    """A run with an unsafe call under way whose worker is silent for longer than its lease; that worker, and one that beats."""
    silent, beating = world.worker(), world.worker()
    run = world.running(silent, world.person())
    calls = [call(1, 0, "send", "unsafe", "running")]
    assert silent.record(run, steps=[step(1, silent.definition)], calls=calls)["verdict"] == "ok"
    for at in (15, 30, 45):
        world.at(at)
        beating.heartbeat()
    return run, silent, beating


def another_at(world: World, seconds: float) -> World:
    other = world.another()
    other.at(seconds)
    return other


# --------------------------------------------------------------------------------------------------- sweep


def test_decision_that_meets_the_expiry_is_told_so(arena: World) -> None:
    worker, reviewer = arena.worker(), arena.reviewer()
    run, (review,) = arena.paused(worker, arena.person())
    over = another_at(arena, 3601)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep()")
        racing = arena.background(lambda: arena.decide(reviewer, review["id"]))
        assert racing.waits()
    with refused("RH007", says="This review is already expired."):
        racing.result()
    assert arena.status(run["id"]) == "pending"
    assert arena.events(run["id"]).count("resumed") == 1


def test_record_of_a_lost_worker_does_not_wait_for_the_sweep_and_is_fenced(arena: World) -> None:
    run, silent, _ = lost_run(arena)
    over = another_at(arena, 45)
    late = silent.entry(run, results=[result(1, 0)], transition={"to": "completed", "result": {}})
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep() as swept")
        assert cursor.fetchall()[0]["swept"]["requeued"] == 1
        assert silent.record_all([late])[0]["verdict"] == "busy"
    assert silent.record_all([late])[0]["verdict"] == "fenced"
    assert arena.status(run["id"]) == "awaiting_review"
    assert [c["status"] for c in arena.calls(run["id"])] == ["unknown"]


def test_sweep_does_not_wait_for_the_record_of_a_lost_worker_and_keeps_it(arena: World) -> None:
    run, silent, _ = lost_run(arena)
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        assert record_in(cursor, silent, silent.entry(run, results=[result(1, 0)])) == "ok"
        assert arena.sweep()["requeued"] == 0
    assert arena.status(run["id"]) == "running"  # of a dead worker, for a moment
    assert arena.sweep()["requeued"] == 1
    assert arena.status(run["id"]) == "pending"
    assert [c["status"] for c in arena.calls(run["id"])] == ["succeeded"]


def test_end_that_a_lost_worker_records_in_time_stands(arena: World) -> None:
    run, silent, _ = lost_run(arena)
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        end = silent.entry(run, results=[result(1, 0)], transition={"to": "completed", "result": {}})
        assert record_in(cursor, silent, end) == "ok"
        assert arena.sweep()["requeued"] == 0
    assert arena.sweep()["requeued"] == 0
    assert arena.status(run["id"]) == "completed"


def test_sweep_sees_the_heartbeat_that_renews_at_the_last_moment(arena: World) -> None:
    run, silent, _ = lost_run(arena)
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_worker_heartbeat(%s, %s::uuid[], 1)", (silent.id, [run["id"]]))
        racing = arena.background(arena.sweep)
        assert racing.waits()
    assert racing.result()["requeued"] == 0
    assert (arena.status(run["id"]), arena.run(run["id"])["fence"]) == ("running", run["fence"])


def test_heartbeat_that_comes_with_the_sweep_is_told_to_register(arena: World) -> None:
    run, silent, _ = lost_run(arena)
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep()")
        racing = arena.background(lambda: silent.heartbeat([run["id"]]))
        assert racing.waits()
    with refused("RH012", says="was declared dead"):
        racing.result()


def test_claim_of_a_worker_that_is_being_swept_gets_nothing(arena: World) -> None:
    _, silent, _ = lost_run(arena)
    waiting = arena.submit(arena.person())
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep()")
        racing = arena.background(silent.claim)
        assert racing.waits()
    with refused("RH012"):
        racing.result()
    assert arena.status(waiting) == "pending"


def test_cancel_that_meets_the_sweep_cancels_what_was_requeued(arena: World) -> None:
    run, _, _ = lost_run(arena)
    owner = str(arena.run(run["id"])["user_id"])
    over = another_at(arena, 45)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep()")
        racing = arena.background(lambda: arena.user(owner, "select agent_cancel(%s)", run["id"]))
        assert racing.waits()
    racing.result()
    row = arena.run(run["id"])
    assert (row["status"], row["error_detail"]["unknown"]) == ("cancelled", ["send"])
    assert arena.open_reviews(run["id"]) == []


def test_sweep_that_meets_a_cancel_takes_the_run_next_time(arena: World) -> None:
    run, _, _ = lost_run(arena)
    owner = str(arena.run(run["id"])["user_id"])
    over = another_at(arena, 45)
    with over.acting("authenticated", owner) as cursor:
        cursor.execute("select agent_cancel(%s)", (run["id"],))
        assert arena.sweep()["requeued"] == 0
    assert arena.sweep()["requeued"] == 1
    assert arena.status(run["id"]) == "cancelled"


# ------------------------------------------------------------------------------------------- claim, heartbeat


def test_cancel_that_meets_the_claim_is_a_request(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    run_id = arena.submit(owner)
    over = arena.another()
    with over.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_claim(%s, 1, %s, 1) as answer", (worker.id, Jsonb(worker.definitions))
        )
        (run,) = cursor.fetchall()[0]["answer"]["runs"]
        racing = arena.background(lambda: arena.user(owner, "select agent_cancel(%s)", run_id))
        assert racing.waits()
    racing.result()
    assert arena.status(run_id) == "running"
    verdict = worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")]
    )
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED")
    assert arena.calls(run_id) == []


def test_record_of_a_run_that_is_being_forgotten_is_fenced(arena: World) -> None:
    worker = arena.worker()
    run = arena.running(worker, arena.person())
    entry = worker.entry(run, transition={"to": "completed", "result": {}})
    over = arena.another()
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_worker_heartbeat(%s, '{}', 1)", (worker.id,))
        assert worker.record_all([entry])[0]["verdict"] == "busy"
    assert worker.record_all([entry])[0]["verdict"] == "fenced"
    assert arena.status(run["id"]) == "pending"


def test_run_that_ends_while_it_is_forgotten_has_ended(arena: World) -> None:
    worker = arena.worker()
    run = arena.running(worker, arena.person())
    over = arena.another()
    with over.acting("service_role") as cursor:
        end = worker.entry(run, transition={"to": "completed", "result": {}})
        assert record_in(cursor, worker, end) == "ok"
        worker.heartbeat([])
    assert arena.status(run["id"]) == "completed"
    assert arena.events(run["id"]) == ["submitted", "claimed", "completed"]


# ---------------------------------------------------------------------------------------------- reviewers


def test_fifty_decisions_at_once_in_opposite_orders_do_not_deadlock(arena: World) -> None:
    """Somebody holds the one in the middle, so that both are under way; the one who comes second is told of the first."""
    worker, one, two = arena.worker(), arena.reviewer(), arena.reviewer()
    runs = [arena.paused(worker, arena.person(), 10)[0]["id"] for _ in range(5)]
    ids = [r["id"] for run_id in runs for r in arena.open_reviews(run_id)]
    approve = "update agent_reviews set status = 'approved' where id = any (%s)"
    holder, first, second = arena.another(), arena.another(), arena.another()
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_reviews where id = %s for update", (sorted(ids)[25],))
        up = first.background(lambda: first.user(one, approve, ids))
        assert up.waits()
        down = second.background(lambda: second.user(two, approve, ids[::-1]))
        assert down.waits()
    up.result()
    with refused("RH007", says="already approved"):
        down.result()
    assert [arena.status(run_id) for run_id in runs] == ["pending"] * 5
    assert [arena.events(run_id).count("resumed") for run_id in runs] == [1] * 5
    assert arena.one("select count(*) from agent_review_decisions") == 50


def test_three_reviewers_of_three_calls_resume_the_run_once(arena: World) -> None:
    """All three have locked their reviews before one of them gets the run."""
    worker = arena.worker()
    run, reviews = arena.paused(worker, arena.person(), 3)
    holder, sides = arena.another(), [arena.another() for _ in reviews]
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        people = [arena.reviewer() for _ in reviews]
        racing = [
            side.background(lambda side=side, who=who, about=about: side.decide(who, about["id"]))
            for side, who, about in zip(sides, people, reviews, strict=True)
        ]
        assert all(each.waits() for each in racing)
    assert [each.result()[0]["status"] for each in racing] == ["approved"] * 3
    assert arena.status(run["id"]) == "pending"
    assert arena.events(run["id"]).count("resumed") == 1


# ------------------------------------------------------------------------------------- the end, and after it


def test_late_result_before_the_retry_is_not_run_for_again(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    run = arena.running(worker, owner)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    worker.end(run, "failed", error="TOOL_FAILED")
    over = arena.another()
    with over.acting("service_role") as cursor:
        assert record_in(cursor, worker, worker.entry(run, results=[result(1, 0)])) == "ok"
        racing = arena.background(lambda: arena.user(owner, "select agent_retry(%s)", run["id"]))
        assert racing.waits()
    racing.result()
    assert arena.status(run["id"]) == "pending"
    assert [c["status"] for c in arena.calls(run["id"])] == ["succeeded"]


def test_result_that_meets_the_retry_is_fenced_and_the_call_runs_again(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    run = arena.running(worker, owner)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    worker.end(run, "failed", error="TOOL_FAILED")
    late = worker.entry(run, results=[result(1, 0)])
    over = arena.another()
    with over.acting("authenticated", owner) as cursor:
        cursor.execute("select agent_retry(%s)", (run["id"],))
        assert worker.record_all([late])[0]["verdict"] == "busy"
    assert worker.record_all([late])[0]["verdict"] == "fenced"
    assert [c["status"] for c in arena.calls(run["id"])] == ["pending"]


def old_run(world: World) -> tuple[Row, Worker, Row]:
    """A run that ended two hours ago with an unsafe call whose outcome nobody knows: its worker, and the result at last."""
    worker = world.worker()
    run = world.running(worker, world.person())
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    world.at(7200)
    return run, worker, worker.entry(run, results=[result(1, 0)])


def test_late_result_of_a_run_that_is_being_pruned_finds_no_run(arena: World) -> None:
    run, worker, late = old_run(arena)
    over = another_at(arena, 7200)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_prune('1 hour')")
        assert worker.record_all([late])[0]["verdict"] == "busy"
    assert worker.record_all([late])[0]["verdict"] == "fenced"
    assert arena.one("select count(*) from agent_tool_calls where execution_id = %s", run["id"]) == 0


def test_prune_leaves_a_run_alone_that_a_late_result_is_written_to(arena: World) -> None:
    _, worker, late = old_run(arena)
    over = another_at(arena, 7200)
    with over.acting("service_role") as cursor:
        assert record_in(cursor, worker, late) == "ok"
        assert arena.service("select agent_prune('1 hour')") == 0
    assert arena.service("select agent_prune('1 hour')") == 1


def test_record_of_a_run_whose_user_is_being_erased_finds_no_run(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    run = arena.running(worker, owner)
    entry = worker.entry(run, steps=[step(1, worker.definition)])
    over = arena.another()
    with over.acting(None) as cursor:
        cursor.execute("delete from auth.users where id = %s", (owner,))
        assert worker.record_all([entry])[0]["verdict"] == "busy"
    assert worker.record_all([entry])[0]["verdict"] == "fenced"


def test_erasing_a_user_waits_for_the_record_and_erases_what_it_wrote(arena: World) -> None:
    worker, owner = arena.worker(), arena.person()
    run = arena.running(worker, owner)
    over = arena.another()
    with over.acting("service_role") as cursor:
        entry = worker.entry(
            run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "running")]
        )
        assert record_in(cursor, worker, entry) == "ok"
        erasing = arena.background(lambda: arena.sql("delete from auth.users where id = %s", owner))
        assert erasing.waits()
    erasing.result()
    assert arena.one("select count(*) from agent_steps") == 0
