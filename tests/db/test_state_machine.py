"""Every pair of states, as every role: a trigger holds against everybody."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from world import Worker, World, refused

STATES = ("pending", "running", "completed", "failed", "cancelled", "awaiting_review")
LEGAL = {
    ("pending", "running"),
    ("pending", "cancelled"),
    ("pending", "failed"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "awaiting_review"),
    ("running", "pending"),
    ("awaiting_review", "pending"),
    ("awaiting_review", "failed"),
    ("awaiting_review", "cancelled"),
    ("failed", "pending"),
}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "states.md"
PAIRS = [pair for pair in itertools.product(STATES, STATES) if pair[0] != pair[1]]


def a_run_that_is(world: World, worker: Worker, state: str) -> str:
    """A run brought into ``state`` as runs get there."""
    user = world.person()
    if state == "pending":
        return world.submit(user)
    if state == "awaiting_review":
        return world.paused(worker, user)[0]["id"]
    run = world.running(worker, user)
    if state == "cancelled":
        world.user(user, "select agent_cancel(%s)", run["id"])
    if state != "running":
        ends = {"completed": {"result": 1}, "failed": {"error": "TOOL_FAILED"}, "cancelled": {}}
        assert worker.end(run, state, **ends[state])["verdict"] == "ok"
    return run["id"]


def change(world: World, worker: Worker, run_id: str, to: str) -> None:
    """What only the owner of the tables could try: all columns as ``to`` needs them."""
    world.sql(
        "update agent_executions set status = %s, worker_id = %s, error = %s, result = null,"
        " definition_id = gen_random_uuid(), effective_limits = '{}' where id = %s",
        to,
        worker.id if to == "running" else None,
        "INTERNAL_ERROR" if to == "failed" else None,
        run_id,
    )


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_only_legal_changes_of_state_are_possible(world: World, old: str, new: str) -> None:
    worker = world.worker()
    run_id = a_run_that_is(world, worker, old)
    assert world.status(run_id) == old
    if (old, new) in LEGAL:
        change(world, worker, run_id, new)
        row = world.run(run_id)
        assert row["status"] == new
        assert (row["completed_at"] is not None) == (new in ("completed", "failed", "cancelled"))
        assert (row["worker_id"] is not None) == (new == "running")
    else:
        with refused("RH005", says=f"A run can not go from {old} to {new}."):
            change(world, worker, run_id, new)
        assert world.status(run_id) == old


def test_function_page_and_table_here_say_the_same(world: World) -> None:
    rows = world.sql(
        "select f.s as old, t.s as new from unnest(%s::text[]) f(s), unnest(%s::text[]) t(s)"
        " where runhold.is_legal_transition(f.s, t.s)",
        list(STATES),
        list(STATES),
    )
    assert {(row["old"], row["new"]) for row in rows} == LEGAL
    diagram = PAGE.read_text("utf-8").split("```mermaid")[1].split("```")[0]
    arrows = set(re.findall(r"^\s*(\S+) --> (\w+|\[\*\])", diagram, re.MULTILINE))
    assert {(old, new) for old, new in arrows if "[*]" not in (old, new)} == LEGAL
    assert {new for old, new in arrows if old == "[*]"} == {"pending"}
    goes_nowhere = set(STATES) - {old for old, _ in LEGAL}
    assert {old for old, new in arrows if new == "[*]"} == goes_nowhere == {"completed", "cancelled"}


def test_states_of_the_page_are_those_of_the_table(world: World) -> None:
    check = world.one("select pg_get_constraintdef(oid) from pg_constraint where conname = 'valid_status'")
    assert set(re.findall(r"'(\w+)'", check)) == set(STATES)
    calls = world.one(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'valid_call_status'"
    )
    section = PAGE.read_text("utf-8").split("## States of a tool call")[1].split("## ")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert told == set(re.findall(r"'(\w+)'", calls))


@pytest.mark.parametrize("state", STATES)
def test_service_changes_no_state_by_hand(world: World, state: str) -> None:
    """Not even where the change would be legal: states are changed by functions alone."""
    worker = world.worker()
    for old in STATES:
        run_id = a_run_that_is(world, worker, old)
        with refused("42501"), world.acting("service_role") as cursor:
            cursor.execute("update agent_executions set status = %s where id = %s", (state, run_id))
        assert world.status(run_id) == old


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize(
    "column", ["status", "result", "fence", "worker_id", "limits", "cancel_requested_at"]
)
def test_no_client_writes_to_a_run_directly(world: World, role: str, column: str) -> None:
    world.worker()
    user = world.person()
    run_id = world.submit(user)
    with refused("42501"), world.acting(role, user) as cursor:
        cursor.execute(f"update agent_executions set {column} = default where id = %s", (run_id,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("worker_id = gen_random_uuid()", "worker_set_iff_running"),
        ("completed_at = now()", "completed_at_set_iff_final"),
        ("error = 'X'", "error_set_iff_failed"),
        ("result = '1'", "result_only_if_completed"),
        ("input_data = '[]'", "input_is_an_object"),
        ("state = '[]'", "state_is_a_small_object"),
        ("state = jsonb_build_object('x', repeat('y', 8192))", "state_is_a_small_object"),
        ("token_count = -1", "counters_never_negative"),
    ],
)
def test_impossible_rows_are_impossible(world: World, change: str, sentence: str) -> None:
    world.worker()
    run_id = world.submit(world.person())
    with refused("23514", says=sentence):
        world.sql(f"update agent_executions set {change} where id = %s", run_id)


def test_time_is_added_up_by_state(world: World) -> None:
    worker, reviewer, user = world.worker(lease_ms=600_000), world.reviewer(), world.person()
    world.at(0)
    run_id = world.submit(user)
    world.at(10)
    (run,) = worker.claim()
    world.gate(worker, run)
    world.at(20)
    worker.end(run, "awaiting_review")
    world.at(50)
    world.decide(reviewer, world.open_reviews(run_id)[0]["id"])
    world.at(55)
    (run,) = worker.claim()
    worker.end(run, "completed", result={})
    row = world.run(run_id)
    assert round(row["queued_ms"], -3) == 15_000
    assert round(row["review_ms"], -3) == 30_000
    assert row["active_ms"] == 0  # told by the worker


def test_every_change_is_an_event_that_says_who_did_it(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"])
    world.user(user, "select agent_cancel(%s, 'enough')", run["id"])
    story = [
        (row["kind"], row["actor_kind"], str(row["actor_id"]), row["data"])
        for row in world.sql("select * from agent_events where execution_id = %s order by id", run["id"])
    ]
    about = {"review_id": str(review["id"]), "kind": "approval", "tool_name": "send"}
    assert story[0] == ("submitted", "user", user, None)
    assert story[1] == ("claimed", "worker", worker.id, {"attempt": 1})
    assert story[2] == ("review_requested", "worker", worker.id, about)
    assert story[3] == ("paused", "worker", worker.id, {})
    assert story[4] == ("review_approved", "reviewer", reviewer, about)
    assert story[5] == ("resumed", "reviewer", reviewer, {})
    kind, actor, actor_id, data = story[6]
    assert (kind, actor, actor_id, data["detail"]["reason"]) == ("cancelled", "user", user, "enough")
    assert [kind for kind, *_ in story[7:]] == ["cancel_requested"]


def test_event_of_each_run_has_its_own_reason(world: World) -> None:
    worker, user = world.worker(), world.person()
    first, second = world.running(worker, user), world.running(worker, user)
    worker.record_all(
        [
            worker.entry(first, transition={"to": "pending", "reason": "shutdown"}),
            worker.entry(second, transition={"to": "pending", "reason": "model_outage", "delay_ms": 5000}),
        ]
    )
    reasons = {
        str(row["execution_id"]): row["data"]["reason"]
        for row in world.sql("select * from agent_events where kind = 'requeued'")
    }
    assert reasons == {first["id"]: "shutdown", second["id"]: "model_outage"}
