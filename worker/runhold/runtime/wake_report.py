"""How work was found, told now and then: whether Realtime does what it is there for shows only in these numbers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from runhold.runtime.claims import Claimer
from runhold.runtime.wake import Listener

logger = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 600.0

LOOK_EVERY_S: Final = 15.0

MIN_MISSED: Final = 5
MAX_MISSED_PART: Final = 0.1
"""So many runs since the last report, and this part of all, found by polls while Realtime was heard: it loses some."""

Field = int | bool | str | None


class WakeReport:
    """Says how many runs were found by wake-ups and how many by polls, and what was heard when."""

    def __init__(self, listener: Listener, claimer: Claimer) -> None:
        self._listener = listener
        self._claimer = claimer
        self._told_push = 0
        self._told_missed = 0

    def fields(self) -> dict[str, Field]:
        """The numbers, as fields of a log line; ``docs/guides/realtime.md`` says what they mean."""
        stats, found = self._listener.stats, self._claimer.found
        return {
            "heard": self._listener.is_heard,
            "push": found["push"],
            "poll": found["poll"],
            "missed": self._claimer.missed,
            "wakes": stats.events,
            "last_event_at": stats.last_event_at and stats.last_event_at.isoformat(timespec="seconds"),
            "last_probe_ok": stats.last_probe_at and stats.last_probe_at.isoformat(timespec="seconds"),
            "resubscribes": stats.resubscribes,
            "trouble": stats.last_trouble,
        }

    async def run(self) -> None:
        """Report every :data:`REPORT_EVERY_S`, and at once when wake-ups get lost, until cancelled."""
        report_at = time.monotonic() + REPORT_EVERY_S
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, REPORT_EVERY_S))
            suspicious = self._is_suspicious()
            if suspicious or time.monotonic() >= report_at:
                self._tell(suspicious)
                report_at = time.monotonic() + REPORT_EVERY_S

    def _is_suspicious(self) -> bool:
        missed = self._claimer.missed - self._told_missed
        push = self._claimer.found["push"] - self._told_push
        return missed >= MIN_MISSED and missed > MAX_MISSED_PART * (missed + push)

    def _tell(self, suspicious: bool) -> None:
        told = " ".join(f"{name}={value}" for name, value in self.fields().items() if value is not None)
        what = "wake-ups get lost, see `runhold doctor`" if suspicious else "work was found"
        level = logging.WARNING if suspicious else logging.INFO
        logger.log(level, "%s: %s", what, told, extra={"action": "wakes", **self.fields()})
        self._told_push, self._told_missed = self._claimer.found["push"], self._claimer.missed
