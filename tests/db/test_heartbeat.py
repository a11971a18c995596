"""Heartbeats, releases and goodbyes: the lease is the worker's, however many runs it holds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import World, call, refused, step


def test_heartbeat_renews_the_lease(world: World) -> None:
    worker = world.worker()
    world.at(20)
    answer = worker.heartbeat()
    assert answer["lease_ms"] == 30_000
    row = world.sql("select * from agent_workers")[0]
    assert row["lease_expires_at"] - row["last_seen_at"] == timedelta(seconds=30)
    assert row["lease_expires_at"] - row["started_at"] >= timedelta(seconds=49)


def test_lease_that_ran_out_can_be_renewed_until_it_is_swept(world: World) -> None:
    worker = world.worker()
    world.at(100)
    assert worker.heartbeat()["lease_ms"] == 30_000


def test_dead_worker_is_told_to_register(world: World) -> None:
    worker = world.worker()
    worker.stop(draining=False)
    with refused("RH012", says="its runs went to others", hint="register anew under a new id"):
        worker.heartbeat()


@pytest.mark.parametrize("counted", [True, False])
def test_run_that_gets_stuck_everywhere_ends(world: World, counted: bool) -> None:
    worker = world.worker()
    run_id = world.submit(world.person())
    for _ in range(3):
        world.sql(
            "update agent_executions set wake_at = null where id = %s", run_id
        )  # not counted: it would wait
        (run,) = worker.claim()
        assert worker.release(run, reason="no progress", counted=counted) == {"released": 1}
    row = world.run(run_id)
    if counted:
        assert (row["status"], row["error"], row["attempt"]) == ("failed", "WORKER_LOST", 3)
        assert row["error_detail"]["used"] == 3
    else:
        assert (row["status"], row["attempt"]) == ("pending", 0)


def test_run_that_its_workers_do_not_survive_ends_unless_it_gets_on(world: World) -> None:
    worker = world.worker()
    run_id = world.submit(world.person())

    def lose(*, after_a_step: bool = False) -> int:
        (run,) = worker.claim()
        if after_a_step:
            worker.record(run, steps=[step(1, worker.definition)])
        worker.heartbeat([])
        return run["attempt"]

    assert [lose(), lose(), lose(after_a_step=True)] == [1, 2, 3]
    assert world.status(run_id) == "pending"  # with the step the count began anew
    assert [lose(), lose()] == [2, 3]
    row = world.run(run_id)
    assert (row["status"], row["error"], row["step_count"]) == ("failed", "WORKER_LOST", 1)


def test_heartbeat_says_what_was_cancelled(world: World) -> None:
    worker, user = world.worker(), world.person()
    one, two = world.running(worker, user), world.running(worker, user)
    world.user(user, "select agent_cancel(%s)", one["id"])
    answer = worker.heartbeat([one["id"], two["id"]])
    assert (answer["cancelled"], answer["lost"]) == ([one["id"]], [])


def test_heartbeat_says_what_was_lost(world: World) -> None:
    worker, other, user = world.worker(), world.worker(), world.person()
    kept, lost = world.running(worker, user), world.running(worker, user)
    worker.release(lost)
    other.claim()
    answer = worker.heartbeat([kept["id"], lost["id"]])
    assert (answer["cancelled"], answer["lost"]) == ([], [lost["id"]])


def test_heartbeat_tells_what_operators_changed(world: World) -> None:
    worker = world.worker()
    before = worker.heartbeat()
    assert before["types"] == {"writer": {"enabled": True, "approval_tools": []}}
    world.configure(enabled=False, approval_tools=["look"])
    after = worker.heartbeat()
    assert after["types"] == {"writer": {"enabled": False, "approval_tools": ["look"]}}
    assert after["types_version"] > before["types_version"]


def test_run_that_the_worker_does_not_know_goes_back(world: World) -> None:
    """The answer to its claim was lost for good, or its task died."""
    worker, user = world.worker(), world.person()
    known, forgotten = world.running(worker, user), world.running(worker, user)
    worker.heartbeat([known["id"]])
    assert [world.status(run["id"]) for run in (known, forgotten)] == ["running", "pending"]
    (event,) = world.sql("select * from agent_events where kind = 'requeued'")
    assert event["data"]["reason"] == "forgotten"


def test_claim_that_is_under_way_is_not_forgotten(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.claim_seq = 0  # the heartbeat left before the claim's answer came
    worker.heartbeat([])
    assert world.status(run["id"]) == "running"


def test_forgotten_run_that_someone_holds_is_taken_next_time(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        worker.heartbeat([])
    assert world.status(run["id"]) == "running"
    worker.heartbeat([])
    assert world.status(run["id"]) == "pending"


def test_no_list_and_empty_elements_are_no_runs(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    answer = world.service("select agent_worker_heartbeat(%s, null, null)", worker.id)
    assert (answer["lost"], world.status(run["id"])) == ([], "running")
    world.service("select agent_worker_heartbeat(%s, array[null]::uuid[], 1)", worker.id)
    assert world.status(run["id"]) == "pending"


# --------------------------------------------------------------------------------------------------------- release


def test_released_run_is_not_counted_and_goes_on_elsewhere(world: World) -> None:
    worker, other, user = world.worker(), world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    assert worker.release(run, reason="missing_tool") == {"released": 1}
    assert world.run(run["id"])["attempt"] == 0
    (event,) = world.sql("select * from agent_events where kind = 'requeued'")
    assert (event["data"], str(event["actor_id"])) == ({"reason": "missing_tool"}, worker.id)
    (again,) = other.claim()
    assert (again["id"], again["attempt"], again["calls"][0]["status"]) == (run["id"], 1, "pending")


def test_release_gives_back_only_what_the_worker_holds(world: World) -> None:
    worker, other, user = world.worker(), world.worker(), world.person()
    run = world.running(worker, user)
    assert other.release(run) == {"released": 0}
    assert world.status(run["id"]) == "running"


def test_release_of_nothing_is_not_release_of_everything(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    for nothing in ("'{}'", "null"):
        assert world.service(f"select agent_worker_release(%s, {nothing})", worker.id) == {"released": 0}
    assert world.status(run["id"]) == "running"


# ------------------------------------------------------------------------------------------------------------ stop


def test_draining_keeps_the_runs_and_goodbye_gives_them_back(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    assert worker.stop(draining=True) == {"released": 0}
    assert world.status(run["id"]) == "running"
    assert worker.heartbeat([run["id"]])["lost"] == []
    assert worker.record(run, active_ms=1)["verdict"] == "ok"
    assert worker.stop(draining=False) == {"released": 1}
    assert (world.status(run["id"]), world.run(run["id"])["attempt"]) == ("pending", 0)
    assert worker.stop(draining=False) == {"released": 0}


def test_goodbye_leaves_to_the_sweep_what_someone_holds(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        assert worker.stop(draining=False) == {"released": 0}
    assert world.sweep()["requeued"] == 1
    assert world.status(run["id"]) == "pending"


def test_stop_must_say_which(world: World) -> None:
    worker = world.worker()
    with refused("RH013", says="draining must be true or false"):
        world.service("select agent_worker_stop(%s, null)", worker.id)


@pytest.mark.parametrize("draining", [True, False])
def test_stop_of_an_unknown_worker_is_nothing(world: World, draining: bool) -> None:
    answer = world.service("select agent_worker_stop(gen_random_uuid(), %s)", draining)
    assert answer == {"released": 0}
