"""agent_sweep: lost workers, and whatever else nobody would ever look at again."""

from __future__ import annotations

import pytest
from world import DEFINITION, Row, Worker, World, call, step


def beat_until(world: World, *workers: Worker, seconds: int, every: int = 10) -> None:
    """Time passes, and these workers are heard."""
    for at in range(every, seconds + 1, every):
        world.at(at)
        for worker in workers:
            held = world.sql("select id from agent_executions where worker_id = %s", worker.id)
            worker.heartbeat([str(row["id"]) for row in held])


def lost(world: World) -> tuple[Row, Worker]:
    """A run whose worker is not heard for longer than its lease, and a worker that is."""
    worker, other = world.worker(), world.worker()
    run = world.running(worker, world.person())
    beat_until(world, other, seconds=40)
    return run, other


def test_run_of_a_lost_worker_goes_on_elsewhere(world: World) -> None:
    run, other = lost(world)
    assert world.sweep() == {"requeued": 1, "expired": 0, "repaired": 0}
    assert world.sweep()["requeued"] == 0
    assert world.one("select count(*) from agent_workers where dead_at is not null") == 1
    (again,) = other.claim()
    assert (again["id"], again["fence"], again["attempt"]) == (run["id"], 2, 2)
    (event,) = world.sql("select * from agent_events where kind = 'requeued'")
    assert (event["actor_kind"], event["data"]["reason"]) == ("system", "worker_lost")


