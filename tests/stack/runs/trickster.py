"""An agent whose model and tools say what nobody should. Its input is ``{"says": [answer, …]}``.

An answer is ``[text, [[tool, arguments as text, call id], …]]``.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, PositiveInt

from runhold import Agent, tool
from runhold.models.script import Answer


class Request(BaseModel):
    says: list[Any]
    size: PositiveInt = 1


@tool(effect="read")
def deep() -> Any:
    """Something nested a thousand levels deep."""
    value: Any = 1
    for _ in range(1000):
        value = {"a": [value]}
    return value


@tool(effect="read")
def numbers() -> list[Any]:
    """Numbers that no JSON column, or no reader of one, takes."""
    return [float("nan"), float("inf"), 10**5000, 1e308, -(2**70), 0.1]


@tool(effect="idempotent")
def echo(text: str) -> str:
    """The same text."""
    return text


agent = Agent(
    type="trickster",
    model="scripted",
    instructions="x",
    input_type=Request,
    tools=[deep, numbers, echo],
)


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Answer:
    """What the input says that the model says."""
    says = json.loads(next(m["content"] for m in messages if m["role"] == "user"))["says"]
    turn = sum(message["role"] == "assistant" for message in messages)
    text, calls = says[turn] if turn < len(says) else ["Over.", []]
    called = tuple((name, arguments, call_id) for name, arguments, call_id in calls)
    return Answer(text=text, calls=called, finish_reason="tool_calls" if calls else "stop")
