"""The agent of the soak, and what its runs are for: a plan of moves, told by the input.

The input is `{"name": unique, "plan": [move, …]}`; after n answers of the model the next move is `plan[n]`:

    {"calls": [[tool, text], …]}: all at the same time          {"calls": [["ask_person", text]]}
    {"calls": …, "fault": name}: the model fails once before it says so

A text tells the tool what to do besides its effect: see `behave`.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any

from runhold import Agent, Limits, RunContext, ToolFailed, ask_person, tool
from runhold.testing import call, calls, fault, say
from runhold.testing.chaos import record_effect

SLOW_S = 1.0
"""At most so long takes a tool: longer than a worker lives on from some moments."""

TOOLS = ("look", "save", "post", "stash", "send")

FAULTS = {
    "rate limit": fault.rate_limit(retry_after=0.3),
    "server error": fault.server_error(503),
    "cut": fault.drop(),
    "no JSON": fault.not_json(),
    "hang": fault.hang(),
}


def behave(ctx: RunContext, name: str, text: str) -> str:
    """Take effect; before that, or after it, as slow or as broken as the text says."""
    slow, _, how = text.partition(" ")
    time.sleep(float(slow) / 2)
    if how.startswith("refuse"):
        raise ToolFailed("The door is locked.")
    record_effect(ctx, name)
    time.sleep(float(slow) / 2)
    if how.startswith("break"):
        raise RuntimeError("something broke")
    return f"{name}: {text}"


@tool(effect="read")
def look(ctx: RunContext, text: str) -> str:
    """Change nothing."""
    return behave(ctx, "look", text)


@tool(effect="idempotent")
def save(ctx: RunContext, text: str) -> str:
    """Change something once per key."""
    return behave(ctx, "save", text)


@tool
def post(ctx: RunContext, text: str) -> str:
    """Change something each time."""
    return behave(ctx, "post", text)


@tool(effect="idempotent", approval=True)
def stash(ctx: RunContext, text: str) -> str:
    """Change something once per key, if a person agrees."""
    return behave(ctx, "stash", text)


@tool(approval=True)
def send(ctx: RunContext, text: str) -> str:
    """Change something each time, if a person agrees."""
    return behave(ctx, "send", text)


agent = Agent(
    type="errands",
    version="1",
    model="scripted",
    instructions="Do as the plan says.",
    tools=[look, save, post, stash, send, ask_person],
    limits=Limits(max_steps=25, step_timeout_s=10, total_timeout_s=300),
)


def draw_plan(rng: random.Random, name: str) -> dict[str, Any]:
    """The input of a run."""
    plan = [_draw_move(rng, f"{name}-{number}") for number in range(rng.randint(1, 5))]
    return {"name": name, "plan": plan}


def _draw_move(rng: random.Random, name: str) -> dict[str, Any]:
    if rng.random() < 0.08:
        move: dict[str, Any] = {"calls": [["ask_person", f"What about {name}?"]]}
    else:
        count = rng.choice((1, 1, 1, 2, 3))
        move = {"calls": [[rng.choice(TOOLS), _draw_text(rng, f"{name}-{n}")] for n in range(count)]}
    if rng.random() < 0.08:
        move["fault"] = rng.choice([*FAULTS])
    return move


def _draw_text(rng: random.Random, name: str) -> str:
    how = rng.choices(("do", "break", "refuse"), weights=(30, 1, 1))[0]
    return f"{rng.uniform(0, SLOW_S):.2f} {how} {name}"


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """What the model says next: the next move of the plan."""
    plan = json.loads(next(m["content"] for m in messages if m["role"] == "user"))["plan"]
    said = sum(1 for message in messages if message["role"] == "assistant")
    if said >= len(plan):
        return say("All done.")
    move = plan[said]
    wanted = [
        call(name, {"question" if name == "ask_person" else "text": text}) for name, text in move["calls"]
    ]
    answer = wanted[0] if len(wanted) == 1 else calls(*wanted)
    return fault.first(FAULTS[move["fault"]], then=answer) if "fault" in move else answer
