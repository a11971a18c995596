"""What holds for a run: the smallest of what the definition that claimed it, the operator and the run itself say.

Two versions of one agent are deployed side by side in most of these stories, as in every rolling deployment.
"""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import DEFINITION, Row, Worker, World, call, refused, step


def version(number: int, **more: Any) -> Row:
    """A definition of the writer; ``more`` may tighten its limits."""
    limits = {**DEFINITION["limits"], **more.pop("limits", {})}
    return {
        **DEFINITION,
        "version": str(number),
        "description": f"Version {number}.",
        "limits": limits,
        **more,
    }


OLD, NEW = version(1, limits={"max_steps": 2}), version(2, limits={"max_steps": 5})


def goes_on(worker: Worker, run: Row, number: int) -> str:
    """A step with a call that was made: the verdict, or the code that stops the run."""
    verdict = worker.record(
        run, steps=[step(number, worker.definition)], calls=[call(number, 0, "look", "read", "succeeded")]
    )
    return verdict.get("code") or verdict["verdict"]


def effective(world: World, run_id: str, limit: str = "max_steps") -> Any:
    return world.run(run_id)["effective_limits"].get(limit)


def current(world: World) -> str:
    """The description of the type's current definition; all of it is of one version."""
    row = world.sql(
        "select t.description, t.input_schema = d.input_schema as same, d.description as defined"
        " from agent_types t join agent_definitions d on d.id = t.definition_id"
    )[0]
    assert (row["same"], row["description"]) == (True, row["defined"])
    return row["description"]


@pytest.mark.parametrize(
    ("definition", "operator", "allowance", "own", "holds"),
    [
        ({"max_steps": 5}, None, None, None, {"max_steps": 5}),
        ({"max_steps": 5}, {"max_steps": 3}, None, None, {"max_steps": 3}),
        ({"max_steps": 3}, {"max_steps": 5}, None, {"max_steps": 4}, {"max_steps": 3}),
        ({"max_steps": 5}, {"max_steps": 4}, None, {"max_steps": 3}, {"max_steps": 3}),
        ({"max_steps": 5}, {"max_steps": 4}, {"max_steps": 9}, None, {"max_steps": 9}),
        ({"max_steps": 5}, {"max_steps": 4}, {"max_steps": 9}, {"max_steps": 7}, {"max_steps": 7}),
        ({"max_steps": None}, {"max_steps": None}, None, {"max_cost_usd": 0.25}, {"max_cost_usd": 0.25}),
        (
            {"on_limit": "land", "max_steps": 5},
            None,
            {"max_tokens": 8},
            None,
            {"max_steps": 5, "max_tokens": 8},
        ),
        (None, None, None, None, {}),
    ],
)
def test_smallest_value_holds(
    world: World, definition: Row, operator: Row, allowance: Row, own: Row, holds: Row
) -> None:
    values = [None if each is None else Jsonb(each) for each in (definition, operator, allowance, own)]
    assert world.one("select runhold.effective_limits(%s, %s, %s, %s)", *values) == holds


def test_each_run_has_the_limits_of_the_definition_that_claimed_it(world: World) -> None:
    old, new, user = world.worker(OLD), world.worker(NEW), world.person()
    by_old, by_new = world.running(old, user), world.running(new, user)
    assert (effective(world, by_old["id"]), effective(world, by_new["id"])) == (2, 5)
    assert (by_old["limits"]["max_steps"], by_new["limits"]["max_steps"]) == (2, 5)
    assert [goes_on(old, by_old, n) for n in (1, 2, 3)] == ["ok", "ok", "MAX_STEPS_EXCEEDED"]
    assert [goes_on(new, by_new, n) for n in (1, 2, 3, 4, 5, 6)] == ["ok"] * 5 + ["MAX_STEPS_EXCEEDED"]


