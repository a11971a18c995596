"""A small agent for tests of the command line, whose model does what the input says."""

from __future__ import annotations

import json
from typing import Any

from runhold import Agent, RunContext, tool
from runhold.models.script import Answer, call, say

SENT: list[str] = []
"""Effects, counted outside of the database."""


@tool(approval=True)
def send_letter(ctx: RunContext, to: str, text: str) -> str:
    """Send a letter."""
    SENT.append(f"{to}: {text}")
    return f"sent to {to}"


agent = Agent(type="letters", model="scripted", instructions="Write letters.", tools=[send_letter])


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Answer:
    """``{"do": "say" | "send" | "refuse"}``"""
    wish = json.loads(next(str(message["content"]) for message in messages if message["role"] == "user"))[
        "do"
    ]
    if wish == "refuse":
        return Answer(refusal="I would rather not.")
    if wish == "send" and messages[-1]["role"] == "user":
        return call("send_letter", {"to": "ada", "text": "hello"})
    return say(f"Done: {messages[-1]['content']}" if wish == "send" else "Said.")
