"""``agent_types.approval_tools``: SQL starts nothing that an operator gated, whatever the worker has heard."""

from __future__ import annotations

from typing import Any

import pytest
from world import Row, Worker, World, call, result, step

FIRST: Row = {"step_number": 1, "position": 0}


def gated(world: World, *tools: str) -> None:
    world.configure(approval_tools=list(tools))


def record_call(worker: Worker, run: Row, tool: str, effect: str, status: str, **more: Any) -> Row:
    return worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, tool, effect, status)], **more
    )


@pytest.mark.parametrize(
    ("tool", "effect", "status"),
    [
        ("send", "unsafe", "running"),
        ("save", "idempotent", "running"),
        ("save", "idempotent", "pending"),
        ("look", "read", "pending"),
    ],
)
def test_new_call_of_a_gated_tool_waits_for_a_person(
    world: World, tool: str, effect: str, status: str
) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, tool)
    verdict = record_call(worker, run, tool, effect, status)
    assert verdict["verdict"] == "continue"
    (told,) = verdict["calls"]
    assert (told["status"], told["attempt"], told["input"]) == ("awaiting_review", 0, {"n": 0})
    (asked,) = verdict["reviews"]
    assert (asked["kind"], asked["status"], asked["position"]) == ("approval", "pending", 0)
    (review,) = world.open_reviews(run["id"])
    assert (review["tool_name"], review["summary"]) == (tool, f"{tool}(n=0)")
    assert review["proposed_input"] == {"n": 0}
    row = world.run(run["id"])
    assert (row["status"], row["review_count"], row["step_count"]) == ("running", 1, 1)
    assert world.events(run["id"]).count("review_requested") == 1


