"""Runs that this worker gave back because something is missing, told in the log: each cause at once, then counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

logger = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 600.0

_EXPECTED: Final = frozenset({"budget"})
"""Waiting for these is what somebody has set: nothing is wrong."""


class Cause(NamedTuple):
    """What runs of an agent wait for: ``("clerk", "tool send")``."""

    agent_type: str
    what: str


class Waits:
    """Says what runs wait for, and how many: the first of each cause at once, all of them every ten minutes."""

    def __init__(self) -> None:
        self._runs: dict[Cause, set[UUID]] = {}
        self._messages: dict[Cause, str] = {}

    def note(self, agent_type: str, run_id: UUID, detail: Mapping[str, Any] | None) -> None:
        """A run went back to the queue with ``detail`` as its ``error_detail``."""
        if detail is None or not detail.get("waiting_for"):
            return
        name = detail.get("tool") or detail.get("model")
        cause = Cause(agent_type, f"{detail['waiting_for']} {name}" if name else str(detail["waiting_for"]))
        is_news = cause not in self._runs
        self._runs.setdefault(cause, set()).add(run_id)
        self._messages[cause] = str(detail.get("message") or "")
        if is_news:
            self._tell(cause, f"a run of {agent_type} waits for {cause.what}", run_id=str(run_id))

    async def run(self) -> None:
        """Report every :data:`REPORT_EVERY_S` seconds until cancelled."""
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self.report()

    def report(self) -> None:
        """Say how many runs were given back for each cause since the last report. A cause without any is over."""
        for cause, runs in self._runs.items():
            if runs:
                some = "1 run waits" if len(runs) == 1 else f"{len(runs)} runs wait"
                self._tell(cause, f"{some} for {cause.what} ({cause.agent_type})", runs=len(runs))
        self._runs = {cause: set() for cause, runs in self._runs.items() if runs}
        self._messages = {cause: self._messages[cause] for cause in self._runs}

    def _tell(self, cause: Cause, sentence: str, **fields: object) -> None:
        logger.log(
            logging.INFO if cause.what in _EXPECTED else logging.WARNING,
            "%s: %s",
            sentence,
            self._messages[cause],
            extra={"action": "waits", "agent_type": cause.agent_type, "waiting_for": cause.what, **fields},
        )
