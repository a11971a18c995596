"""A small agent for tests of the command line, whose model does what the input says."""

from __future__ import annotations

import json
import threading
from typing import Any

from runhold import Agent, RunContext, ask_person, tool
from runhold.models import fault
from runhold.models.script import Answer, Outcome, call, say

SENT: list[str] = []
"""Effects, counted outside of the database."""

HOLDING, GO = threading.Event(), threading.Event()
"""A tool that holds says so, and goes on when it is told to."""


@tool(approval=True)
def send_letter(ctx: RunContext, to: str, text: str) -> str:
    """Send a letter."""
    SENT.append(f"{to}: {text}")
    return f"sent to {to}"


@tool
def post(text: str) -> str:
    """Post something. The first time nobody knows whether it arrived."""
    SENT.append(text)
    if len(SENT) == 1:
        raise ConnectionError("the line went dead")
    return "posted"


@tool(timeout=60)
def hold(name: str) -> str:
    """Say that it began, and wait."""
    HOLDING.set()
    GO.wait()
    return f"held {name}"


@tool(effect="read")
def look(where: str) -> str:
    """Look somewhere."""
    return "nothing there"


agent = Agent(
    type="letters",
    model="scripted",
    instructions="Write letters.",
    description="Writes letters, and sends them.",
    tools=[send_letter, post, hold, look, ask_person],
)

CALLS = {
    "send": call("send_letter", {"to": "ada", "text": "hello"}),
    "post": call("post", {"text": "hello"}),
    "hold": call("hold", {"name": "it"}),
    "stay": call("hold", {"name": "it"}),
    "ask": call("ask_person", {"question": "Which colour?"}),
}


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Outcome:
    """``{"do": "say" | "refuse" | "circle" | one of CALLS}``"""
    wish = json.loads(next(str(message["content"]) for message in messages if message["role"] == "user"))[
        "do"
    ]
    last = messages[-1]
    if wish == "refuse":
        return Answer(refusal="I would rather not.")
    if wish == "circle" and not str(last["content"]).startswith("[Runhold]"):
        return call("look", {"where": "here"})
    if wish in CALLS and len(messages) == 2:
        return CALLS[wish]
    if wish == "stay":
        return fault.hang()
    return say("Said." if wish == "say" else f"Done: {last['content']}")
