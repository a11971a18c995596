"""Crash points: where something is to happen, what, and whether it has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from runhold.testing.chaos.moments import MOMENTS, Happening, Moment
from runhold.testing.chaos.patience import PATIENCE_S

Side = Literal["before", "after"]

Action = Literal["kill", "suspend", "lose", "cut", "refuse", "hold"]
"""What to do at a crash point.

===========  ====================================================  =================================================
action       ``before``: not done yet                              ``after``: done, the worker does not know yet
===========  ====================================================  =================================================
``kill``     ``kill -9`` the worker; it is never done              ``kill -9`` the worker
``suspend``  SIGSTOP the worker; it is done once released          SIGSTOP the worker; answered once released
``lose``     the connection is cut; it is never done               the connection is cut instead of an answer
``cut``      (only ``after``)                                      half of the answer, then the connection is cut
``refuse``   503; it is never done                                 503 all the same, as gateways do
``hold``     done once released                                    answered once released
===========  ====================================================  =================================================
"""

Way = Literal["go_on", "gone", "cut", "refuse"]
"""How it goes on for whatever came to a point: as if nothing were; without a connection; with half of an answer; with a
503."""


class Victim(Protocol):
    """A worker, as far as crash points need one."""

    @property
    def name(self) -> str: ...

    def kill(self) -> None: ...

    def suspend(self) -> None: ...


@dataclass(frozen=True)
class CrashPoint:
    """A moment, and the side of it: ``before`` it happened, or ``after``, with the worker not told yet."""

    moment: Moment
    side: Side

    def __post_init__(self) -> None:
        if self.moment not in MOMENTS:
            raise ValueError(f"There is no moment {self.moment!r}: give one of {', '.join(sorted(MOMENTS))}.")

    def __str__(self) -> str:
        return f"{self.side} {self.moment}"


@dataclass(frozen=True, kw_only=True)
class Fired:
    """What was done, once."""

    point: CrashPoint
    action: Action
    worker: str
    run: str | None


@dataclass(eq=False, kw_only=True)
class Armed:
    """A crash point that waits for its moment.

    :ivar run: only this run's moments count; None: any run's.
    :ivar times: how often it still fires.
    :ivar skip: how many moments still pass before it fires.
    :ivar fired: what it did.
    """

    point: CrashPoint
    action: Action
    run: str | None = None
    worker: str | None = None
    times: int = 1
    skip: int = 0
    fired: list[Fired] = field(default_factory=list[Fired])
    _reached: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __post_init__(self) -> None:
        if self.action == "cut" and self.point.side == "before":
            raise ValueError("Only an answer can be cut in the middle: take the side 'after'.")

    async def reached(self) -> Fired:
        """Wait until it has fired.

        :raises AssertionError: nothing came to this point.
        """
        try:
            await asyncio.wait_for(self._reached.wait(), PATIENCE_S)
        except TimeoutError:
            raise AssertionError(f"Nothing came to the point {self.point} in {PATIENCE_S:g} s.") from None
        return self.fired[-1]

    def release(self) -> None:
        """Let what was held, or will be, go on."""
        self._released.set()

    async def carry_out(self, victim: Victim) -> Way:
        """Do it, and say how it goes on."""
        match self.action:
            case "kill":
                victim.kill()
                return "gone"
            case "lose":
                return "gone"
            case "cut":
                return "cut"
            case "refuse":
                return "refuse"
            case "suspend":
                victim.suspend()
            case "hold":
                pass
        await self._released.wait()
        return "go_on"

    def take(self, worker: str, happenings: Sequence[Happening]) -> bool:
        """Whether it fires now."""
        if self.times <= 0 or self.worker not in (None, worker):
            return False
        for moment, run in happenings:
            if moment == self.point.moment and self.run in (None, run):
                if self.skip > 0:
                    self.skip -= 1
                    return False
                self.times -= 1
                self.fired.append(Fired(point=self.point, action=self.action, worker=worker, run=run))
                self._reached.set()
                return True
        return False


class Points:
    """The crash points of a fleet, shared by its proxies and sinks.

    :ivar passed: how often each point was come to, armed or not.
    :ivar victims: the workers, by name.
    """

    def __init__(self) -> None:
        self.passed: Counter[CrashPoint] = Counter()
        self.victims: dict[str, Victim] = {}
        self._armed: list[Armed] = []

    def arm(
        self,
        point: CrashPoint,
        action: Action,
        *,
        run: str | None = None,
        worker: str | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> Armed:
        """Have ``action`` done the next ``times`` times that this point is come to.

        :param run: by this run alone; :param worker: by this worker (its name) alone.
        :param skip: how often it passes first.
        """
        armed = Armed(point=point, action=action, run=run, worker=worker, times=times, skip=skip)
        self._armed.append(armed)
        return armed

    def disarm(self, armed: Armed) -> None:
        """It fires no more, and holds nothing any more."""
        armed.times = 0
        armed.release()

    def disarm_all(self) -> None:
        """Peace."""
        for armed in self._armed:
            self.disarm(armed)

    @property
    def fired(self) -> list[Fired]:
        """All that was done, by armed point."""
        return [fired for armed in self._armed for fired in armed.fired]

    async def meet(self, side: Side, victim: Victim | None, happenings: Sequence[Happening]) -> Way:
        """Something has come to this side of these moments: do what was armed. For proxies and sinks."""
        if victim is None:
            return "go_on"
        self.passed.update({CrashPoint(happening.moment, side) for happening in happenings})
        for armed in self._armed:
            if armed.point.side == side and armed.take(victim.name, happenings):
                return await armed.carry_out(victim)
        return "go_on"
