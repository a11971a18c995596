"""agent_fork: a new run that shares the beginning of another one."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from test_state_machine import STATES, a_run_that_is
from world import Row, Worker, World, call, refused, step


def fork(world: World, user: str, run_id: str, from_step: int | None) -> Row:
    return world.user(user, "select agent_fork(%s, %s)", run_id, from_step)[0]["agent_fork"]


def three_steps(world: World, worker: Worker, user: str, **columns: Any) -> Row:
    """A running run with three steps of 10 tokens and 0.25 USD, and two calls in each."""
    run = world.running(worker, user, **columns)
    for number in (1, 2, 3):
        worker.record(
            run,
            steps=[
                step(
                    number,
                    worker.definition,
                    cost_usd=0.25,
                    cached_tokens=3,
                    injected=[{"role": "user", "content": f"said {number}"}],
                    max_output_tokens=100 + number,
                    streamed=True,
                    landing="max_steps",
                )
            ],
            calls=[
                call(number, 0, "look", "read", "succeeded", output={"n": number}, shown="cut"),
                call(number, 1, "send", "unsafe", "failed", error="no such address"),
            ],
            state={"seen": number},
            active_ms=1000,
        )
    return run


def log(world: World, run_id: str) -> tuple[list[Row], list[Row]]:
    """Steps and calls as they are, but for whose they are and what they cost."""
    steps = world.sql("select * from agent_steps where execution_id = %s order by step_number", run_id)
    drop = {"execution_id", "id", "cost_usd"}
    return tuple(
        [{k: v for k, v in row.items() if k not in drop} for row in rows]
        for rows in (steps, world.calls(run_id))
    )  # type: ignore[return-value]


def test_steps_before_are_copied_with_their_results_and_the_rest_is_decided_anew(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    worker.end(run, "completed", result=1)
    answer = fork(world, user, run["id"], 3)
    assert (answer["status"], answer["forked_from"], answer["result"]) == ("pending", run["id"], None)
    steps, calls = log(world, run["id"])
    assert log(world, answer["id"]) == (steps[:2], calls[:4])

    (forked,) = worker.claim()
    assert forked["id"] == answer["id"]
    assert (forked["state"], forked["active_ms"], forked["resumed_after_step"]) == ({}, 0, 2)
    assert [c["status"] for c in forked["calls"]] == ["succeeded", "failed"] * 2
    assert worker.record(forked, starts=[{"step_number": 1, "position": 1}])["started"][0]["taken"] is False
    assert worker.record(forked, steps=[step(3, worker.definition)])["verdict"] == "ok"
    assert worker.end(forked, "completed", result=2)["verdict"] == "ok"
    assert (world.run(run["id"])["result"], log(world, run["id"])) == (1, (steps, calls))


def test_fork_from_the_beginning_has_no_steps(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    answer = fork(world, user, run["id"], 1)
    assert log(world, answer["id"]) == ([], [])
    assert (answer["step_count"], answer["token_count"], answer["tool_call_count"]) == (0, 0, 0)


def test_fork_behind_the_last_step_copies_all(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    assert log(world, fork(world, user, run["id"], 4)["id"]) == log(world, run["id"])


def test_new_run_is_asked_for_the_same(world: World) -> None:
    worker, user = world.worker(), world.person()
    operator = world.reviewer(role="operator")
    run = three_steps(
        world,
        worker,
        user,
        limits={"max_steps": 9},
        metadata={"a": 1},
        idempotency_key="k",
        input_data={"q": 1},
    )
    world.sql("update agent_executions set priority = 7, tenant_id = 'acme'")
    forked = fork(world, operator, run["id"], 2)
    assert forked["user_id"] == user
    assert not forked.keys() & {"input_data", "state", "result", "metadata"}, (
        "operators steer, and do not read"
    )
    source, made = world.sql("select * from agent_executions order by created_at")
    same = ("user_id", "tenant_id", "agent_type", "input_data", "limits", "metadata", "priority")
    assert [made[c] for c in same] == [source[c] for c in same]
    assert (made["tenant_id"], made["idempotency_key"]) == ("acme", None)
    (event,) = world.sql("select * from agent_events where execution_id = %s", made["id"])
    assert (event["kind"], event["actor_kind"], str(event["actor_id"])) == ("forked", "reviewer", operator)
    assert event["data"] == {"from": run["id"], "from_step": 2}


def test_copied_steps_count_against_the_limits_and_cost_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user, limits={"max_tokens": 25, "max_steps": 9})
    made = world.run(fork(world, user, run["id"], 3)["id"])
    counted = (
        "step_count",
        "token_count",
        "input_tokens",
        "cached_tokens",
        "tool_call_count",
        "tool_error_count",
    )
    assert [made[c] for c in counted] == [2, 20, 20, 6, 4, 2]
    assert (made["copied_steps"], made["copied_tokens"], made["cost_usd"]) == (2, 20, 0)
    (forked,) = worker.claim()
    assert (forked["cost_usd"], [s["cost_usd"] for s in forked["steps"]]) == (0, [0, 0])
    verdict = worker.record(
        forked, steps=[step(3, worker.definition)], calls=[call(3, 0, "save", "idempotent", "running")]
    )
    assert (verdict["verdict"], verdict["code"]) == ("stop", "MAX_TOKENS_EXCEEDED")
    assert verdict["detail"]["used"] == 30


def test_metrics_count_what_was_copied_once(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    before = world.service("select agent_health_metrics()")
    fork(world, user, run["id"], 3)
    after = world.service("select agent_health_metrics()")
    assert after["runs"] == before["runs"] + 1
    assert (after["cost"]["tokens"], after["cost"]["usd"]) == (
        before["cost"]["tokens"],
        before["cost"]["usd"],
    )
    assert after["tools"] == before["tools"]


@pytest.mark.parametrize("state", STATES)
def test_runs_in_any_state_can_be_forked(world: World, state: str) -> None:
    worker = world.worker()
    run_id = a_run_that_is(world, worker, state)
    before = world.run(run_id)
    answer = fork(world, str(before["user_id"]), run_id, 1)
    assert world.status(answer["id"]) == "pending"
    assert world.run(run_id) == before


@pytest.mark.parametrize("from_step", [None, -1, 0, 5])
def test_step_must_be_one_of_the_run(world: World, from_step: int | None) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    with refused("RH020", says="from_step must be between 1 and 4"):
        fork(world, user, run["id"], from_step)


@pytest.mark.parametrize("status", ["pending", "running", "awaiting_review", "unknown", "cut off"])
def test_call_without_a_result_can_not_be_copied(world: World, status: str) -> None:
    worker, user = world.worker(), world.person()
    if status == "unknown":
        run_id, _ = world.unknown(worker, user)
    elif status == "awaiting_review":
        run_id = world.paused(worker, user)[0]["id"]
    else:
        run = world.running(worker, user)
        stored = "running" if status == "cut off" else status
        worker.record(
            run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "idempotent", stored)]
        )
        if status == "cut off":
            worker.end(run, "failed", error="TOTAL_TIMEOUT")
        run_id = run["id"]
    with refused(
        "RH020", says=f"The call of send in step 1 has no result to copy ({status}).", hint="step 1"
    ):
        fork(world, user, run_id, 2)
    assert world.one("select count(*) from agent_executions") == 1
    fork(world, user, run_id, 1)


def test_reviews_and_messages_stay_with_the_source(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"], "rejected")
    world.user(user, "select agent_send(%s, 'hello')", run["id"])
    made = fork(world, user, run["id"], 2)
    assert made["review_count"] == 0
    for table in ("agent_reviews", "agent_messages"):
        assert world.one(f"select count(*) from {table} where execution_id = %s", made["id"]) == 0
    assert [c["status"] for c in world.calls(made["id"])] == ["rejected"]


def test_limits_are_those_that_the_type_allows_today(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user, limits={"max_steps": 20, "max_tokens": 500})
    worker.end(run, "failed", error="MODEL_ERROR")
    world.service("select agent_retry(%s, %s)", run["id"], Jsonb({"max_tool_calls": 1000}))
    world.configure(limits={"max_steps": 10})
    made = fork(world, user, run["id"], 2)
    assert made["limits"] == {"max_steps": 10, "max_tokens": 500, "max_tool_calls": 1000}
    assert made["allowance"] is None
    (claimed,) = [each for each in worker.claim() if each["id"] == made["id"]]
    assert (
        claimed["limits"]["max_tool_calls"] == 100
    )  # the definition's: what the operator allowed stays behind


def test_strangers_learn_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = three_steps(world, worker, user)
    for nobody in (world.person(), world.reviewer()):
        with refused("RH006", says="There is no such run, or it is not yours."):
            fork(world, nobody, run["id"], 1)
    with refused("42501"):
        world.anon("select agent_fork(%s, 1)", run["id"])
    assert world.service("select agent_fork(%s, 1)", run["id"])["user_id"] == user


def test_no_client_pretends_that_a_run_is_a_fork(world: World) -> None:
    world.worker()
    user = world.person()
    for column in (
        "forked_from",
        "copied_steps",
        "copied_tokens",
        "tenant_id",
        "allowance",
        "resumed_after_step",
    ):
        with refused("42501"), world.acting("authenticated", user) as cursor:
            cursor.execute(
                f"insert into agent_executions (agent_type, input_data, {column}) values ('writer', '{{}}', null)"
            )
