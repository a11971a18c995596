"""An agent whose tools act as the run's user: it reads its token's claims, writes rows, listens. The plan is the clerk's."""

from __future__ import annotations

import os
import time
from typing import Any

from clerk import script as script
from postgrest import APIError

from runhold import Agent, RunContext, tool

if offset := float(os.environ.get("DEPUTY_CLOCK_IS_WRONG_BY", "0")):  # in the worker's process alone
    _real = time.time
    time.time = lambda: _real() + offset


@tool(effect="read")
async def whoami(ctx: RunContext) -> Any:
    """The claims of the token that the database sees."""
    return (await ctx.supabase.rpc("deputy_claims", {}).execute()).data


@tool(effect="read")
async def write(ctx: RunContext, table: str) -> str:
    """Insert a row; what policies say against it is an answer."""
    try:
        await ctx.supabase.table(table).insert({"text": "x"}, returning="minimal").execute()  # pyright: ignore
    except APIError as error:
        return f"refused: {error.code}"
    return "written"


@tool(effect="read")
async def careless(ctx: RunContext) -> str:
    """Make an answer of every error."""
    try:
        return str((await ctx.supabase.rpc("deputy_claims", {}).execute()).data)
    except Exception as error:
        return f"could not: {error}"


@tool(effect="read")
async def listen(ctx: RunContext) -> list[str]:
    """Join the run's private topic, which is its owner's alone."""
    states: list[str] = []
    topic = f"execution:{ctx.execution_id}"
    channel = ctx.supabase.channel(topic, {"config": {"private": True, "broadcast": None, "presence": None}})
    await channel.subscribe(lambda state, error: states.append(state.name))
    await ctx.supabase.remove_all_channels()
    return states[:1]


agent = Agent(
    type="deputy", version="1", model="scripted", instructions="Do.", tools=[whoami, write, careless, listen]
)
