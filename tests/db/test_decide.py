"""agent_decide: many reviews in one call, each decided or refused on its own, by the rules of a single decision."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import Row, World, refused

DECIDE = "select agent_decide(%s::uuid[], %s, %s, %s, %s) as verdicts"


def arguments(ids: Sequence[Any], status: str = "approved", **more: Any) -> tuple[Any, ...]:
    edit, answer = (None if more.get(k) is None else Jsonb(more[k]) for k in ("edited_input", "answer"))
    return [str(each) for each in ids], status, edit, answer, more.get("comment")


def decide(
    world: World, reviewer: str, ids: Sequence[Any], status: str = "approved", **more: Any
) -> list[Row]:
    return world.user(reviewer, DECIDE, *arguments(ids, status, **more))[0]["verdicts"]


def said(verdicts: list[Row]) -> list[str]:
    return [verdict["code"] or verdict["verdict"] for verdict in verdicts]


def test_each_row_is_decided_or_refused_on_its_own(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(agent_type="writer"), world.person()
    runs, ids = [], []
    for _ in range(3):
        run, (review,) = world.paused(worker, user)
        runs.append(run["id"])
        ids.append(str(review["id"]))
    own, (own_review,) = world.paused(worker, reviewer)
    world.decide(world.reviewer(), ids[1], "rejected")
    nowhere = str(uuid.uuid4())
    asked = [nowhere, ids[2], str(own_review["id"]), ids[1], ids[0], ids[2]]
    verdicts = decide(world, reviewer, asked, comment="Fine.")
    assert [verdict["id"] for verdict in verdicts] == asked[:5]  # in the caller's order, each once
    assert said(verdicts) == ["RH015", "approved", "RH009", "RH007", "approved"]
    assert {frozenset(verdict) for verdict in verdicts} == {frozenset(("id", "verdict", "code", "message"))}
    assert verdicts[3]["message"] == "This review is already rejected."
    assert verdicts[3]["verdict"] == "refused"
    assert verdicts[1] == {"id": ids[2], "verdict": "approved", "code": None, "message": None}
    assert [world.status(run_id) for run_id in (runs[0], runs[2])] == ["pending", "pending"]
    assert world.status(own["id"]) == "awaiting_review"
    assert {row["comment"] for row in world.reviews(runs[0], "approved")} == {"Fine."}
    assert world.one("select count(*) from agent_review_decisions where reviewer_id = %s", reviewer) == 2


def test_reviews_of_others_are_like_those_that_do_not_exist(world: World) -> None:
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    nowhere = str(uuid.uuid4())
    for caller in (world.person(), world.reviewer(tool_name="save")):
        theirs, nobodys = decide(world, caller, [review["id"], nowhere])
        assert {**theirs, "id": None} == {**nobodys, "id": None}
        assert theirs["code"] == "RH015"
    assert world.review(review["id"])["status"] == "pending"


def test_nobody_locks_what_they_may_not_decide(world: World) -> None:
    """A stranger's call passes while a reviewer holds the review and its run."""
    worker, user, stranger = world.worker(), world.person(), world.person()
    _, (review,) = world.paused(worker, user)
    holder = world.another()
    with holder.acting("authenticated", world.reviewer()) as cursor:
        cursor.execute("update agent_reviews set status = 'approved' where id = %s", (review["id"],))
        asking = world.background(lambda: decide(world, stranger, [review["id"]]))
        assert not asking.waits()
    assert said(asking.result()) == ["RH015"]


