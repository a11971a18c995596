"""An agent whose model does what the run's input says, and whose effects are counted outside: in a folder.

The input is ``{"plan": [move, …]}``; after ``n`` answers of the model the next move is ``plan[n]``:

    ["call", tool, arguments]      ["calls", [[tool, arguments], …]]      ["say", text]
    ["hang", move]: no answer to the first request, the move to those after it
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from runhold import Agent, Limits, RunContext, ToolFailed, tool
from runhold.testing import call, calls, fault, say


def folder() -> Path:
    """Where effects and signals are: shared by the worker processes and the test."""
    return Path(os.environ["CLERK_FOLDER"])


def note(kind: str, text: str) -> None:
    """One line in the ledger: an effect on the world."""
    with (folder() / "ledger").open("a", encoding="utf-8") as ledger:
        ledger.write(json.dumps([kind, text]) + "\n")


@tool(effect="read")
async def look(ctx: RunContext, key: str) -> dict[str, Any]:
    """Look something up."""
    ctx.emit("looking", {"key": key})
    return {"key": key, "value": len(key), "nothing": None, "ratio": 1.50}


@tool(effect="idempotent")
def save(ctx: RunContext, name: str) -> str:
    """Save something, once per idempotency key."""
    note("save", ctx.idempotency_key)
    return f"saved {name}"


@tool(approval=True)
def send(to: str, text: str) -> str:
    """Send something. A reviewer sees it first."""
    note("send", f"{to}: {text}")
    return f"sent to {to}"


@tool
def post(text: str) -> str:
    """Send something without asking anybody."""
    note("post", text)
    return "posted"


@tool
def fail(how: str) -> str:
    """Fail: politely, saying that nothing happened, or not."""
    if how == "politely":
        raise ToolFailed("the door is locked")
    raise RuntimeError("something broke")


def _hold(name: str) -> str:
    (folder() / f"holding-{name}").touch()
    while not (folder() / f"go-{name}").exists():
        time.sleep(0.01)
    note("hold", name)
    return f"held {name}"


@tool(effect="read", timeout=120)
def hold_read(name: str) -> str:
    """Say that it began, and wait for a signal."""
    return _hold(name)


@tool(effect="idempotent", timeout=120)
def hold_idempotent(ctx: RunContext, name: str) -> str:
    """Say that it began, and wait for a signal."""
    note(f"key of {name}", ctx.idempotency_key)
    return _hold(name)


@tool(effect="unsafe", timeout=120)
def hold_unsafe(name: str) -> str:
    """Say that it began, and wait for a signal."""
    return _hold(name)


@tool(effect="idempotent")
def die(name: str, times: int) -> str:
    """Take the worker's process along, the first ``times`` times."""
    note("die", name)
    deaths = (folder() / "ledger").read_text("utf-8").splitlines().count(json.dumps(["die", name]))
    if deaths <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"lived after {times}"


@tool(effect="read", timeout=120)
async def block(name: str, seconds: float) -> str:
    """Say that it began, wait for a signal, and then hold up the event loop, as nobody should; the first time."""
    if not (folder() / f"holding-{name}").exists():
        (folder() / f"holding-{name}").touch()
        while not (folder() / f"go-{name}").exists():
            await asyncio.sleep(0.01)
        time.sleep(seconds)  # noqa: ASYNC251
    return "blocked"


@tool(effect="read")
async def whose_runs(ctx: RunContext) -> list[str]:
    """The users whose runs the run's user can see."""
    rows = (await ctx.supabase.table("agent_executions").select("user_id").execute()).data
    return sorted({row["user_id"] for row in rows if isinstance(row, dict)})  # pyright: ignore[reportArgumentType, reportUnhashable]


@tool(effect="read")
def nasty() -> str:
    """What no database stores: NUL, half a surrogate pair."""
    return "a\x00b\ud800c"


@tool(effect="read")
def huge(size: int) -> str:
    """A text of this many bytes."""
    return "x" * size


agent = Agent(
    type="clerk",
    version="1",
    model="scripted",
    instructions="Do as the plan says.",
    description="Does what its input says.",
    tools=[
        *(look, save, send, post, fail, hold_read, hold_idempotent, hold_unsafe, whose_runs, nasty, huge),
        *(die, block),
    ],
    limits=Limits(max_steps=25, max_tokens=50_000, step_timeout_s=30, total_timeout_s=300),
)


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """What the model says next: the next move of the plan."""
    plan = json.loads(next(m["content"] for m in messages if m["role"] == "user"))["plan"]
    moves = sum(1 for m in messages if m["role"] == "assistant")
    return answer(plan[moves]) if moves < len(plan) else say("The plan is over.")


def answer(move: list[Any]) -> Any:
    """What the model says for a move."""
    match move:
        case ["hang", then]:
            (folder() / "holding-model").touch()
            return fault.first(fault.hang(), then=answer(then))
        case ["call", name, arguments]:
            return call(name, arguments)
        case ["calls", items]:
            return calls(*(call(name, arguments) for name, arguments in items))
        case ["say", text]:
            return say(text)
        case _:
            raise ValueError(f"no such move: {move}")
