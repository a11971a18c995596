"""agent_review_context: what a reviewer must see to decide, and nobody else."""

from __future__ import annotations

from typing import Any

from world import World, refused

HIDDEN = "There is no such review, or it is not yours to see."


def context(world: World, user: str, review_id: Any) -> dict[str, Any]:
    return world.user(user, "select agent_review_context(%s)", review_id)[0]["agent_review_context"]


def test_reviewer_sees_the_run_behind_the_review(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user, input_data={"topic": None})
    seen = context(world, reviewer, review["id"])
    assert seen["review"]["proposed_input"] == {"n": 0}
    assert seen["run"]["input_data"] == {"topic": None}
    assert (seen["run"]["id"], seen["run"]["status"], seen["run"]["step_count"]) == (
        run["id"],
        "awaiting_review",
        1,
    )
    assert [s["message"]["content"] for s in seen["steps"]] == ["step 1"]
    assert [c["status"] for c in seen["tool_calls"]] == ["awaiting_review"]
    assert seen["decisions"] == []
    world.decide(reviewer, review["id"], comment="Fine.")
    assert [d["comment"] for d in context(world, reviewer, review["id"])["decisions"]] == ["Fine."]


def test_owner_and_service_see_it_too(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    assert context(world, user, review["id"])["run"]["user_id"] == user
    assert world.service("select agent_review_context(%s)", review["id"])["run"]["user_id"] == user


def test_strangers_and_reviewers_of_other_things_do_not(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    for stranger in (world.person(), world.reviewer(tool_name="save"), world.reviewer(tenant_id="acme")):
        with refused("RH015", says=HIDDEN):
            context(world, stranger, review["id"])


def test_review_that_does_not_exist_is_refused_in_the_same_words(world: World) -> None:
    with refused("RH015", says=HIDDEN):
        context(world, world.reviewer(), "00000000-0000-0000-0000-000000000001")


def test_token_without_a_subject_sees_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    with refused("RH015", says=HIDDEN), world.acting("authenticated") as cursor:
        cursor.execute("select agent_review_context(%s)", (review["id"],))