def test_expired_ones_are_refused_and_the_others_decided(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (late,) = world.paused(worker, user)
    world.configure(review_ttl=timedelta(days=1))
    _, (early,) = world.paused(worker, user)
    world.at(3601)
    assert said(decide(world, reviewer, [late["id"], early["id"]])) == ["RH008", "approved"]


def test_approval_of_several_is_counted(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(approvals_needed=2)
    run, (one, two) = world.paused(worker, user, 2)
    first, second = world.reviewer(), world.reviewer()
    assert said(decide(world, first, [one["id"], two["id"]])) == ["counted", "counted"]
    assert said(decide(world, first, [one["id"]])) == ["RH007"]
    assert said(decide(world, second, [one["id"], two["id"]])) == ["approved", "approved"]
    assert world.status(run["id"]) == "pending"


def test_edit_goes_to_every_row_and_is_seen_only_by_who_names_it(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(approvals_needed=2)
    _, (one, two) = world.paused(worker, user, 2)
    first, second = world.reviewer(), world.reviewer()
    ids = [one["id"], two["id"]]
    assert said(decide(world, first, ids, edited_input={"n": 7})) == ["counted", "counted"]
    assert said(decide(world, second, ids)) == ["RH011", "RH011"]
    assert said(decide(world, second, ids, edited_input={"n": 7})) == ["approved", "approved"]
    assert world.review(one["id"])["edited_input"] == {"n": 7}
    assert said(decide(world, second, [uuid.uuid4()], edited_input={"n": 7})) == ["RH015"]


def test_what_no_row_may_hold_is_refused_row_by_row(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    _, (review,) = world.paused(worker, user)
    assert said(decide(world, reviewer, [review["id"]], edited_input=[1])) == ["23514"]
    assert said(decide(world, reviewer, [review["id"]], comment="x" * 8193)) == ["23514"]
    assert said(decide(world, reviewer, [review["id"]], "maybe")) == ["RH011"]
    assert world.review(review["id"]) == review


def test_unknown_outcomes_are_resolved_together(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    runs, reviews = zip(*(world.unknown(worker, world.person()) for _ in range(2)), strict=True)
    ids = [review["id"] for review in reviews]
    assert said(decide(world, reviewer, ids)) == ["RH011", "RH011"]  # not said what is known
    assert said(decide(world, reviewer, ids, answer={"outcome": "happened", "result": 1})) == ["approved"] * 2
    assert [world.calls(run_id)[0]["status"] for run_id in runs] == ["succeeded", "succeeded"]
    assert [world.status(run_id) for run_id in runs] == ["pending", "pending"]


def test_rejecting_one_that_stops_the_run_closes_its_others(world: World) -> None:
    worker, reviewer = world.worker(), world.reviewer()
    run_id, review = world.unknown(worker, world.person())
    verdicts = decide(world, reviewer, [review["id"], review["id"]], "rejected")
    assert said(verdicts) == ["rejected"]
    assert (world.status(run_id), world.run(run_id)["error"]) == ("failed", "STOPPED_BY_REVIEWER")


@pytest.mark.parametrize("count", [0, 501])
def test_how_many_at_once(world: World, count: int) -> None:
    with refused("RH011", says="ids must name 1 to 500 reviews."):
        decide(world, world.reviewer(), [uuid.uuid4()] * count)


def test_five_hundred_in_one_call(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    runs = [world.paused(worker, user, 50)[0]["id"] for _ in range(10)]
    ids = [row["id"] for row in world.sql("select id from agent_reviews")]
    assert said(decide(world, reviewer, ids)) == ["approved"] * 500
    assert {world.status(run_id) for run_id in runs} == {"pending"}
    assert all(world.events(run_id).count("resumed") == 1 for run_id in runs)


def test_keys_and_tokens_without_a_person_can_not_decide(world: World) -> None:
    _, (review,) = world.paused(world.worker(), world.person())
    with refused("RH010", says="A decision needs a signed-in person."), world.acting("authenticated") as c:
        c.execute(DECIDE, arguments([review["id"]]))
    with refused("42501"), world.acting("service_role") as c:
        c.execute(DECIDE, arguments([review["id"]]))


def test_two_calls_in_opposite_order_wait_in_line(world: World) -> None:
    """The reviews of two runs, interleaved: whoever comes second waits, and then finds what is left for them."""
    worker, user = world.worker(), world.person()
    one, two, over = world.reviewer(), world.reviewer(), world.another()
    a, a_reviews = world.paused(worker, user, 2)
    b, b_reviews = world.paused(worker, user, 2)
    ids = sorted(str(review["id"]) for review in [*a_reviews, *b_reviews])
    with over.acting("authenticated", one) as cursor:
        cursor.execute(DECIDE, arguments(ids[:3]))
        racing = world.background(lambda: decide(world, two, ids[::-1], "rejected"))
        assert racing.waits()
    assert said(racing.result()) == ["rejected", "RH007", "RH007", "RH007"]
    assert [world.status(run["id"]) for run in (a, b)] == ["pending", "pending"]
    assert all(world.events(run["id"]).count("resumed") == 1 for run in (a, b))


def test_the_call_waits_for_reviews_before_it_holds_a_run(world: World) -> None:
    """Somebody decides by update and will need the run; the call, which wants a smaller review of the same run too, must
    not hold the run while it waits."""
    worker, user = world.worker(), world.person()
    one, two, over, watch = world.reviewer(), world.reviewer(), world.another(), world.another()
    run, reviews = world.paused(worker, user, 2)
    low, high = sorted(str(review["id"]) for review in reviews)
    with over.acting("authenticated", one) as cursor:
        # holds the higher review as an update in flight does: before its trigger has come to the run
        cursor.execute("select from agent_reviews where id = %s for no key update", (high,))
        racing = world.background(lambda: decide(world, two, [low, high]))
        assert racing.waits()
        watch.sql("select from agent_executions where id = %s for no key update nowait", run["id"])
        cursor.execute("update agent_reviews set status = 'rejected' where id = %s", (high,))
    assert said(racing.result()) == ["approved", "RH007"]
    assert world.status(run["id"]) == "pending"