def test_living_workers_keep_their_runs(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    beat_until(world, worker, seconds=120)
    assert world.sweep()["requeued"] == 0
    assert world.status(run["id"]) == "running"


def test_time_that_a_lost_worker_never_told_counts_against_the_run(world: World) -> None:
    """Until its lease ended: a run can't outlive its time limit by killing its workers."""
    run, _ = lost(world)
    world.sweep()
    assert 29_000 <= world.run(run["id"])["active_ms"] <= 31_000


def test_released_time_does_not_count(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    world.at(20)
    worker.release(run)
    assert world.run(run["id"])["active_ms"] == 0


def test_run_that_outlives_its_attempts_fails(world: World) -> None:
    world.worker({**DEFINITION, "max_attempts": 2})
    run_id = world.submit(world.person())
    for attempt in (1, 2):
        world.at(None)
        world.sql("update runhold.liveness set last_beat_at = now(), beating_since = now() - interval '1 h'")
        worker, other = (world.worker({**DEFINITION, "max_attempts": 2}) for _ in range(2))
        (run,) = worker.claim()
        assert run["attempt"] == attempt
        beat_until(world, other, seconds=40)
        world.sweep()
    row = world.run(run_id)
    assert (row["status"], row["error"]) == ("failed", "WORKER_LOST")
    assert row["error_detail"] == {"limit": "max_attempts", "allowed": 2, "used": 2, "step": 0}


def test_operators_number_of_attempts_counts_more(world: World) -> None:
    world.worker()
    world.configure(max_attempts=1)
    run, _ = lost(world)
    world.sweep()
    assert world.run(run["id"])["error"] == "WORKER_LOST"


def test_progress_resets_the_attempts(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    world.sql("update agent_executions set attempt = 3")
    worker.record(run, steps=[step(1, worker.definition)])
    assert world.run(run["id"])["attempt"] == 1


def test_run_that_someone_holds_is_left_for_the_next_round(world: World) -> None:
    run, _ = lost(world)
    over = world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        assert world.sweep()["requeued"] == 0
    assert world.sweep()["requeued"] == 1


def test_worker_whose_heartbeat_is_under_way_is_left_alone(world: World) -> None:
    run, _ = lost(world)
    over = world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_workers for update")
        assert world.sweep()["requeued"] == 0
    assert world.status(run["id"]) == "running"


def test_run_of_a_worker_that_is_gone_altogether_goes_on(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    world.sql("delete from agent_workers")
    assert world.sweep()["requeued"] == 1
    assert world.status(run["id"]) == "pending"


def test_sweeps_do_not_wait_for_each_other(world: World) -> None:
    over = world.another()
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_sweep()")
        assert world.sweep() == {"busy": True}
    assert "busy" not in world.sweep()


# ---------------------------------------------------------------------------------- the database was away, or they were


def test_after_a_silence_of_all_the_workers_are_heard_first(world: World) -> None:
    """The database was away for five minutes: every lease has run out, and nobody is dead."""
    one, two = world.worker(), world.worker()
    run, kept = world.running(one, world.person()), world.running(two, world.person())
    world.at(300)
    assert world.sweep()["requeued"] == 0  # the first thing that happens may well be a sweep
    two.heartbeat([kept["id"]])
    assert world.sweep()["requeued"] == 0
    world.at(310)
    one.heartbeat([run["id"]])
    two.heartbeat([kept["id"]])
    world.at(331)
    assert world.sweep()["requeued"] == 0
    assert [world.status(r["id"]) for r in (run, kept)] == ["running", "running"]


def test_whoever_is_not_heard_within_a_lease_after_the_silence_is_dead(world: World) -> None:
    one, two = world.worker(), world.worker()
    run = world.running(one, world.person())
    for at in (300, 310, 320, 329):
        world.at(at)
        two.heartbeat()
        assert world.sweep()["requeued"] == 0
    world.at(331)
    two.heartbeat()
    assert world.sweep()["requeued"] == 1
    assert world.status(run["id"]) == "pending"


def test_where_sweeps_go_on_through_a_long_silence_nobody_is_left(world: World) -> None:
    """pg_cron sweeps every 30 seconds: the database is there, the workers are not."""
    run = world.running(world.worker(), world.person())
    for at in range(30, 150, 30):
        world.at(at)
        assert world.sweep()["requeued"] == 0
    world.at(155)
    assert world.sweep()["requeued"] == 1
    assert world.status(run["id"]) == "pending"


def test_worker_with_a_short_lease_does_not_make_the_others_immortal(world: World) -> None:
    """Its own heartbeats are far apart, measured by its lease; measured by the longest, they are no gap."""
    worker, other = world.worker(), world.worker()
    run = world.running(worker, world.person())
    for at in (10, 20, 30, 40):
        world.at(at)
        other.heartbeat()
        world.worker(lease_ms=1000)  # registers, and is gone
    assert world.sweep()["requeued"] == 1
    assert world.status(run["id"]) == "pending"


# --------------------------------------------------------------------------------------------------------- repairs


def test_pause_without_a_question_is_resumed(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, _ = world.paused(worker, user)
    world.sql("delete from agent_reviews")
    assert world.sweep()["repaired"] == 1
    assert world.status(run["id"]) == "pending"
    assert world.sql("select data from agent_events where kind = 'resumed'") == [{"data": {}}]


def test_question_of_an_ended_run_is_closed(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, (review,) = world.paused(worker, user)
    over = world.another()
    with over.acting(None) as cursor:  # somebody held the review when the run was cancelled
        cursor.execute("select from agent_reviews for update")
        world.user(user, "select agent_cancel(%s)", run["id"])
    assert world.review(review["id"])["status"] == "pending"
    world.sweep()
    assert world.review(review["id"])["status"] == "cancelled"
    assert world.open_reviews(run["id"]) == []


@pytest.mark.parametrize("effect", ["read", "idempotent", "unsafe"])
def test_call_that_ran_when_its_worker_died(world: World, effect: str) -> None:
    worker, other = world.worker(), world.worker()
    run = world.running(worker, world.person())
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "t", effect, "running"), call(1, 1, "t", effect, "pending")],
    )
    beat_until(world, other, seconds=40)
    world.sweep()
    statuses = [c["status"] for c in world.calls(run["id"])]
    if effect == "unsafe":
        assert statuses == ["unknown", "pending"]
        assert world.status(run["id"]) == "awaiting_review"
        assert [r["kind"] for r in world.open_reviews(run["id"])] == ["unknown_outcome"]
    else:
        assert statuses == ["pending", "pending"]
        assert world.status(run["id"]) == "pending"


def test_unknown_comes_before_attempts_used_up(world: World) -> None:
    """What may have happened must be asked about, also if this worker was the last allowed."""
    world.worker()
    world.configure(max_attempts=1)
    worker, other = world.worker(), world.worker()
    run = world.running(worker, world.person())
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    beat_until(world, other, seconds=40)
    world.sweep()
    assert world.status(run["id"]) == "awaiting_review"
