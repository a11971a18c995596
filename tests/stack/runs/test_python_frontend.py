"""supabase-py, unmodified: what a frontend and a reviewer in Python do and hear while a worker process runs."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import psycopg
import pytest
from postgrest import APIError
from realtime import RealtimeSubscribeStates
from supabase import AsyncClient
from town import Town, eventually

SEND = ["call", "send", {"to": "ada", "text": "hello"}]


async def subscribe(channel: Any) -> RealtimeSubscribeStates:
    """What the channel first says about its subscription."""
    heard: asyncio.Future[RealtimeSubscribeStates] = asyncio.get_running_loop().create_future()

    def note(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if not heard.done():
            heard.set_result(state)

    await channel.subscribe(note)
    return await asyncio.wait_for(heard, 60)


def private(client: AsyncClient, topic: str) -> Any:
    return client.channel(topic, {"config": {"private": True, "broadcast": None, "presence": None}})


@pytest.mark.realtime  # progress comes from the worker
async def test_owner_hears_of_their_run_and_reviewers_of_their_reviews(town: Town) -> None:
    town.worker()
    user, reviewer = await town.person(), await town.reviewer()
    told: list[dict[str, Any]] = []
    inbox = private(reviewer, f"reviews:{await town.user_id(reviewer)}")
    inbox.on_broadcast("review", told.append)
    assert await subscribe(inbox) == RealtimeSubscribeStates.SUBSCRIBED

    run_id = await town.submit(user, ["call", "look", {"key": "a"}], SEND, ["say", "Sent."])
    statuses: list[str] = []
    progress: list[dict[str, Any]] = []
    topic = private(user, f"execution:{run_id}")
    topic.on_broadcast("status", lambda message: statuses.append(message["payload"]["status"]))
    topic.on_broadcast("progress", progress.append)
    assert await subscribe(topic) == RealtimeSubscribeStates.SUBSCRIBED

    await town.until(user, run_id, "awaiting_review")
    hint = await eventually(lambda: told, "the hint of the review")
    review_id = hint[0]["payload"]["id"]
    await reviewer.table("agent_reviews").update({"status": "approved"}).eq("id", review_id).execute()
    await town.until(user, run_id, "completed")
    await eventually(lambda: "completed" in statuses, "the hint of the end")
    await eventually(lambda: progress, "progress")


async def test_postgres_changes_reach_the_owner_alone(town: Town) -> None:
    town.worker()
    user, stranger = await town.person(), await town.person()
    mine: list[Any] = []
    theirs: list[Any] = []
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        connection.execute("alter publication supabase_realtime add table agent_executions")
        try:
            for client, heard in ((user, mine), (stranger, theirs)):
                ready = asyncio.Event()
                channel = client.channel(f"changes-{secrets.token_hex(4)}")
                channel.on_postgres_changes("UPDATE", heard.append, schema="public", table="agent_executions")
                channel.on_system(lambda _, ready=ready: ready.set())
                assert await subscribe(channel) == RealtimeSubscribeStates.SUBSCRIBED
                await asyncio.wait_for(ready.wait(), 60)
            run_id = await town.submit(user, ["say", "Quick."])
            await eventually(
                lambda: any(change["data"]["record"]["status"] == "completed" for change in mine),
                "the change",
            )
            assert {change["data"]["record"]["id"] for change in mine} == {run_id}
            assert theirs == []
        finally:
            connection.execute("alter publication supabase_realtime drop table agent_executions")


async def test_strangers_can_not_listen_and_anon_can_do_nothing(town: Town) -> None:
    user, stranger = await town.person(), await town.person()
    run_id = await town.submit(user, ["say", "Mine."])
    listening = private(stranger, f"execution:{run_id}")
    assert await subscribe(listening) == RealtimeSubscribeStates.CHANNEL_ERROR

    anon = await town.anonymous()
    for table in (
        "agent_types",
        "agent_executions",
        "agent_steps",
        "agent_tool_calls",
        "agent_reviews",
        "agent_events",
    ):
        with pytest.raises(APIError) as refused:
            await anon.table(table).select("*").execute()
        assert refused.value.code == "42501"
    for name, arguments in (
        ("agent_submit", {"agent_type": "clerk", "input_data": {}}),
        ("agent_cancel", {"execution_id": run_id}),
        ("agent_health_metrics", {}),
        ("agent_sweep", {}),
    ):
        with pytest.raises(APIError) as refused:
            await anon.rpc(name, arguments).execute()
        assert refused.value.code == "42501"


async def test_users_can_not_do_a_worker_s_work(town: Town) -> None:
    user = await town.person()
    for name, arguments in (
        ("agent_worker_register", {"worker": {}, "definitions": []}),
        ("agent_worker_record", {"worker_id": "00000000-0000-0000-0000-000000000001", "entries": []}),
        ("agent_sweep", {}),
        ("agent_prune", {"older_than": "90 days"}),
    ):
        with pytest.raises(APIError) as refused:
            await user.rpc(name, arguments).execute()
        assert refused.value.code == "42501"


async def test_same_key_is_the_same_run_and_refusals_say_what_to_do(town: Town) -> None:
    user = await town.person()
    arguments = {"agent_type": "clerk", "input_data": {"plan": []}, "idempotency_key": "order-1"}
    first = (await user.rpc("agent_submit", arguments).execute()).data
    again = (await user.rpc("agent_submit", arguments).execute()).data
    assert first["id"] == again["id"]

    with pytest.raises(APIError) as refused:
        await town.submit(user, agent_type="nobody")
    assert refused.value.code == "RH001"
    assert "'nobody'" in (refused.value.message or "")
    assert refused.value.hint
    with pytest.raises(APIError) as refused:
        await town.submit(user, status="completed")
    assert refused.value.code == "42501"
    with pytest.raises(APIError) as refused:
        await town.submit(user, user_id=await town.user_id(await town.person()))
    assert refused.value.code == "42501"
