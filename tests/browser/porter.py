"""The agent of the browser tests: it looks something up once it may, and sends what a reviewer has seen."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from runhold import Agent, RunContext, tool
from runhold.testing import call, say

GATE = "PORTER_GATE"
"""The variable with the path of a file; the run waits until it exists."""


@tool(effect="read", timeout=120)
async def look(ctx: RunContext, key: str) -> str:
    """Look something up when the gate is open, and tell of it."""
    while not Path(os.environ[GATE]).exists():  # noqa: ASYNC240
        await asyncio.sleep(0.01)
    ctx.emit("looking", {"key": key})
    return f"{key} lives here"


@tool(approval=True)
def send(to: str, text: str) -> str:
    """Send something. A reviewer sees it first."""
    return f"sent {text} to {to}"


agent = Agent(
    type="porter",
    version="1",
    model="scripted",
    instructions="Deliver.",
    description="Delivers what a reviewer has seen.",
    tools=[look, send],
)

ANSWERS = [call("look", {"key": "ada"}), call("send", {"to": "ada", "text": "hello"}), say("Delivered.")]


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """What the model says next."""
    return ANSWERS[sum(1 for message in messages if message["role"] == "assistant")]