def test_old_worker_that_restarts_changes_nothing(world: World) -> None:
    """Neither for runs of the new version, nor for what is inserted, retried or shown of the type."""
    straggler = {**OLD, "max_attempts": 1, "review_ttl_s": 60, "input_schema": {"type": "string"}}
    world.worker(straggler)
    new, user = world.worker({**NEW, "max_attempts": 4, "review_ttl_s": 7200}), world.person()
    run = world.running(new, user)
    for _ in range(2):
        world.worker(straggler)
        assert current(world) == "Version 2."
    assert [goes_on(new, run, n) for n in (1, 2, 3)] == ["ok"] * 3
    world.gate(new, run, step_number=4)
    lasts = world.one(
        "select expires_at - requested_at from agent_reviews where execution_id = %s", run["id"]
    )
    assert lasts.total_seconds() == 7200
    assert world.one("select runhold.max_attempts(x) from agent_executions x where id = %s", run["id"]) == 4
    world.submit(user, limits={"max_steps": 4})
    new.end(run, "failed", error="MAX_STEPS_EXCEEDED", detail={"limit": "max_steps", "allowed": 4})
    assert world.user(user, "select agent_retry(%s)", run["id"])
    assert effective(world, run["id"]) == 5


def test_versions_that_differ_in_what_users_see_alone_do_not_flip_either(world: World) -> None:
    world.worker(version(1))
    world.worker({**version(1), "description": "Better words."})
    world.worker(version(1))
    assert current(world) == "Better words."


def test_rollback_is_done_when_the_last_newer_worker_has_left(world: World) -> None:
    world.worker(OLD)
    one, other = world.worker(NEW), world.worker(NEW)
    world.worker(OLD)
    one.stop(draining=False)
    assert current(world) == "Version 2."
    other.stop(draining=True)  # it claims nothing any more
    assert current(world) == "Version 1."
    other.stop(draining=False)
    world.worker(NEW)  # and forward again
    assert current(world) == "Version 2."


def test_type_of_which_no_worker_lives_stays_as_it_was(world: World) -> None:
    world.worker(OLD).stop(draining=False)
    world.worker(NEW).stop(draining=False)
    world.sweep()
    assert current(world) == "Version 2."


def test_sweep_adopts_when_the_newer_worker_was_lost(world: World) -> None:
    old, _lost = world.worker(OLD), world.worker(NEW, lease_ms=5_000)
    for seconds in (5, 12, 19, 26, 33, 40):
        world.at(seconds)
        old.heartbeat()
        world.sweep()
    assert current(world) == "Version 1."


def test_two_who_change_workers_at_once_are_put_right_by_the_sweep(world: World) -> None:
    """The newer one registers while the older one does, and neither sees the other's row."""
    world.worker(OLD)
    newer, over = world.worker(NEW), world.another()
    with over.acting("service_role") as cursor:
        register(cursor, NEW, "22222222-2222-2222-2222-222222222222")
        newer.stop(draining=False)
        assert current(world) == "Version 1."
    world.sweep()
    assert current(world) == "Version 2."


def register(cursor: Any, definition: Row, identity: str) -> None:
    worker = {"id": identity, "hostname": "h", "pid": 1, "version": "0", "capacity": 4, "lease_ms": 20_000}
    cursor.execute("select agent_worker_register(%s, %s)", (Jsonb(worker), Jsonb([definition])))


def test_insert_with_wider_limits_than_the_definitions_gets_the_definitions(world: World) -> None:
    worker, user = world.worker(OLD), world.person()
    run = world.running(worker, user, limits={"max_steps": 1000, "max_tokens": 7})
    assert (run["limits"]["max_steps"], run["limits"]["max_tokens"]) == (2, 7)


def test_claim_under_a_definition_that_was_never_registered_is_refused(world: World) -> None:
    worker, other = world.worker(), world.worker({**DEFINITION, "agent_type": "reader"})
    world.submit(world.person())
    for wrong in ("11111111-1111-1111-1111-111111111111", other.definitions["reader"]):
        with refused("RH013", says="never registered"):
            Worker(world, worker.id, {"writer": wrong}).claim()
    assert len(worker.claim(seq=1)) == 1


def test_lost_claim_and_log_repeat_the_same_limits(world: World) -> None:
    worker, user = world.worker(OLD), world.person()
    run = world.running(worker, user)
    world.worker(NEW)
    (again,) = worker.claim(seq=worker.claim_seq)
    log = world.service("select agent_worker_log(%s, %s, %s)", worker.id, run["id"], run["fence"])
    assert run["limits"] == again["limits"] == log["limits"]


# -- operators ------------------------------------------------------------------------------------------------------


