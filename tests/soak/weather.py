"""The weather: what is thrown at the stack and at the workers, drawn from a seed and counted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from runhold.local.stack import LocalStack
from runhold.testing.chaos import Action, Armed, CrashPoint, Fleet, Moment, Side

LEASE_S = 4.0

KILL_EVERY_S = 2.0
SUSPEND_EVERY_S = 7.0
STRIKE_EVERY_S = 0.7
TEND_EVERY_S = 0.5
STORM_PAUSE_S = (2.0, 6.0)
API_AWAY_S = 15.0

MOMENTS: tuple[Moment, ...] = (
    *("claim", "heartbeat", "sweep", "register"),
    *("step", "intent", "ask", "start", "result", "pause", "complete", "fail", "cancel", "release"),
)
STRIKES: tuple[tuple[Side, Action], ...] = (
    *(("before", "lose"), ("before", "refuse"), ("before", "kill"), ("before", "suspend")),
    *(("after", "lose"), ("after", "cut"), ("after", "refuse"), ("after", "kill"), ("after", "suspend")),
)

Storm = Callable[[], Awaitable[None]]


class Weather:
    """Everything bad, at once, until it is called off.

    `thrown`: how often each thing was done. Two soaks of one seed draw the same; what it hits differs.
    """

    def __init__(
        self, stack: LocalStack, fleet: Fleet, seed: int, *, workers: int, shortened: float = 1.0
    ) -> None:
        """`shortened`: outages take so much of their time, so that a short soak sees all of them."""
        self.thrown: Counter[str] = Counter()
        self._stack = stack
        self._fleet = fleet
        self._workers = workers
        self._shortened = shortened
        self._seed = seed
        self._storms: dict[str, Storm] = {
            "database stopped immediately": self._crash_database,
            "API down": self._lose_api,
            "Realtime frozen": self._freeze_realtime,
            "Realtime killed": self._kill_realtime,
            "API frozen": self._freeze_api,
        }

    async def rage(self, seconds: float) -> None:
        """Bad weather for so long. However it ends, everything runs again afterwards, and nobody is suspended."""
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for blowing in (self._storm, self._kill, self._suspend, self._strike, self.tend):
                    group.create_task(blowing(), name=blowing.__name__)
        except TimeoutError:
            pass
        finally:
            await self._clear_up()

    async def tend(self) -> None:
        """See to it that so many workers work, as a process manager does."""
        while True:
            await self._fleet.start(self._workers - len(self._fleet.working))
            await asyncio.sleep(TEND_EVERY_S)

    async def _clear_up(self) -> None:
        self._fleet.points.disarm_all()
        for part in (self._stack.postgres, self._stack.realtime, self._stack.api):
            await part.start()
        for worker in self._fleet.living:
            if worker.suspended:
                worker.resume()
        self.thrown.update(self._fleet.thrown)

    # ----------------------------------------------------------------------------------- what hits everybody

    async def _storm(self) -> None:
        rng = random.Random(f"{self._seed} storms")
        while True:
            deck = [*self._storms]
            rng.shuffle(deck)
            for name in deck:
                await asyncio.sleep(rng.uniform(*STORM_PAUSE_S) * self._shortened)
                self.thrown[name] += 1
                await self._storms[name]()

    async def _crash_database(self) -> None:
        await self._stack.postgres.stop(immediate=True)
        await asyncio.sleep(1.0 * self._shortened)
        await self._stack.postgres.start()

    async def _lose_api(self) -> None:
        await self._stack.api.stop(immediate=True)
        await asyncio.sleep(API_AWAY_S * self._shortened)
        await self._stack.api.start()

    async def _freeze_api(self) -> None:
        async with self._stack.api.frozen():
            await asyncio.sleep(1.5 * LEASE_S * self._shortened)

    async def _freeze_realtime(self) -> None:
        async with self._stack.realtime.frozen():
            await asyncio.sleep(2 * LEASE_S * self._shortened)

    async def _kill_realtime(self) -> None:
        await self._stack.realtime.stop(immediate=True)
        await self._stack.realtime.start()

    # ------------------------------------------------------------------------------------ what hits one worker

    async def _kill(self) -> None:
        rng = random.Random(f"{self._seed} kills")
        while True:
            await asyncio.sleep(KILL_EVERY_S)
            if working := self._fleet.working:
                rng.choice(working).kill()
                self.thrown["worker killed"] += 1

    async def _suspend(self) -> None:
        rng = random.Random(f"{self._seed} suspensions")
        while True:
            await asyncio.sleep(SUSPEND_EVERY_S * self._shortened)
            if working := self._fleet.working:
                worker = rng.choice(working)
                worker.suspend()
                self.thrown["worker suspended past its lease"] += 1
                await asyncio.sleep(1.5 * LEASE_S)
                worker.resume()

    async def _strike(self) -> None:
        """Arm a crash point, or cut all connections of a worker; whoever a point has suspended goes on now and then."""
        rng = random.Random(f"{self._seed} strikes")
        while True:
            await asyncio.sleep(STRIKE_EVERY_S)
            if rng.random() < 0.3:
                if working := self._fleet.working:
                    self._fleet.proxies[rng.choice(working).name].cut_all()
                    self.thrown["all connections of a worker cut"] += 1
                continue
            side, action = rng.choice(STRIKES)
            armed = self._fleet.points.arm(CrashPoint(rng.choice(MOMENTS), side), action)
            if action == "suspend":
                asyncio.get_running_loop().call_later(2 * LEASE_S, self._wake, armed)

    def _wake(self, armed: Armed) -> None:
        self._fleet.points.disarm(armed)
        hit = {fired.worker for fired in armed.fired}
        for worker in self._fleet.living:
            if worker.suspended and worker.name in hit:
                worker.resume()
