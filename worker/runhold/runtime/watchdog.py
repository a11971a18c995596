"""Finds runs that are held and do not get on: their task hangs where no time-out reaches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from runhold.agents import Agent
from runhold.runtime.held import HeldRun, HeldRuns

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0
SLACK_S: Final = 30.0
"""On top of what a model call and its tools may take. Nobody waits for a run that hangs; what matters is that
it does not hang for ever."""


class Watchdog:
    """Looks at the pulse of every held run: when it last wrote something, or was answered.

    :param give_back: takes the run away from its task and releases it.
    """

    def __init__(
        self, held: HeldRuns, agents: Mapping[str, Agent], give_back: Callable[[HeldRun], Awaitable[None]]
    ) -> None:
        self._held = held
        self._agents = agents
        self._give_back = give_back

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = asyncio.get_running_loop().time()
            for held in self._held.snapshot():
                silent_s, allowed_s = now - held.log.moved_at, self.allowed_silence_s(held)
                if silent_s > allowed_s and held.released is None:
                    logger.error(
                        "run %s has made no progress for %.0f s (%.0f are allowed): released",
                        held.run.id,
                        silent_s,
                        allowed_s,
                        extra={"run_id": str(held.run.id), "action": "stuck"},
                    )
                    await self._give_back(held)

    def allowed_silence_s(self, held: HeldRun) -> float:
        """The longest that may pass between two entries: one model call, tools that wait for a thread and then
        run, and some slack."""
        agent = self._agents[held.run.agent_type]
        step_s = agent.limits.tightened(held.run.limits).step_timeout_s
        tools_s = max((tool.timeout_s for tool in agent.tools), default=0.0)
        return step_s + 2 * tools_s + SLACK_S
