"""An operator gates a tool while a run is under way: nobody deploys, nobody restarts."""

from __future__ import annotations

import psycopg
from town import Town


def gate(town: Town, *tools: str) -> None:
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        connection.execute(
            "update agent_types set approval_tools = %s where name = 'clerk'",
            [list(tools)],
        )


async def test_gate_holds_at_once_though_the_worker_hears_of_it_much_later(town: Town) -> None:
    """Without Realtime nothing hurries its heartbeats, and with this lease they are 100 s apart."""
    town.worker("--no-realtime", "--poll", "0.1", lease_s=300)
    user, reviewer = await town.person(), await town.reviewer(agent_type="clerk")
    plan = (["call", "hold_read", {"name": "r"}], ["call", "save", {"name": "x"}], ["say", "Saved."])
    run_id = await town.submit(user, *plan)
    await town.holding("r")
    try:
        gate(town, "save")
        town.let_go("r")
        await town.until(user, run_id, "awaiting_review")
        assert [kind for kind, _ in town.ledger] == ["hold"], "nothing was saved"
        (review,) = (
            await reviewer.table("agent_reviews").select("*").eq("execution_id", run_id).execute()
        ).data
        assert isinstance(review, dict)
        assert (review["tool_name"], review["proposed_input"]) == ("save", {"name": "x"})
        await reviewer.table("agent_reviews").update({"status": "approved"}).eq("id", review["id"]).execute()
        assert (await town.until(user, run_id, "completed"))["result"] == {"text": "Saved."}
        assert [kind for kind, _ in town.ledger] == ["hold", "save"]
    finally:
        gate(town)
