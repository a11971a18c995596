"""A run's counters say what its rows say, whoever wrote them."""

from __future__ import annotations

from world import DEFINITION, Row, Worker, World, call, question, result, step


def open_call(world: World, worker: Worker, effect: str = "unsafe") -> Row:
    """A run with one call under way."""
    run = world.running(worker, world.person())
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", effect, "running")])
    return run


def reviews_counted(world: World, run: Row) -> int:
    counted = world.run(run["id"])["review_count"]
    assert counted == world.one("select count(*) from agent_reviews where execution_id = %s", run["id"])
    return counted


def errors_counted(world: World, run: Row) -> int:
    return world.run(run["id"])["tool_error_count"]


def test_questions_that_a_release_and_the_sweep_put_are_counted(world: World) -> None:
    worker = world.worker()
    released, lost = open_call(world, worker), open_call(world, worker)
    worker.release(released)
    assert reviews_counted(world, released) == 1
    beating = world.worker()
    for at in (15, 30, 45):
        world.at(at)
        beating.heartbeat()
    world.sweep()
    assert reviews_counted(world, lost) == 1


def test_a_question_that_is_open_already_is_not_counted_again(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    world.gate(worker, run)
    worker.record(run, reviews=[question(1, 0)])
    assert reviews_counted(world, run) == 1


def test_questions_that_a_retry_puts_again_are_counted(world: World) -> None:
    worker = world.worker()
    run = world.running(worker, world.person())
    world.gate(worker, run, 2)
    worker.end(run, "failed", error="MODEL_ERROR")
    world.service("select agent_retry(%s)", run["id"])
    assert reviews_counted(world, run) == 4


def test_only_results_that_hold_count_as_errors(world: World) -> None:
    worker = world.worker()
    run = open_call(world, worker, "read")
    worker.record(run, results=[result(1, 0)])
    worker.record(run, results=[result(1, 0, "failed", error="too late"), result(1, 7, "failed")])
    assert errors_counted(world, run) == 0
    worker.record(
        run,
        steps=[step(2, worker.definition)],
        calls=[call(2, 0, "look", "read", "failed"), call(2, 1, "look", "read", "running")],
    )
    worker.record(run, results=[result(2, 1, "failed")])
    assert errors_counted(world, run) == 2


def test_what_the_end_cut_off_is_an_error_only_if_it_failed_after_all(world: World) -> None:
    worker = world.worker()
    run = open_call(world, worker, "idempotent")
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    assert (world.calls(run["id"])[0]["status"], errors_counted(world, run)) == ("failed", 0)
    metrics = world.service("select agent_health_metrics()")["tools"]
    assert (metrics["calls"], metrics["success_rate"]) == (1, None)
    worker.record(run, results=[result(1, 0, "failed", error="no")])
    assert errors_counted(world, run) == 1
    assert world.service("select agent_health_metrics()")["tools"]["success_rate"] == 0


def test_a_lost_run_that_is_not_begun_again_has_no_errors(world: World) -> None:
    worker = world.worker({**DEFINITION, "max_attempts": 1})
    run = open_call(world, worker, "read")
    worker.heartbeat([])
    assert (world.status(run["id"]), errors_counted(world, run)) == ("failed", 0)
