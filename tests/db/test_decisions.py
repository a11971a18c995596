"""A reviewer updates a row of agent_reviews: who may, what follows, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import World, call, question, refused, step


def test_approval_puts_the_run_back_into_the_queue(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    (decided,) = world.decide(reviewer, review["id"], comment="Fine.")
    assert (decided["status"], str(decided["reviewer_id"]), decided["comment"]) == (
        "approved",
        reviewer,
        "Fine.",
    )
    assert decided["decided_at"] is not None
    assert decided["used_at"] is None
    assert world.status(run["id"]) == "pending"
    assert world.calls(run["id"])[0]["status"] == "awaiting_review"  # until a worker takes it
    (written,) = world.sql("select * from agent_review_decisions")
    assert (str(written["reviewer_id"]), written["decision"], written["comment"]) == (
        reviewer,
        "approved",
        "Fine.",
    )


def test_rejection_ends_the_call_and_the_run_goes_on_without_it(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"], "rejected", comment="Not to them.")
    assert world.status(run["id"]) == "pending"
    (rejected,) = world.calls(run["id"])
    assert (rejected["status"], rejected["error"]) == ("rejected", "Not to them.")


def test_run_waits_for_the_last_of_its_reviews(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, reviews = world.paused(worker, user, 3)
    for review in reviews[:2]:
        world.decide(reviewer, review["id"])
        assert world.status(run["id"]) == "awaiting_review"
    world.decide(reviewer, reviews[2]["id"], "rejected")
    assert world.status(run["id"]) == "pending"


def test_resumed_run_starts_counting_attempts_anew(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"])
    assert world.run(run["id"])["attempt"] == 0


# ---------------------------------------------------------------------------------------------------------- who may


def test_person_without_a_role_sees_and_decides_nothing(world: World) -> None:
    worker, user, stranger = world.worker(), world.person(), world.person()
    _, (review,) = world.paused(worker, user)
    assert world.user(stranger, "select * from agent_reviews") == []
    assert world.decide(stranger, review["id"]) == []
    assert world.review(review["id"])["status"] == "pending"


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ({}, True),
        ({"agent_type": "writer"}, True),
        ({"tool_name": "send"}, True),
        ({"tenant_id": "acme"}, True),
        ({"tenant_id": "acme", "agent_type": "writer", "tool_name": "send", "role": "operator"}, True),
        ({"agent_type": "reader"}, False),
        ({"tool_name": "save"}, False),
        ({"tenant_id": "umbrella"}, False),
        ({"tenant_id": "acme", "tool_name": "save"}, False),
    ],
)
def test_reviewer_decides_within_their_scope(world: World, scope: dict[str, str], may: bool) -> None:
    worker = world.worker()
    user = world.person(tenant_id="acme")
    world.service("select agent_submit('writer', '{}', user_id => %s)", user)
    (run,) = worker.claim()
    world.gate(worker, run)
    worker.end(run, "awaiting_review")
    (review,) = world.open_reviews(run["id"])
    reviewer = world.reviewer(**scope)
    assert len(world.user(reviewer, "select * from agent_reviews")) == may
    assert len(world.decide(reviewer, review["id"])) == may


def test_reviewer_of_a_tenant_decides_nothing_of_runs_without_one(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer(tenant_id="acme")
    _, (review,) = world.paused(worker, user)
    assert world.decide(reviewer, review["id"]) == []


def test_dismissed_reviewer_can_decide_no_more(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    _, (review,) = world.paused(worker, user)
    world.sql("delete from runhold.reviewers where user_id = %s", reviewer)
    assert world.decide(reviewer, review["id"]) == []


def test_reviewer_who_is_dismissed_while_they_wait_for_the_row_decides_nothing(world: World) -> None:
    """The policy has let them pass when their statement began; the trigger asks again."""
    worker, reviewer = world.worker(), world.reviewer()
    run, (review,) = world.paused(worker, world.person())
    waiting, other = world.another(), world.another()
    with other.acting(None) as cursor:
        cursor.execute("select from agent_reviews where id = %s for update", (review["id"],))
        deciding = waiting.background(lambda: waiting.decide(reviewer, review["id"]))
        assert deciding.waits()
        world.sql("delete from runhold.reviewers where user_id = %s", reviewer)
    assert deciding.result() == []
    assert world.status(run["id"]) == "awaiting_review"
    assert world.one("select count(*) from agent_review_decisions") == 0


def test_nobody_decides_about_their_own_run(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    says = "You can not decide about your own run."
    with refused("RH009", says=says, hint="allow_self_review"):
        world.decide(user, review["id"])
    world.appoint(user)  # also not as a reviewer
    with refused("RH009", says=says):
        world.decide(user, review["id"])


def test_operator_may_allow_it_for_a_type(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, (review,) = world.paused(worker, user)
    world.configure(allow_self_review=True)
    world.decide(user, review["id"])
    assert world.status(run["id"]) == "pending"


def test_key_can_not_decide(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    with refused("42501"), world.acting("service_role") as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
    with refused("RH010", says="A decision needs a signed-in person.", hint="Sign in as a reviewer"):
        world.sql("update agent_reviews set status = 'approved' where id = %s", review["id"])


# ------------------------------------------------------------------------------------------------- what is refused


def test_decided_review_can_not_be_decided_again(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"])
    for status in ("approved", "rejected"):
        with refused("RH007", says="This review is already approved.", hint="Reload"):
            world.decide(world.reviewer(), review["id"], status)
    with refused("RH007"):
        world.user(reviewer, "update agent_reviews set comment = 'PS' where id = %s", review["id"])


def test_second_of_two_reviewers_at_once_is_refused(world: World) -> None:
    worker, user = world.worker(), world.person()
    first, second = world.reviewer(), world.reviewer()
    run, (review,) = world.paused(worker, user)
    other = world.another()
    with other.acting("authenticated", first) as cursor:
        cursor.execute("update agent_reviews set status = 'rejected' where id = %s", (review["id"],))
        racing = world.background(lambda: world.decide(second, review["id"]))
        assert racing.waits()
    with refused("RH007", says="This review is already rejected."):
        racing.result()
    assert world.one("select count(*) from agent_review_decisions") == 1
    assert world.calls(run["id"])[0]["status"] == "rejected"


def test_expired_review_can_not_be_decided_even_before_the_sweep(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    world.at(3601)
    with refused("RH008", says="This review expired at"):
        world.decide(reviewer, review["id"])


@pytest.mark.parametrize("status", ["pending", "expired", "cancelled", "maybe", None])
def test_other_statuses_are_no_decision(world: World, status: Any) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    said = "NULL" if status is None else f"'{status}'"
    with refused("RH011", says=f"A review can not be set to {said}."):
        world.decide(reviewer, review["id"], status)


def test_comment_alone_is_no_decision(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    with refused("RH011", says="A review can not be set to 'pending'."):
        world.user(reviewer, "update agent_reviews set comment = 'hm' where id = %s", review["id"])


@pytest.mark.parametrize(
    "column",
    [
        "proposed_input",
        "input_hash",
        "user_id",
        "tenant_id",
        "agent_type",
        "kind",
        "expires_at",
        "reviewer_id",
        "used_at",
        "approvals_needed",
        "approvals_given",
        "decided_at",
        "execution_id",
    ],
)
def test_other_columns_can_not_be_set(world: World, column: str) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    with refused("42501"):
        world.user(
            reviewer,
            f"update agent_reviews set status = 'approved', {column} = default where id = %s",
            review["id"],
        )


def test_edit_belongs_to_an_approval(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    with refused("RH011", says="edited_input belongs to an approved approval."):
        world.decide(reviewer, review["id"], "rejected", edited_input={"n": 1})
    with refused("23514", says="edit_is_an_object"):
        world.decide(reviewer, review["id"], edited_input=[1])
    with refused("23514", says="edit_and_answer_fit_a_call"):
        world.decide(reviewer, review["id"], edited_input={"x": "y" * 1_048_576})


def test_refused_decision_leaves_nothing_behind(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, (review,) = world.paused(worker, user)
    with refused("RH009"):
        world.decide(user, review["id"], comment="mine")
    assert world.review(review["id"]) == review
    assert world.status(run["id"]) == "awaiting_review"
    assert world.one("select count(*) from agent_review_decisions") == 0


# ------------------------------------------------------------------------------------------------ many in one go


def test_fifty_reviews_of_many_runs_are_decided_in_one_statement(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    runs = [world.paused(worker, user, 5)[0]["id"] for _ in range(10)]
    rows = world.user(
        reviewer, "update agent_reviews set status = 'approved' where status = 'pending' returning id"
    )
    assert len(rows) == 50
    assert {world.status(run_id) for run_id in runs} == {"pending"}
    assert world.one("select count(*) from agent_review_decisions") == 50
    assert all(world.events(run_id).count("resumed") == 1 for run_id in runs)


def test_one_that_is_refused_refuses_all(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    runs = [world.paused(worker, user, 5)[0]["id"] for _ in range(9)]
    own, _ = world.paused(worker, reviewer, 5)
    with refused("RH009"):
        world.user(reviewer, "update agent_reviews set status = 'approved'")
    assert {world.status(run_id) for run_id in [*runs, own["id"]]} == {"awaiting_review"}
    assert world.one("select count(*) from agent_reviews where status <> 'pending'") == 0
    assert world.one("select count(*) from agent_review_decisions") == 0


# ------------------------------------------------------------------------------------------------------ questions


def ask(world: World, reviewer: str) -> tuple[str, Any]:
    """A run that asks a person something: its id and the review's."""
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "ask_person", "read", "awaiting_review")],
        reviews=[question(1, 0, "question", "Which one?")],
    )
    worker.end(run, "awaiting_review")
    (review,) = world.user(reviewer, "select * from agent_reviews where status = 'pending'")
    assert (review["kind"], review["summary"]) == ("question", "Which one?")
    return run["id"], review["id"]


