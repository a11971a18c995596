"""People steer living and failed runs: what they say is heard, and a retry is a chance."""

from __future__ import annotations

from typing import Any

from town import Town


async def rows(user: Any, table: str, run_id: str, order: str) -> list[dict[str, Any]]:
    answer = await user.table(table).select("*").eq("execution_id", run_id).order(order).execute()
    return answer.data


async def test_message_to_a_running_run_is_heard_before_its_end(town: Town) -> None:
    town.worker()
    user = await town.person()
    run_id = await town.submit(user, ["call", "hold_read", {"name": "r"}], ["say", "One."], ["say", "Two."])
    await town.holding("r")
    await user.rpc("agent_send", {"execution_id": run_id, "content": "Be brief."}).execute()
    town.let_go("r")
    await town.until(user, run_id, "completed")
    (message,) = await rows(user, "agent_messages", run_id, "created_at")
    heard_at = message["delivered_step"]  # 2; 3 if the tool was so quick that nobody waited for its record
    assert heard_at in (2, 3)
    steps = await rows(user, "agent_steps", run_id, "step_number")
    assert steps[heard_at - 1]["injected"] == [{"role": "user", "content": "Be brief."}]


async def test_retried_run_is_not_ended_by_what_ended_it_before(town: Town) -> None:
    town.worker()
    user = await town.person()
    failing = ["call", "fail", {"how": "politely"}]
    run_id = await town.submit(user, failing, failing, failing, failing, ["say", "At last."])
    assert (await town.until(user, run_id, "failed"))["error"] == "TOOL_FAILED"
    await user.rpc("agent_retry", {"execution_id": run_id}).execute()
    row = await town.until(user, run_id, "completed")
    assert (row["result"], row["step_count"], row["error"]) == ({"text": "At last."}, 5, None)
