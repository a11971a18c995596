"""Reviews that nobody decides in time: reject (the default), fail, or escalate, as the agent type says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from world import World, call, question, refused, step


def test_time_to_decide_is_the_definitions_or_the_operators(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    assert review["expires_at"] - review["requested_at"] == timedelta(hours=1)
    world.configure(review_ttl=timedelta(minutes=5))
    _, (review,) = world.paused(worker, user)
    assert review["expires_at"] - review["requested_at"] == timedelta(minutes=5)


def test_nothing_expires_before_its_time(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, _ = world.paused(worker, user)
    world.at(3590)
    assert world.sweep()["expired"] == 0
    assert world.status(run["id"]) == "awaiting_review"


def test_reject_lets_the_run_go_on_without_the_call(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, (review,) = world.paused(worker, user)
    world.at(3601)
    assert world.sweep()["expired"] == 1
    assert world.status(run["id"]) == "pending"
    assert world.review(review["id"])["status"] == "expired"
    (rejected,) = world.calls(run["id"])
    assert (rejected["status"], rejected["error"]) == ("rejected", "Nobody decided in time.")
    assert world.sweep()["expired"] == 0
    (event,) = world.sql("select * from agent_events where kind = 'review_expired'")
    assert (event["actor_kind"], event["actor_id"]) == ("system", None)
    assert world.one("select count(*) from agent_review_decisions") == 0


def test_fail_ends_the_run_and_closes_its_other_reviews(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(review_on_expiry="fail")
    run, reviews = world.paused(worker, user, 2)
    world.at(3601)
    world.sweep()
    row = world.run(run["id"])
    assert (row["status"], row["error"]) == ("failed", "REVIEW_EXPIRED")
    assert row["error_detail"]["review_id"] in {str(review["id"]) for review in reviews}
    assert {world.review(review["id"])["status"] for review in reviews} <= {"expired", "cancelled"}
    assert {c["status"] for c in world.calls(run["id"])} == {"rejected"}


def test_escalate_hands_the_review_over_to_operators(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    elsewhere = world.reviewer(role="operator", tool_name="save")
    world.appoint(elsewhere)  # a reviewer here, an operator of something else
    operator = world.reviewer(role="operator", agent_type="writer")
    world.configure(review_on_expiry="escalate")
    run, (review,) = world.paused(worker, user)
    world.at(3601)
    assert world.sweep()["expired"] == 1
    assert world.sweep()["expired"] == 0
    escalated = world.review(review["id"])
    assert (escalated["status"], escalated["expires_at"]) == ("pending", None)
    assert escalated["escalated_at"] is not None
    assert world.status(run["id"]) == "awaiting_review"
    (event,) = world.sql("select * from agent_events where kind = 'review_escalated'")
    assert (event["actor_kind"], event["data"]["review_id"]) == ("system", str(review["id"]))
    for person in (reviewer, elsewhere):
        assert [row["id"] for row in world.user(person, "select id from agent_reviews")] == [review["id"]]
        with refused("RH021", says="this review was handed over to the operators", hint="Ask an operator"):
            world.decide(person, review["id"])
    with refused("RH009"):
        world.decide(user, review["id"])
    world.decide(operator, review["id"])
    assert world.status(run["id"]) == "pending"


def test_owner_who_may_decide_may_not_once_it_is_escalated(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(review_on_expiry="escalate", allow_self_review=True)
    _, (review,) = world.paused(worker, user)
    world.at(3601)
    world.sweep()
    with refused("RH021"):
        world.decide(user, review["id"])


def test_approvals_from_before_count_with_an_operators(world: World) -> None:
    worker, operator = world.worker(), world.reviewer(role="operator")
    world.configure(review_on_expiry="escalate", approvals_needed=2)
    run, (review,) = world.paused(worker, world.person())
    world.decide(world.reviewer(), review["id"])
    world.at(3601)
    world.sweep()
    world.decide(operator, review["id"])
    assert world.status(run["id"]) == "pending"


def test_operators_have_their_own_time_and_then_it_is_rejected(world: World) -> None:
    worker, operator = world.worker(), world.reviewer(role="operator")
    world.configure(review_on_expiry="escalate", escalation_ttl=timedelta(hours=2))
    run, (review,) = world.paused(worker, world.person())
    world.at(3601)
    assert world.sweep()["expired"] == 1
    escalated = world.review(review["id"])
    assert escalated["expires_at"] - escalated["escalated_at"] == timedelta(hours=2)
    world.at(3601 + 7190)
    assert world.sweep()["expired"] == 0
    world.at(3601 + 7210)
    with refused("RH008"):
        world.decide(operator, review["id"])
    assert world.sweep()["expired"] == 1
    assert world.review(review["id"])["status"] == "expired"
    assert world.calls(run["id"])[0]["status"] == "rejected"
    assert world.status(run["id"]) == "pending"


def test_unknown_outcome_that_operators_leave_too_ends_the_run(world: World) -> None:
    worker = world.worker()
    world.configure(review_on_expiry="escalate", escalation_ttl=timedelta(hours=2))
    run_id, _ = world.unknown(worker, world.person())
    world.at(3601)
    world.sweep()
    assert world.status(run_id) == "awaiting_review"
    world.at(3601 + 7210)
    world.sweep()
    assert (world.status(run_id), world.run(run_id)["error"]) == ("failed", "REVIEW_EXPIRED")


def test_operators_hear_of_it(world: World) -> None:
    worker, operator = world.worker(), world.reviewer(role="operator")
    world.configure(review_on_expiry="escalate")
    _, (review,) = world.paused(worker, world.person())
    world.sql("delete from realtime.messages")
    world.at(3601)
    world.sweep()
    (hint,) = world.sql("select payload from realtime.messages where topic = %s", f"reviews:{operator}")
    assert hint["payload"]["id"] == str(review["id"])
    assert hint["payload"]["escalated"] is True


@pytest.mark.parametrize("then", ["reject", "fail"])
def test_unknown_outcome_can_not_be_rejected_only_ended(world: World, then: str) -> None:
    worker = world.worker()
    world.configure(review_on_expiry=then)
    run_id, _ = world.unknown(worker, world.person())
    world.at(3601)
    world.sweep()
    row = world.run(run_id)
    assert (row["status"], row["error"]) == ("failed", "REVIEW_EXPIRED")
    assert world.calls(run_id)[0]["status"] == "unknown"


def test_question_that_nobody_answers_is_a_rejected_call(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "ask_person", "read", "awaiting_review")],
        reviews=[question(1, 0, "question")],
    )
    worker.end(run, "awaiting_review")
    world.at(3601)
    world.sweep()
    assert world.status(run["id"]) == "pending"
    assert world.calls(run["id"])[0]["error"] == "Nobody answered."


def test_reviews_of_a_run_that_is_worked_on_expire_when_it_pauses(world: World) -> None:
    """Nobody waits yet; and what a worker holds is not changed under its hands."""
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.configure(review_ttl=timedelta(minutes=1), review_on_expiry="fail")
    run = world.running(worker, user)
    world.gate(worker, run)
    world.at(61)
    assert world.sweep()["expired"] == 0
    worker.end(run, "awaiting_review")
    assert world.sweep()["expired"] == 1
    assert world.run(run["id"])["error"] == "REVIEW_EXPIRED"


def test_half_decided_review_expires_too(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(approvals_needed=2)
    run, (review,) = world.paused(worker, user)
    world.decide(world.reviewer(), review["id"])
    world.at(3601)
    world.sweep()
    assert world.review(review["id"])["status"] == "expired"
    assert world.calls(run["id"])[0]["status"] == "rejected"


def test_many_expired_reviews_are_swept_in_one_go(world: World) -> None:
    worker, user = world.worker(), world.person()
    runs = [world.paused(worker, user, 3)[0]["id"] for _ in range(10)]
    world.at(3601)
    assert world.sweep()["expired"] == 30
    assert {world.status(run_id) for run_id in runs} == {"pending"}
