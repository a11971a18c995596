"""Workers under fire: each a real process behind a proxy of its own, all sharing crash points and sinks."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from runhold.testing.chaos.effects import Effects
from runhold.testing.chaos.mail import ChaosMailbox
from runhold.testing.chaos.patience import eventually
from runhold.testing.chaos.points import Points
from runhold.testing.chaos.proxy import Proxy
from runhold.testing.chaos.workers import ForkServer, WorkerProcess

REPLACE_POLL_S: Final = 0.1


class Fleet:
    """Any number of workers for the agents of one module. Leaving it ends them all.

    :ivar points: the crash points of all of them.
    :ivar workers: every worker that was started, in order; ``proxies`` has theirs, by name.
    """

    def __init__(
        self,
        forks: ForkServer,
        module: str,
        *options: str,
        folder: Path,
        env: Mapping[str, str],
        effects: Effects | None = None,
        mailbox: ChaosMailbox | None = None,
    ) -> None:
        """
        :param module: where the agents are, as ``runhold worker`` takes it; ``options``: its options.
        :param folder: for logs; the workers' working directory.
        :param env: what the workers need: the stack's (:meth:`LocalStack.env`), the model's, your tools'. What this
            process has of its own is there, too.
        """
        self.points = Points()
        self.workers: list[WorkerProcess] = []
        self.proxies: dict[str, Proxy] = {}
        self._forks = forks
        self._module = module
        self._options = options
        self._folder = folder
        self._env = {**os.environ, **env}
        self._effects = effects
        self._mailbox = mailbox
        self._opened = AsyncExitStack()
        self._replacing: asyncio.Task[None] | None = None
        for sink in (effects, mailbox):
            if sink is not None:
                sink.attach(self.points)

    async def start(self, count: int = 1) -> list[WorkerProcess]:
        """Start workers; those that were started."""
        return [await self._start() for _ in range(count)]

    async def _start(self) -> WorkerProcess:
        name = f"worker-{len(self.workers) + 1}"
        proxy = await self._opened.enter_async_context(Proxy(self._env["SUPABASE_URL"], self.points))
        env = {**self._env, "SUPABASE_URL": proxy.url}
        if self._effects is not None:
            env.update(self._effects.env_for(name))
        if self._mailbox is not None:
            env.update(await self._mailbox.env_for(name))
        worker = self._forks.start(self._module, *self._options, name=name, env=env, folder=self._folder)
        self.workers.append(worker)
        self.proxies[name] = proxy
        proxy.victim = self.points.victims[name] = worker
        return worker

    async def ready(self) -> None:
        """Wait until every worker has registered: from then on the database knows the agents.

        :raises AssertionError: one has not; its log says why.
        """
        for worker in self.working:
            await eventually(
                lambda worker=worker: "worker ready" in worker.log or not worker.running, worker.name
            )
            if not worker.running:
                raise AssertionError(f"{worker.name} has ended.\n{worker.log_tail}")

    def keep(self, count: int) -> None:
        """From now on so many workers work: whoever is killed or suspended is replaced at once."""
        if self._replacing is not None:
            self._replacing.cancel()
        self._replacing = asyncio.create_task(self._keep(count), name="replace workers")

    async def _keep(self, count: int) -> None:
        while True:
            await self.start(count - len(self.working))
            await asyncio.sleep(REPLACE_POLL_S)

    @property
    def living(self) -> list[WorkerProcess]:
        """The workers that have not ended."""
        return [worker for worker in self.workers if worker.running]

    @property
    def working(self) -> list[WorkerProcess]:
        """Those of them that are not suspended."""
        return [worker for worker in self.living if not worker.suspended]

    @property
    def thrown(self) -> Counter[str]:
        """What the crash points did, by action and point."""
        return Counter(f"{fired.action} {fired.point}" for fired in self.points.fired)

    @property
    def logs(self) -> str:
        """The ends of all logs, for a failure's text."""
        return "\n".join(worker.log_tail for worker in self.workers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        self.points.disarm_all()
        for worker in self.workers:
            worker.kill()
        await self._opened.aclose()
