"""A worker that can't act as the run's user: the run goes back to the queue, and its model never learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from loop_support import Row, ScriptedModel, asks, says, work

from runhold import Agent, Limits, RunContext, ToolFailed, tool
from runhold.errors import UserAccessFault
from runhold.loop.ports import NoteFault

WHY = "rest answered 401"


class Installation:
    """Broken until it is repaired."""

    broken = True

    def client(self, note: NoteFault) -> Any:
        if self.broken:
            note(WHY)
            raise UserAccessFault(WHY)
        return "client"


async def raising(ctx: RunContext) -> str:
    """Let the error pass."""
    return str(ctx.supabase)


async def swallowing(ctx: RunContext) -> str:
    """Make an answer of it."""
    try:
        return str(ctx.supabase)
    except UserAccessFault as error:
        return f"could not: {error}"


async def vouching(ctx: RunContext) -> str:
    """Say that nothing happened."""
    try:
        return str(ctx.supabase)
    except UserAccessFault as error:
        raise ToolFailed(str(error)) from error


def in_a_thread(ctx: RunContext) -> str:
    """Block."""
    return str(ctx.supabase)


async def hanging(ctx: RunContext) -> str:
    """Wait for something until the tool's time is over."""
    try:
        return str(ctx.supabase)
    except UserAccessFault:
        await asyncio.sleep(60)
        raise


KINDS: list[Callable[..., Any]] = [raising, swallowing, vouching, in_a_thread, hanging]


def agent(body: Callable[..., Any], effect: Any, **more: Any) -> Agent:
    @tool(effect="read")
    async def look(ctx: RunContext) -> str:
        """Look."""
        return "seen"

    made = tool(effect=effect, timeout=0.2, **more)(body)
    return Agent(type="helper", model="m", instructions="i", tools=[made, look], limits=Limits())


@pytest.mark.parametrize("body", KINDS)
@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_run_waits_and_the_call_runs_again_unseen(body: Callable[..., Any], effect: str) -> None:
    here, row, model = (
        Installation(),
        Row(),
        ScriptedModel(asks((body.__name__, {}), ("look", {})), says("Done.")),
    )
    helper = agent(body, effect)
    outcome = await work(row, helper, model, user_client=here.client)
    assert (outcome.kind, outcome.code, row.status) == ("released", "user_access", "pending")
    assert row.detail["waiting_for"] == "user_access"
    assert WHY not in str(row.detail)  # that is the operators' business
    assert row.transitions[-1].delay_ms >= 1_000
    assert len(model.requests) == 1
    assert (row.call(1, 0).status, row.call(1, 1).status) == ("pending", "succeeded")
    here.broken = False
    assert (await work(row, helper, model, user_client=here.client)).kind == "completed"
    assert row.call(1, 0).output == "client"
    assert WHY not in str(model.requests)


@pytest.mark.parametrize("body", KINDS)
async def test_person_is_asked_about_a_call_that_can_not_be_repeated(body: Callable[..., Any]) -> None:
    """What it did before it needed the user, nobody knows."""
    here, row, model = Installation(), Row(), ScriptedModel(asks((body.__name__, {})))
    outcome = await work(row, agent(body, "unsafe"), model, user_client=here.client)
    assert (outcome.kind, outcome.code) == ("released", "user_access")
    assert row.call().status == "unknown"
    assert [review.kind for review in row.reviews] == ["unknown_outcome"]
    assert len(model.requests) == 1


async def test_approval_function_that_needs_the_user_asks_nobody() -> None:
    here, row, model = Installation(), Row(), ScriptedModel(asks(("send", {})), says("Done."))

    async def needs_approval(ctx: RunContext, arguments: Any) -> bool:
        return str(ctx.supabase) != "client"

    @tool(effect="unsafe", approval=needs_approval)
    async def send(ctx: RunContext) -> str:
        """Send."""
        return "sent"

    helper = Agent(type="helper", model="m", instructions="i", tools=[send])
    for _ in range(2):  # while the step is planned, and when it is taken up again
        outcome = await work(row, helper, model, user_client=here.client)
        assert (outcome.kind, outcome.code) == ("released", "user_access")
        assert (row.call().status, row.reviews, len(row.steps)) == ("pending", [], 1)
    here.broken = False
    assert (await work(row, helper, model, user_client=here.client)).kind == "completed"
    assert row.call().output == "sent"
    assert len(model.requests) == 2
