"""Two agents that spend: one whose runs fail over budget, one whose runs wait. Each looks twice, then answers.

Their model costs what the test enters in ``model_prices``.
"""

from __future__ import annotations

from typing import Any

from runhold import Agent, Limits, tool
from runhold.testing import call, say

LOOKS = 2
LONGEST_ANSWER = 200


@tool(effect="read")
async def look(number: int) -> str:
    """Look once more."""
    return f"It is still there, {number}."


def spender(name: str) -> Agent:
    return Agent(
        type=name,
        model="spender-1",
        instructions="Look twice, then say what you saw.",
        tools=[look],
        params={"max_completion_tokens": LONGEST_ANSWER},
        limits=Limits(max_steps=9, min_output_tokens=60, step_timeout_s=60),
        max_attempts=100,  # a run may lose any number of workers
    )


failing = spender("spender_failing")
waiting = spender("spender_waiting")


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """Look, look, answer."""
    looked = sum(message["role"] == "tool" for message in messages)
    return call("look", {"number": looked}) if looked < LOOKS else say("It was there, both times.")