def test_operator_changes_what_holds_for_running_runs_and_no_others(world: World) -> None:
    worker, user = world.worker(NEW, {**NEW, "agent_type": "reader"}), world.person()
    run = world.running(worker, user, limits={"max_tokens": 100})
    other = world.running(worker, user, agent_type="reader")
    world.configure(limits={"max_steps": 1, "max_tokens": 200})
    assert (effective(world, run["id"]), effective(world, run["id"], "max_tokens")) == (1, 100)
    assert effective(world, other["id"]) == 5
    world.configure(limits=None)  # a mistake that is taken back in time ends nothing
    assert effective(world, run["id"]) == 5
    assert [goes_on(worker, run, n) for n in (1, 2)] == ["ok", "ok"]


def test_allowance_of_a_run_outlives_what_operators_do_to_its_type(world: World) -> None:
    worker, user = world.worker(NEW), world.person()
    run = world.running(worker, user)
    worker.end(run, "failed", error="MODEL_ERROR")
    world.service("select agent_retry(%s, %s)", run["id"], Jsonb({"max_steps": 9}))
    (run,) = worker.claim()
    assert run["limits"]["max_steps"] == 9
    world.configure(limits={"max_steps": 1, "max_tokens": 1000})
    assert (effective(world, run["id"]), effective(world, run["id"], "max_tokens")) == (9, 1000)
    made = world.user(user, "select agent_fork(%s, 1) as run", run["id"])[0]["run"]
    assert (made["allowance"], made["effective_limits"]) == (None, None)
    (fork,) = worker.claim()
    assert fork["limits"]["max_steps"] == 1


def test_operator_does_not_wait_for_a_record_and_the_sweep_does_the_rest(world: World) -> None:
    worker, user = world.worker(NEW), world.person()
    held, free = world.running(worker, user), world.running(worker, user)
    over = world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (held["id"],))
        world.configure(limits={"max_steps": 1})
        assert (effective(world, held["id"]), effective(world, free["id"])) == (5, 1)
    assert world.sweep()["repaired"] == 1
    assert effective(world, held["id"]) == 1
    assert world.sweep()["repaired"] == 0
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (held["id"],))
        world.configure(limits=None)  # taken away
        assert (effective(world, held["id"]), effective(world, free["id"])) == (1, 5)
    assert world.sweep()["repaired"] == 1
    assert effective(world, held["id"]) == 5


def test_claim_that_meets_an_operator_is_caught_up_by_the_sweep(world: World) -> None:
    worker, user, over = world.worker(NEW), world.person(), world.another()
    run_id = world.submit(user)
    with over.acting(None) as cursor:
        cursor.execute("update agent_types set limits = '{\"max_steps\": 1}'")
        (run,) = worker.claim()
    assert (run["limits"]["max_steps"], effective(world, run_id)) == (5, 5)
    world.sweep()
    assert effective(world, run_id) == 1
    assert [goes_on(worker, run, n) for n in (1, 2)] == ["ok", "MAX_STEPS_EXCEEDED"]


# -- retry ----------------------------------------------------------------------------------------------------------


def test_retry_after_a_deployment_with_wider_limits_goes_on(world: World) -> None:
    """The run is judged by the definition that the type has now, not by the one that ended it."""
    old, user = world.worker(OLD), world.person()
    run = world.running(old, user)
    assert [goes_on(old, run, n) for n in (1, 2)] == ["ok"] * 2
    old.end(run, "failed", error="MAX_STEPS_EXCEEDED", detail={"limit": "max_steps", "allowed": 2, "used": 2})
    with refused("RH019", says="max_steps is used up (2 of 2)"):
        world.user(user, "select agent_retry(%s)", run["id"])
    with refused("RH019"):  # the owner can not go beyond the definition either
        world.user(user, "select agent_retry(%s, %s)", run["id"], Jsonb({"max_steps": 100}))
    new = world.worker(NEW)
    world.user(user, "select agent_retry(%s)", run["id"])
    (again,) = new.claim()
    assert again["limits"]["max_steps"] == 5


def test_efficiency_is_measured_by_what_held_for_the_run(world: World) -> None:
    old, new, user = world.worker(OLD), world.worker(NEW), world.person()
    for worker in (old, new):
        run = world.running(worker, user)
        worker.record(run, steps=[step(1, worker.definition)])
        worker.end(run, "completed", result=1)
    world.configure(limits={"max_steps": 1})
    assert world.service("select agent_health_metrics()")["steps"]["efficiency"] == 0.35  # of 1/2 and 1/5
