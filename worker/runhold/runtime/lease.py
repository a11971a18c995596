"""The worker's lease: how long its runs are its own.

The lease is the worker's, not the run's: one row is renewed, however many runs it holds. Its end is counted
from *sending* the last good renewal, on a clock that runs on while the machine sleeps, so that we never believe in
it longer than the database does. Written by the heartbeat's thread, read by the event loop and by the threads of
tools: single attributes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runhold.runtime.clock import lease_now

EFFECT_MARGIN: Final = 1 / 6
"""Part of the lease that must be left to start something that changes the world: 5 s of 30. Enough for the
effect's intent to have been confirmed under the same lease, and for clocks that drift."""


class Lease:
    """Counts down from the last renewal."""

    def __init__(self, clock: Callable[[], float] = lease_now) -> None:
        self._clock = clock
        self._ends_at = float("-inf")
        self._length_s = 0.0

    def renew(self, sent_at: float, lease_ms: int) -> None:
        """A request sent at ``sent_at`` (:func:`lease_now`) was answered: the lease is ``lease_ms`` long."""
        self._length_s = lease_ms / 1000
        self._ends_at = max(self._ends_at, sent_at + self._length_s)

    @property
    def remaining_s(self) -> float:
        """Seconds until it ends; negative after that."""
        return self._ends_at - self._clock()

    @property
    def is_lost(self) -> bool:
        """Whether it has ended: others may have our runs by now."""
        return self.remaining_s <= 0

    def may_start_effect(self) -> bool:
        """Whether enough is left to start something that changes the world."""
        return self.remaining_s > self._length_s * EFFECT_MARGIN