def test_lost_answer_about_a_gated_call_is_answered_the_same(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    gated(world, "send")
    entry = worker.entry(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")]
    )
    (first,) = worker.record_all([entry])
    assert worker.record_all([entry]) == [first]
    gated(world)
    assert worker.record_all([entry]) == [first], "also if the gate is open by now"
    assert len(world.open_reviews(run["id"])) == 1
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"], "rejected")
    (rejected,) = worker.record_all([entry])
    assert (rejected["verdict"], rejected["calls"][0]["status"]) == ("continue", "rejected")


def test_gated_call_runs_once_it_is_approved(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    gated(world, "send")
    record_call(worker, run, "send", "unsafe", "running")
    assert worker.end(run, "awaiting_review")["verdict"] == "ok"
    assert world.status(run["id"]) == "awaiting_review"
    (review,) = world.open_reviews(run["id"])
    world.decide(reviewer, review["id"])
    (again,) = worker.claim()
    verdict = worker.record(again, starts=[FIRST])
    assert verdict["verdict"] == "ok"
    assert (verdict["started"][0]["taken"], verdict["started"][0]["attempt"]) == (True, 1)
    assert world.review(review["id"])["used_at"] is not None


def test_others_in_the_same_entry_and_flush_go_on(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, other = world.running(worker, user), world.running(worker, user)
    gated(world, "send")
    mixed, plain = worker.record_all(
        [
            worker.entry(
                run,
                steps=[step(1, worker.definition)],
                calls=[call(1, 0, "save", "idempotent", "running"), call(1, 1, "send", "unsafe", "running")],
            ),
            worker.entry(
                other,
                steps=[step(1, worker.definition)],
                calls=[call(1, 0, "save", "idempotent", "running")],
            ),
        ]
    )
    assert mixed["verdict"] == "continue"
    assert [told["status"] for told in mixed["calls"]] == ["running", "awaiting_review"]
    assert plain["verdict"] == "ok"


def test_gate_of_another_type_does_not_matter(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.sql("insert into agent_types (name, approval_tools) values ('gated_elsewhere', '{send}')")
    run = world.running(worker, user)
    assert record_call(worker, run, "send", "unsafe", "running")["verdict"] == "ok"
    assert world.calls(run["id"])[0]["status"] == "running"


@pytest.mark.parametrize(
    ("tool", "effect", "status"),
    [
        ("look", "read", "running"),  # a read overlaps its own record: it may have begun
        ("send", "unsafe", "succeeded"),
        ("send", "unsafe", "failed"),
        ("ask_person", "read", "pending"),  # it asks a person anyway
    ],
)
def test_what_has_happened_is_stored_as_it_is(world: World, tool: str, effect: str, status: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, tool)
    assert record_call(worker, run, tool, effect, status)["verdict"] == "ok"
    assert world.calls(run["id"])[0]["status"] == status
    assert world.open_reviews(run["id"]) == []


def test_result_of_a_read_that_ran_is_stored(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, "look")
    record_call(worker, run, "look", "read", "running")
    assert worker.record(run, results=[result(1, 0, output={"seen": 1})])["verdict"] == "ok"
    (stored,) = world.calls(run["id"])
    assert (stored["status"], stored["tool_output"]) == ("succeeded", {"seen": 1})


def test_stop_goes_before_the_gate(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, "send")
    world.user(user, "select agent_cancel(%s)", run["id"])
    verdict = record_call(worker, run, "send", "unsafe", "running")
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED")
    assert (world.calls(run["id"]), world.open_reviews(run["id"])) == ([], [])


@pytest.mark.parametrize(("tool", "effect"), [("save", "idempotent"), ("look", "read")])
def test_stored_call_of_a_gated_tool_is_asked_about_instead_of_started(
    world: World, tool: str, effect: str
) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    record_call(worker, run, tool, effect, "running")
    worker.release(run)
    (run,) = worker.claim()
    gated(world, tool)
    entry = worker.entry(run, starts=[FIRST])
    (first,) = worker.record_all([entry])
    assert first["verdict"] == "continue"
    (started,) = first["started"]
    assert (started["taken"], started["reason"]) == (False, "not_approved")
    assert first["calls"][0]["status"] == "awaiting_review"
    assert worker.record_all([entry]) == [first], "a lost answer"
    (review,) = world.open_reviews(run["id"])
    assert review["summary"] == f"It was begun before approval was needed, and cut off. {tool}(n=0)"
    world.decide(reviewer, review["id"])
    verdict = worker.record(run, starts=[FIRST])
    assert (verdict["started"][0]["taken"], verdict["started"][0]["attempt"]) == (True, 2)


def test_used_approval_covers_every_attempt_of_its_call(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    gated(world, "save")
    run = world.running(worker, user)
    record_call(worker, run, "save", "idempotent", "running")
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"])
    assert worker.record(run, starts=[FIRST])["started"][0]["taken"] is True
    worker.release(run)  # cut off
    (run,) = worker.claim()
    verdict = worker.record(run, starts=[FIRST])
    assert verdict["verdict"] == "ok"
    assert (verdict["started"][0]["taken"], verdict["started"][0]["attempt"]) == (True, 2)
    assert world.open_reviews(run["id"]) == []


def test_summary_of_long_arguments_is_cut(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, "send")
    arguments = {f"argument_{n}": "x" * 100 for n in range(5)}
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "send", "unsafe", "running", input=arguments)],
    )
    (review,) = world.open_reviews(run["id"])
    assert review["summary"].startswith('send(argument_0="xxx')
    assert (len(review["summary"]), review["summary"][-1]) == (200, "…")


def test_summary_says_that_a_redacted_value_is_there(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, "send")
    arguments = {"to": "bo", "card": {"$redacted": "v1:xyz"}}
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "send", "unsafe", "running", input=arguments)],
    )
    assert world.open_reviews(run["id"])[0]["summary"] == 'send(to="bo", card=[redacted])'


def test_run_that_leaves_with_a_gated_call_waits_for_the_person(world: World) -> None:
    """No worker of ours sends such an entry: an intent and the end of the run. It starts nothing either."""
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    gated(world, "send")
    verdict = record_call(worker, run, "send", "unsafe", "running", transition={"to": "awaiting_review"})
    assert verdict["verdict"] == "ok"
    assert world.status(run["id"]) == "awaiting_review"
    assert len(world.open_reviews(run["id"])) == 1
