"""From a signed-up user's insert to the end of the run, through real processes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from postgrest import APIError
from town import Town, eventually

APPROVED_SEND = ["call", "send", {"to": "ada", "text": "hello"}]


async def open_review(reviewer: Any, run_id: str) -> dict[str, Any]:
    """The one open review of a run, as the reviewer finds it."""

    async def find() -> dict[str, Any] | None:
        query = reviewer.table("agent_reviews").select("*").eq("execution_id", run_id).eq("status", "pending")
        rows = (await query.execute()).data
        return rows[0] if rows else None

    return await eventually(find, "a review")


async def decide(reviewer: Any, review: dict[str, Any], **columns: Any) -> list[dict[str, Any]]:
    return (await reviewer.table("agent_reviews").update(columns).eq("id", review["id"]).execute()).data


async def test_run_goes_through_tools_to_its_result(town: Town) -> None:
    town.worker()
    user = await town.person()
    run_id = await town.submit(
        user,
        ["calls", [["look", {"key": "a"}], ["look", {"key": "bc"}]]],
        ["call", "save", {"name": "x"}],
        ["say", "All done."],
    )
    row = await town.until(user, run_id, "completed")
    assert row["result"] == {"text": "All done."}
    assert row["step_count"] == 3
    assert row["tool_call_count"] == 3
    assert row["token_count"] > 0
    calls = (
        await user.table("agent_tool_calls")
        .select("*")
        .eq("execution_id", run_id)
        .order("step_number")
        .order("position")
        .execute()
    ).data
    assert [(c["tool_name"], c["status"]) for c in calls] == [("look", "succeeded")] * 2 + [
        ("save", "succeeded")
    ]
    assert calls[0]["tool_output"] == {"key": "a", "value": 1, "nothing": None, "ratio": 1.5}
    assert [kind for kind, _ in town.ledger] == ["save"]
    timeline = (await user.rpc("agent_timeline", {"execution_id": run_id}).execute()).data
    assert [item["kind"] for item in timeline].count("step") == 3


@pytest.mark.parametrize("other_worker", [False, True])
async def test_approval_by_another_person_resumes_on_any_worker(town: Town, other_worker: bool) -> None:
    worker = town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, APPROVED_SEND, ["say", "Sent."])
    await town.until(user, run_id, "awaiting_review")
    assert town.ledger == []

    review = await open_review(reviewer, run_id)
    assert review["proposed_input"] == {"to": "ada", "text": "hello"}
    assert (await town.run(user, run_id))["worker_id"] is None
    if other_worker:
        worker.kill()
        town.worker()
    await decide(reviewer, review, status="approved")
    row = await town.until(user, run_id, "completed")
    assert town.ledger == [["send", "ada: hello"]]
    assert row["review_count"] == 1

    with pytest.raises(APIError) as refused:
        await decide(reviewer, review, status="rejected")
    assert refused.value.code == "RH007"


async def test_edited_arguments_are_what_runs(town: Town) -> None:
    town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, APPROVED_SEND, ["say", "Sent."])
    await decide(
        reviewer,
        await open_review(reviewer, run_id),
        status="approved",
        edited_input={"to": "bob", "text": "hi"},
    )
    await town.until(user, run_id, "completed")
    assert town.ledger == [["send", "bob: hi"]]


async def test_edit_that_does_not_fit_is_asked_again_with_the_reason(town: Town) -> None:
    town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, APPROVED_SEND, ["say", "Sent."])
    first = await open_review(reviewer, run_id)
    await decide(reviewer, first, status="approved", edited_input={"to": 5, "wrong": True})

    async def again() -> dict[str, Any] | None:
        review = await open_review(reviewer, run_id)
        return review if review["id"] != first["id"] else None

    second = await eventually(again, "the question again")
    assert "wrong" in second["summary"] or "to" in second["summary"]
    assert town.ledger == []
    await decide(reviewer, second, status="approved", edited_input={"to": "bob", "text": "hi"})
    await town.until(user, run_id, "completed")
    assert town.ledger == [["send", "bob: hi"]]


async def test_rejection_reaches_the_model_with_its_reason(town: Town) -> None:
    town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, APPROVED_SEND, ["say", "Then not."])
    await decide(reviewer, await open_review(reviewer, run_id), status="rejected", comment="Not to Ada.")
    row = await town.until(user, run_id, "completed")
    assert row["result"] == {"text": "Then not."}
    assert town.ledger == []
    (call,) = (
        await user.table("agent_tool_calls").select("status, error").eq("execution_id", run_id).execute()
    ).data
    assert call == {"status": "rejected", "error": "Not to Ada."}


async def test_killed_worker_s_run_goes_on_elsewhere(town: Town) -> None:
    first = town.worker(lease_s=2)
    user = await town.person()
    run_id = await town.submit(
        user, ["call", "save", {"name": "a"}], ["call", "hold_idempotent", {"name": "h"}], ["say", "Done."]
    )
    await town.holding("h")
    town.worker(lease_s=2)
    first.kill()
    town.let_go("h")
    row = await town.until(user, run_id, "completed")
    assert row["step_count"] == 3
    assert [kind for kind, _ in town.ledger].count("save") == 1


async def test_unsafe_call_of_a_killed_worker_asks_a_person_and_never_runs_by_itself(town: Town) -> None:
    first = town.worker(lease_s=2)
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, ["call", "hold_unsafe", {"name": "u"}], ["say", "Done."])
    await town.holding("u")
    first.kill()
    town.worker(lease_s=2)
    review = await open_review(reviewer, run_id)
    assert review["kind"] == "unknown_outcome"
    await decide(reviewer, review, status="approved", answer={"outcome": "happened", "result": "it did"})
    await town.until(user, run_id, "completed")
    assert town.ledger == []


async def test_terminated_worker_releases_its_run_and_exits_well(town: Town) -> None:
    first = town.worker("--grace", "1", lease_s=30)
    user = await town.person()
    run_id = await town.submit(user, ["call", "hold_read", {"name": "r"}], ["say", "Done."])
    await town.holding("r")
    town.worker(lease_s=30)
    assert await first.terminate() == 0, first.log
    town.let_go("r")
    row = await town.until(user, run_id, "completed")
    assert row["attempt"] <= 1


async def test_everything_works_with_realtime_off(town: Town) -> None:
    town.worker("--no-realtime")
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, APPROVED_SEND, ["say", "Sent."])
    await decide(reviewer, await open_review(reviewer, run_id), status="approved")
    await town.until(user, run_id, "completed")
    assert town.ledger == [["send", "ada: hello"]]


async def test_cancel_stops_a_running_run_before_its_next_effect(town: Town) -> None:
    town.worker()
    user = await town.person()
    run_id = await town.submit(
        user, ["call", "hold_read", {"name": "c"}], ["call", "post", {"text": "never"}]
    )
    await town.holding("c")
    answer = (await user.rpc("agent_cancel", {"execution_id": run_id, "reason": "stop"}).execute()).data
    assert answer["cancel_requested"] is True
    row = await town.until(user, run_id, "cancelled")
    town.let_go("c")
    assert row["error_detail"]
    assert ["post", "never"] not in town.ledger


async def test_tool_acts_as_the_run_s_user(town: Town) -> None:
    town.worker()
    user, stranger = await town.person(), await town.person()
    await town.submit(stranger, ["say", "mine"])
    run_id = await town.submit(user, ["call", "whose_runs", {}], ["say", "Done."])
    await town.until(user, run_id, "completed")
    (call,) = (
        await user.table("agent_tool_calls").select("tool_output").eq("execution_id", run_id).execute()
    ).data
    assert call["tool_output"] == [await town.user_id(user)]


async def test_strange_and_huge_outputs_are_stored_and_lose_nothing_else(town: Town) -> None:
    town.worker()
    user = await town.person()
    run_id = await town.submit(
        user,
        ["calls", [["nasty", {}], ["huge", {"size": 40_000}], ["huge", {"size": 2_000_000}]]],
        ["say", "Done."],
    )
    await town.until(user, run_id, "completed")
    calls = (
        await user.table("agent_tool_calls")
        .select("*")
        .eq("execution_id", run_id)
        .order("position")
        .execute()
    ).data
    assert calls[0]["tool_output"] == "a\ufffdb\ufffdc"
    assert len(calls[1]["tool_output"]) == 40_000
    assert len(calls[1]["shown"]) < 17_000
    assert calls[2]["status"] == "failed"
    assert "2000000" in str(calls[2]["error"])


async def test_failures_of_tools_reach_the_model_or_a_person(town: Town) -> None:
    town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    polite = await town.submit(user, ["call", "fail", {"how": "politely"}], ["say", "So be it."])
    await town.until(user, polite, "completed")
    rude = await town.submit(user, ["call", "fail", {"how": "rudely"}], ["say", "So be it."])
    review = await open_review(reviewer, rude)
    assert review["kind"] == "unknown_outcome"
    await decide(reviewer, review, status="rejected", comment="Leave it.")
    row = await town.until(user, rude, "failed")
    assert row["error"] == "STOPPED_BY_REVIEWER"


async def test_limits_of_a_run_hold(town: Town) -> None:
    town.worker()
    user = await town.person()
    looks = [["call", "look", {"key": str(n)}] for n in range(6)]
    run_id = await town.submit(user, *looks, limits={"max_steps": 3})
    row = await town.until(user, run_id, "failed")
    assert (row["error"], row["step_count"]) == ("MAX_STEPS_EXCEEDED", 3)
    assert row["error_detail"]["limit"] == "max_steps"


async def test_many_runs_over_three_workers_end_once_each(town: Town) -> None:
    for _ in range(3):
        town.worker("--capacity", "8")
    user = await town.person()
    ids = await asyncio.gather(
        *(
            town.submit(user, ["call", "save", {"name": str(n)}], ["call", "look", {"key": "k"}])
            for n in range(40)
        )
    )
    for run_id in ids:
        await town.until(user, run_id, "completed")
    assert len({key for kind, key in town.ledger if kind == "save"}) == 40
    assert len(town.ledger) == 40
