"""Reviews that need several people: who is counted, and what an edit, a dismissal or an erasure does to the count."""

from __future__ import annotations

from typing import Any

import pytest
from world import World, refused


def needing(world: World, n: int) -> tuple[str, Any]:
    worker = world.worker()
    world.configure(approvals_needed=n)
    run, (review,) = world.paused(worker, world.person())
    assert review["approvals_needed"] == n
    return run["id"], review["id"]


def test_as_many_people_must_approve_as_the_type_says(world: World) -> None:
    run_id, review_id = needing(world, 3)
    people = [world.reviewer() for _ in range(3)]
    for given, person in enumerate(people[:2], 1):
        (row,) = world.decide(person, review_id)
        assert (row["status"], row["approvals_given"], row["decided_at"]) == ("pending", given, None)
        assert world.status(run_id) == "awaiting_review"
    (row,) = world.decide(people[2], review_id)
    assert (row["status"], row["approvals_given"]) == ("approved", 3)
    assert world.status(run_id) == "pending"
    said = world.sql("select reviewer_id, decision from agent_review_decisions order by id")
    assert [(str(d["reviewer_id"]), d["decision"]) for d in said] == [(p, "approved") for p in people]


def test_one_person_counts_once(world: World) -> None:
    _, review_id = needing(world, 2)
    reviewer = world.reviewer()
    world.decide(reviewer, review_id)
    with refused("RH007", says="You have already approved this.", hint="2 people must approve"):
        world.decide(reviewer, review_id)


def test_two_people_at_once_are_both_counted(world: World) -> None:
    run_id, review_id = needing(world, 2)
    first, second, other = world.reviewer(), world.reviewer(), world.another()
    with other.acting("authenticated", first) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review_id,))
        racing = world.background(lambda: world.decide(second, review_id))
        assert racing.waits()
    assert racing.result()[0]["status"] == "approved"
    assert world.status(run_id) == "pending"


def test_one_rejection_is_enough(world: World) -> None:
    run_id, review_id = needing(world, 3)
    world.decide(world.reviewer(), review_id)
    world.decide(world.reviewer(), review_id, "rejected")
    assert world.status(run_id) == "pending"
    assert world.calls(run_id)[0]["status"] == "rejected"


def test_edit_starts_the_count_anew(world: World) -> None:
    _, review_id = needing(world, 2)
    first, second = world.reviewer(), world.reviewer()
    world.decide(first, review_id)
    (row,) = world.decide(second, review_id, edited_input={"n": 5})
    assert (row["status"], row["approvals_given"]) == ("pending", 1)
    (row,) = world.decide(first, review_id, edited_input={"n": 5})  # they approved something else before
    assert (row["status"], row["approvals_given"], row["edited_input"]) == ("approved", 2, {"n": 5})


def test_nobody_approves_an_edit_that_they_did_not_see(world: World) -> None:
    _, review_id = needing(world, 2)
    world.decide(world.reviewer(), review_id, edited_input={"n": 5})
    with refused("RH011", says="Someone changed the arguments", hint="send edited_input as you see it"):
        world.decide(world.reviewer(), review_id)
    assert world.review(review_id)["approvals_given"] == 1


def test_questions_and_unknown_outcomes_need_one_person(world: World) -> None:
    worker = world.worker()
    world.configure(approvals_needed=3)
    _, review = world.unknown(worker, world.person())
    assert review["approvals_needed"] == 1


def test_edit_that_is_taken_back_starts_the_count_anew_too(world: World) -> None:
    """Whoever approved that before it was changed is asked again, and may say it again."""
    _, review_id = needing(world, 3)
    first, second, third = world.reviewer(), world.reviewer(), world.reviewer()
    world.decide(first, review_id)
    world.decide(second, review_id, edited_input={"n": 5})
    (row,) = world.decide(third, review_id, edited_input=None)
    assert (row["approvals_given"], row["edited_input"]) == (1, None)
    (row,) = world.decide(first, review_id)
    assert (row["status"], row["approvals_given"]) == ("pending", 2)
    with refused("RH007"):
        world.decide(first, review_id)
    assert world.decide(second, review_id)[0]["status"] == "approved"


DISMISSALS = {
    "dismissed": "delete from runhold.reviewers where user_id = %s",
    "moved": "update runhold.reviewers set agent_type = 'reader' where user_id = %s",
    "erased": "delete from auth.users where id = %s",
}


@pytest.mark.parametrize("dismissal", DISMISSALS.values(), ids=DISMISSALS.keys())
def test_approval_of_somebody_who_may_decide_no_more_is_not_counted(world: World, dismissal: str) -> None:
    run_id, review_id = needing(world, 2)
    gone, second, third = world.reviewer(), world.reviewer(), world.reviewer()
    world.decide(gone, review_id)
    world.sql(dismissal, gone)
    (row,) = world.decide(second, review_id)
    assert (row["status"], row["approvals_given"]) == ("pending", 1)
    with refused("RH007"):
        world.decide(second, review_id)
    assert world.decide(third, review_id)[0]["status"] == "approved"
    assert world.status(run_id) == "pending"
    said = world.sql("select reviewer_id from agent_review_decisions order by id")
    assert [str(d["reviewer_id"]) for d in said[1:]] == [second, third]


def test_owner_counts_only_while_the_type_lets_them_decide(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(approvals_needed=2, allow_self_review=True)
    _, (review,) = world.paused(worker, user)
    world.decide(user, review["id"])
    world.configure(allow_self_review=False)
    assert world.decide(world.reviewer(), review["id"])[0]["status"] == "pending"


def test_whoever_is_appointed_again_counts_again(world: World) -> None:
    _, review_id = needing(world, 2)
    first, second = world.reviewer(), world.reviewer()
    world.decide(first, review_id)
    world.sql("delete from runhold.reviewers where user_id = %s", first)
    world.decide(second, review_id)
    world.appoint(first)
    assert world.decide(first, review_id)[0]["status"] == "approved"


def test_half_approved_review_is_written_down_once_per_person_when_an_approver_is_erased(
    world: World,
) -> None:
    _, review_id = needing(world, 3)
    gone = world.reviewer()
    world.decide(gone, review_id)
    world.sql("delete from auth.users where id = %s", gone)
    assert world.one("select count(*) from agent_review_decisions") == 1
