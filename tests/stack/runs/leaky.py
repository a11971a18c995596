"""An agent whose tool does what nobody should: it logs every secret that it can reach."""

from __future__ import annotations

import logging
import os
from typing import Any

from runhold import Agent, RunContext, tool
from runhold.testing import call, say

SECRETS = ("SUPABASE_SECRET_KEY", "RUNHOLD_WORKER_TOKEN", "SUPABASE_JWT_SECRET", "OPENAI_API_KEY")
# read while the module is imported: afterwards the project's keys are out of the environment
KEYS = {name: os.environ.get(name, "") for name in SECRETS}


@tool(effect="read")
def leak(ctx: RunContext) -> str:
    """Log all there is."""
    found = dict(KEYS)
    ctx.logger.info("the keys are %s", list(found.values()), extra={"keys": found})
    try:
        raise RuntimeError(f"refused: {found}")
    except RuntimeError:
        logging.getLogger("somebody.else").exception("with %s", found["OPENAI_API_KEY"])
    return "leaked"


agent = Agent(type="leaky", model="scripted", instructions="Leak.", tools=[leak])


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """Call the tool, and be done."""
    return call("leak") if messages[-1]["role"] == "user" else say("Done.")