@pytest.mark.parametrize("answer", [{"choice": None}, ["a"], "the second", 0, False])
def test_answer_is_the_output_of_the_call(world: World, answer: Any) -> None:
    reviewer = world.reviewer()
    run_id, review_id = ask(world, reviewer)
    world.user(
        reviewer,
        "update agent_reviews set status = 'approved', answer = %s where id = %s",
        Jsonb(answer),
        review_id,
    )
    (answered,) = world.calls(run_id)
    assert (answered["status"], answered["tool_output"]) == ("succeeded", answer)
    assert world.review(review_id)["used_at"] is not None
    assert world.status(run_id) == "pending"


def test_question_needs_an_answer(world: World) -> None:
    reviewer = world.reviewer()
    _, review_id = ask(world, reviewer)
    with refused("RH011", says="A question needs an answer."):
        world.decide(reviewer, review_id)


def test_question_that_is_turned_down_is_a_rejected_call(world: World) -> None:
    reviewer = world.reviewer()
    run_id, review_id = ask(world, reviewer)
    world.decide(reviewer, review_id, "rejected")
    (turned_down,) = world.calls(run_id)
    assert (turned_down["status"], turned_down["error"]) == ("rejected", "Nobody answered.")


@pytest.mark.parametrize("value", ["[" * 150 + "]" * 150, "1" * 5000], ids=["deep", "long number"])
def test_what_no_worker_could_read_is_no_answer_and_no_edit(world: World, value: str) -> None:
    """It would come with the answer to a claim, and make all of that answer unreadable."""
    worker, reviewer = world.worker(), world.reviewer()
    _, (review,) = world.paused(worker, world.person())
    with refused("RH011", says="edited_input "):
        world.user(
            reviewer,
            "update agent_reviews set status = 'approved', edited_input = %s::text::jsonb where id = %s",
            f'{{"x": {value}}}',
            review["id"],
        )
    _, asked = world.unknown(worker, world.person())
    with refused("RH011", says="answer "):
        world.user(
            reviewer,
            "update agent_reviews set status = 'approved', answer = %s::text::jsonb where id = %s",
            f'{{"outcome": "happened", "result": {value}}}',
            asked["id"],
        )
