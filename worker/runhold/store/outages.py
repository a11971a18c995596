"""Says once why calls fail, and once that they are answered again."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from runhold.errors import Refused, StoreError, WorkerDead
from runhold.store.answers import DATA, GatewayAnswer, kind_of

logger = logging.getLogger(__name__)

MAX_CAUSES: Final = 100
"""Causes that are remembered at once; of more, the oldest is forgotten."""


@dataclass(slots=True)
class _Cause:
    since: float
    failures: int = 0
    functions: set[str] = field(default_factory=set[str])


class Outages:
    """What calls fail for at present, by cause, however many calls of however many runs meet it.

    A cause is over when a function that met it is answered. Used by the event loop and the heartbeat's thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._causes: dict[str, _Cause] = {}

    def failed(self, function: str, error: StoreError) -> None:
        """A call failed: log it, unless this cause is known."""
        if isinstance(error, WorkerDead):  # whoever called registers anew, and says so
            self.answered(function)
            return
        with self._lock:
            name = _name(error)
            cause = self._causes.get(name)
            if cause is None:
                if len(self._causes) >= MAX_CAUSES:
                    del self._causes[next(iter(self._causes))]
                cause = self._causes[name] = _Cause(self._clock())
                kind = kind_of(error)
                logger.warning(
                    "%s failed: %s (%s); it is called again with growing pauses",
                    function,
                    _sentence(error),
                    kind.meaning,
                    extra={"action": "call_failed", "function": function, "fault": kind.fault},
                )
            cause.failures += 1
            cause.functions.add(function)
        if kind_of(error) is DATA:  # the database answered: what was before it is over
            self._end(function, besides=name)

    def answered(self, function: str) -> None:
        """A call succeeded: log that, if it failed before."""
        if self._causes:
            self._end(function)

    def _end(self, function: str, besides: str = "") -> None:
        with self._lock:
            ended = [
                name
                for name, cause in self._causes.items()
                if function in cause.functions and name != besides
            ]
            for name in ended:
                cause = self._causes.pop(name)
                logger.info(
                    "%s is answered again after %.1f s and %d failed calls (%s)",
                    function,
                    self._clock() - cause.since,
                    cause.failures,
                    name,
                    extra={"action": "call_answered", "function": function},
                )


def _sentence(error: StoreError) -> str:
    code = f" [{error.code}]" if isinstance(error, Refused) else ""
    return f"{str(error).rstrip('.')}{code}"


def _name(error: StoreError) -> str:
    """What is the same whenever the cause is: without ids, times and counts."""
    if isinstance(error, Refused):
        return error.code
    if isinstance(error, GatewayAnswer):
        says = re.sub(r"\w*\d\w*", "#", error.says)[:40]
        return f"{error.status} {says}".strip()
    cause = error.__cause__
    return kind_of(error).meaning if cause is None else type(cause).__name__
