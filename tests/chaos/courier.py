"""An agent with one tool of each effect, whose effects are counted outside, and a model that calls the one it is told to.

The input is ``{"tool": name, "gated": whether a person decides first}``.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import psycopg

from runhold import Agent, Limits, RunContext, tool
from runhold.testing import call, say
from runhold.testing.chaos import record_effect


def if_gated(ctx: RunContext, arguments: Any) -> bool:
    """Whether a person decides first: the run's input says."""
    return arguments.gated


@tool(effect="read", approval=if_gated, timeout=120)
def read(ctx: RunContext, gated: bool) -> str:
    """Change nothing."""
    record_effect(ctx, "read")
    return "read"


@tool(effect="idempotent", approval=if_gated, timeout=120)
def idempotent(ctx: RunContext, gated: bool) -> str:
    """Change something once per key."""
    record_effect(ctx, "idempotent")
    return "done"


@tool(effect="unsafe", approval=if_gated, timeout=120)
def unsafe(ctx: RunContext, gated: bool) -> str:
    """Change something each time."""
    record_effect(ctx, "unsafe")
    return "done"


agent = Agent(
    type="courier",
    version="1",
    model="scripted",
    instructions="Call the tool that you are told to call.",
    tools=[read, idempotent, unsafe],
    limits=Limits(max_steps=10, step_timeout_s=60),
)


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """Call the tool, then say that it is done."""
    if messages[-1]["role"] != "user":
        return say("Done.")
    told = json.loads(messages[-1]["content"])
    return call(told["tool"], {"gated": told["gated"]})


def make_known(database_url: str) -> None:
    """Register the agent, so that runs may be inserted before any worker has started."""
    me = {"id": str(uuid4()), "hostname": "t", "pid": 1, "version": "0", "lease_ms": 1000}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "select runhold.worker_register(%s, %s)", [json.dumps(me), json.dumps([agent.definition()])]
        )
