"""agent_timeline: the whole story of a run as one list, over what the caller may see."""

from __future__ import annotations

from typing import Any

from world import World, call, question, result, step


def timeline(world: World, user: str, run_id: str) -> list[dict[str, Any]]:
    return world.user(user, "select agent_timeline(%s)", run_id)[0]["agent_timeline"]


def test_story_is_told_from_the_beginning(world: World) -> None:
    worker, reviewer, user = world.worker(lease_ms=600_000), world.reviewer(), world.person()
    world.at(0)
    run_id = world.submit(user)
    world.at(1)
    (run,) = worker.claim()
    world.at(2)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[call(1, 0, "look", "read", "running"), call(1, 1, "send", "unsafe", "awaiting_review")],
        reviews=[question(1, 1)],
    )
    world.at(3)
    worker.record(run, results=[result(1, 0, output={"found": None})], transition={"to": "awaiting_review"})
    world.at(4)
    world.decide(reviewer, world.open_reviews(run_id)[0]["id"], "rejected", comment="No.")
    told = timeline(world, user, run_id)
    assert [(item["kind"], item.get("event")) for item in told] == [
        ("event", "submitted"),
        ("event", "claimed"),
        ("event", "review_requested"),
        ("step", None),
        ("tool_call", None),
        ("tool_call", None),
        ("review", None),
        ("event", "paused"),
        ("event", "review_rejected"),
        ("event", "resumed"),
    ]
    assert [item["at"] for item in told] == sorted(item["at"] for item in told)
    look, send = [item for item in told if item["kind"] == "tool_call"]
    assert (look["tool_name"], look["tool_output"], look["status"]) == ("look", {"found": None}, "succeeded")
    assert (send["status"], send["error"]) == ("rejected", "No.")
    (review,) = [item for item in told if item["kind"] == "review"]
    assert (review["status"], review["comment"], review["reviewer_id"]) == ("rejected", "No.", reviewer)
    (only,) = [item for item in told if item["kind"] == "step"]
    assert only["message"] == {"role": "assistant", "content": "step 1"}


def test_messages_of_people_are_part_of_it(world: World) -> None:
    world.worker()
    user = world.person()
    run_id = world.submit(user)
    world.sql(
        "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'Hurry.')",
        run_id,
        user,
        user,
    )
    assert [item["content"] for item in timeline(world, user, run_id) if item["kind"] == "message"] == [
        "Hurry."
    ]


def test_what_was_cut_off_and_when_people_were_heard_is_told(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    for text in ("Hurry.", "Stop."):
        world.user(user, "select agent_send(%s, %s)", run["id"], text)
    (first,) = world.sql("select id from agent_messages where content = 'Hurry.'")
    worker.record(
        run,
        steps=[step(1, worker.definition, delivered=[str(first["id"])])],
        calls=[call(1, 0, "save", "idempotent", "running"), call(1, 1, "look", "read", "failed")],
    )
    worker.end(run, "failed", error="TOTAL_TIMEOUT")
    told = timeline(world, user, run["id"])
    assert [item["cut_off"] for item in told if item["kind"] == "tool_call"] == ["running", None]
    assert {item["content"]: item["delivered_step"] for item in told if item["kind"] == "message"} == {
        "Hurry.": 1,
        "Stop.": None,
    }


def test_strangers_get_an_empty_story(world: World) -> None:
    worker, user = world.worker(), world.person()
    run, _ = world.paused(worker, user)
    assert timeline(world, world.person(), run["id"]) == []
    assert world.service("select agent_timeline(gen_random_uuid())") == []


def test_reviewers_get_the_questions_that_are_theirs(world: World) -> None:
    """The run behind them is agent_review_context's."""
    worker, user = world.worker(), world.person()
    run, _ = world.paused(worker, user)
    assert [item["kind"] for item in timeline(world, world.reviewer(), run["id"])] == ["review"]
