"""Somebody is erased, or an old run pruned, at the very instant at which a person does something with the same rows.

An eraser's first lock is the user's row, which whoever comes after has to wait for; so it is taken by hand here, and the
rest follows when the other one waits.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from world import World, refused, step


def talk(world: World, owner: str, run_id: str) -> None:
    world.user(owner, "select agent_send(%s, 'Wait.')", run_id)


def fork(world: World, owner: str, run_id: str) -> None:
    world.user(owner, "select agent_fork(%s, 1)", run_id)


def retry(world: World, owner: str, run_id: str) -> None:
    world.user(owner, "select agent_retry(%s)", run_id)


def cancel(world: World, owner: str, run_id: str) -> None:
    world.user(owner, "select agent_cancel(%s)", run_id)


@pytest.mark.parametrize("act", [talk, fork, retry, cancel])
def test_owner_who_acts_while_they_are_erased_finds_no_run(
    arena: World, act: Callable[[World, str, str], None]
) -> None:
    worker, owner = arena.worker(), arena.person()
    run = arena.running(worker, owner)
    worker.record(run, steps=[step(1, worker.definition)])
    if act is retry:
        worker.end(run, "failed", error="TOOL_FAILED")
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("select from auth.users where id = %s for update", (owner,))
        acting = arena.background(lambda: act(arena, owner, run["id"]))
        assert acting.waits()
        cursor.execute("delete from auth.users where id = %s", (owner,))
    with refused("RH006", hint="deleted at this instant"):
        acting.result()
    assert arena.one("select count(*) from agent_executions") == 0


def test_operator_who_talks_to_a_run_while_its_owner_is_erased_finds_no_run(arena: World) -> None:
    worker, owner, operator = arena.worker(), arena.person(), arena.reviewer(role="operator")
    run = arena.running(worker, owner)
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("select from auth.users where id = %s for update", (owner,))
        talking = arena.background(lambda: talk(arena, operator, run["id"]))
        assert talking.waits()
        cursor.execute("delete from auth.users where id = %s", (owner,))
    with refused("RH006"):
        talking.result()


def test_operator_who_is_erased_while_they_talk_says_nothing(arena: World) -> None:
    worker, owner, operator = arena.worker(), arena.person(), arena.reviewer(role="operator")
    run = arena.running(worker, owner)
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("delete from auth.users where id = %s", (operator,))
        talking = arena.background(lambda: talk(arena, operator, run["id"]))
        assert talking.waits()
    with refused("RH006"):
        talking.result()
    assert arena.one("select count(*) from agent_messages") == 0


def test_reviewer_who_decides_about_their_own_run_while_they_are_erased(arena: World) -> None:
    worker, owner = arena.worker(), arena.reviewer()
    arena.configure(allow_self_review=True)
    _, (review,) = arena.paused(worker, owner)
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("select from auth.users where id = %s for update", (owner,))
        deciding = arena.background(lambda: arena.decide(owner, review["id"]))
        assert deciding.waits()
        cursor.execute("delete from auth.users where id = %s", (owner,))
    with refused("RH010", says="this one was erased"):
        deciding.result()
    assert arena.one("select count(*) from agent_reviews") == 0


def test_reviewer_who_is_erased_while_they_decide_decides_nothing(arena: World) -> None:
    worker, reviewer = arena.worker(), arena.reviewer()
    run, (review,) = arena.paused(worker, arena.person())
    eraser = arena.another()
    with eraser.acting(None) as cursor:
        cursor.execute("delete from auth.users where id = %s", (reviewer,))
        deciding = arena.background(lambda: arena.decide(reviewer, review["id"]))
        assert deciding.waits()
    with refused("RH010", says="this one was erased"):
        deciding.result()
    assert arena.status(run["id"]) == "awaiting_review"


def test_decision_about_a_run_whose_owner_is_being_erased_does_not_deadlock(arena: World) -> None:
    """Somebody holds an event of the run, so that the eraser has deleted the run, and not yet its reviews."""
    worker, owner, reviewer = arena.worker(), arena.person(), arena.reviewer()
    run, (review,) = arena.paused(worker, owner)
    holder, eraser = arena.another(), arena.another()
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_events where execution_id = %s for update", (run["id"],))
        erasing = eraser.background(lambda: eraser.sql("delete from auth.users where id = %s", owner))
        assert erasing.waits()
        deciding = arena.background(lambda: arena.decide(reviewer, review["id"]))
        assert deciding.waits()
    erasing.result()
    assert deciding.result() == []
    assert arena.one("select count(*) from agent_executions") == 0


def test_erasing_waits_for_the_decision_that_came_first(arena: World) -> None:
    worker, owner, reviewer = arena.worker(), arena.person(), arena.reviewer()
    run, (review,) = arena.paused(worker, owner)
    holder, side, eraser = arena.another(), arena.another(), arena.another()
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run["id"],))
        deciding = side.background(lambda: side.decide(reviewer, review["id"]))
        assert deciding.waits()
        erasing = eraser.background(lambda: eraser.sql("delete from auth.users where id = %s", owner))
        assert erasing.waits()
    assert deciding.result()[0]["status"] == "approved"
    erasing.result()
    assert arena.one("select count(*) from agent_executions") == 0


def test_erasing_a_first_approver_meets_the_second_and_a_decision_about_their_own_run(arena: World) -> None:
    """One reviewer decides two reviews at once: one that the erased person has approved, one of that person's own run."""
    worker, gone, second = arena.worker(), arena.reviewer(), arena.reviewer()
    arena.configure(approvals_needed=2)
    other, (shared,) = arena.paused(worker, arena.person())
    own, (theirs,) = arena.paused(worker, gone)
    arena.decide(gone, shared["id"])
    arena.decide(arena.reviewer(), theirs["id"])
    holder, eraser = arena.another(), arena.another()
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_events where execution_id = %s for update", (own["id"],))
        erasing = eraser.background(lambda: eraser.sql("delete from auth.users where id = %s", gone))
        assert erasing.waits()
        both = "update agent_reviews set status = 'approved' where id = any (%s)"
        deciding = arena.background(lambda: arena.user(second, both, sorted([shared["id"], theirs["id"]])))
        assert deciding.waits()
    erasing.result()
    deciding.result()
    assert arena.review(shared["id"])["approvals_given"] == 1, "the erased person's counts no more"
    arena.decide(arena.reviewer(), shared["id"])
    assert arena.status(other["id"]) == "pending"
    assert arena.one("select count(*) from agent_executions") == 1


def test_prune_leaves_ended_runs_alone_that_somebody_may_be_deciding_about(arena: World) -> None:
    """It would wait for the review while it holds the run, and the reviewer the other way round."""
    worker = arena.worker()
    run, (review,) = arena.paused(worker, arena.person())
    # as a cancel leaves it whose reviewer was deciding at that instant, and gave up
    arena.sql(
        "update agent_executions set status = 'cancelled', cancel_requested_at = now() where id = %s",
        run["id"],
    )
    holder, late = arena.another(), arena.another()
    late.at(7200)
    with holder.acting(None) as cursor:
        cursor.execute("select from agent_events where execution_id = %s for update", (run["id"],))
        pruning = late.background(lambda: late.service("select agent_prune('1 hour')"))
        assert not pruning.waits()
        deciding = arena.background(lambda: arena.decide(arena.reviewer(), review["id"]))
        deciding.result()
    assert pruning.result() == 0
    late.sweep()
    assert late.service("select agent_prune('1 hour')") == 1
