"""One soak: a stack, workers, people and weather, then calm, and what became of everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from runhold.local.control import erase
from runhold.local.stack import LocalStack, StackOptions
from runhold.testing import ScriptedModel
from runhold.testing.chaos import Effects, Fleet, ForkServer, Reviewer, Verdict, eventually, judge
from soak import errands
from soak.checks import broken_promises, worker_trouble, write_stories
from soak.people import Deciding, User, appoint, sign_up
from soak.weather import LEASE_S, Weather

WORKERS = 3
IN_FLIGHT = 40
CALM_S = 180.0
"""In good weather every run ends in seconds; what has not ended by then never will."""

MAX_ATTEMPTS = 50
"""A run may lose its worker that often without progress: here workers die for other reasons than their runs."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a soak. `problems` are sentences; empty if nothing was lost."""

    verdict: Verdict
    thrown: Counter[str]
    problems: Sequence[str]

    def __str__(self) -> str:
        rows = [
            *sorted(self.thrown.items()),
            *((f"run {name}", count) for name, count in sorted(self.verdict.statuses.items())),
            *((f"effect asked for: {name}", count) for name, count in sorted(self.verdict.effects.items())),
            ("LOST, DOUBLED OR STUCK", len(self.problems)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join([*(f"{name:<{width}}  {count:>6}" for name, count in rows), *self.problems])


async def run_soak(
    *,
    seconds: float,
    seed: int,
    folder: Path,
    stop: asyncio.Event | None = None,
    shortened: float = 1.0,
    planted: str = "",
) -> Outcome:
    """Bad weather for so many seconds, then calm until all runs have ended; or until `stop`, judged as it is then.

    `folder`: for logs, and the stories of runs that something is wrong with. `shortened`: outages take so much of their
    time. `planted`: SQL that breaks something before the verdict, to see whether that finds it.
    """
    async with AsyncExitStack() as opened:
        stack = await opened.enter_async_context(_own_stack(folder / "stack"))
        model = await opened.enter_async_context(ScriptedModel(errands.script, record=False))
        effects = await opened.enter_async_context(Effects())
        forks = await opened.enter_async_context(ForkServer())
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        options = ("--capacity", "16", "--lease", str(LEASE_S))
        fleet = await opened.enter_async_context(
            Fleet(forks, errands.__file__, *options, folder=folder, env=env, effects=effects)
        )
        await _make_known(stack)
        weather = Weather(stack, fleet, seed, workers=WORKERS, shortened=shortened)
        user = User(await sign_up(stack), seed)
        deciders = [Deciding(f"{seed} reviewer {number}") for number in range(2)]
        for decider in deciders:
            await opened.enter_async_context(Reviewer(await appoint(stack), decider))

        await user.fill_up(IN_FLIGHT)
        ends = [asyncio.create_task(stack.wait()), asyncio.create_task((stop or asyncio.Event()).wait())]
        ending = await _first(weather.rage(seconds), user.submit_and_meddle(IN_FLIGHT), ends=ends)
        if not ending:
            ending = await _first(_calm(stack, [*user.plans]), weather.tend(), ends=ends)
        for end in ends:
            end.cancel()

        if planted:
            async with await psycopg.AsyncConnection.connect(stack.superuser_url) as connection:
                await connection.execute(planted.encode())
        verdict = judge(stack.database_url, user.plans, effects, ended=not ending)
        problems = [
            *map(str, verdict.problems),
            *broken_promises(stack.database_url, user.plans),
            *worker_trouble(fleet.workers),
        ]
        if problems:
            write_stories(stack.database_url, [run for run in user.plans if run in str(problems)], folder)
        return Outcome(
            verdict=verdict,
            thrown=sum((decider.said for decider in deciders), weather.thrown + user.did),
            problems=problems,
        )


@asynccontextmanager
async def _own_stack(folder: Path) -> AsyncGenerator[LocalStack]:
    """A stack whose database survives its crashes."""
    try:
        async with await LocalStack.start(StackOptions(folder=folder, port=0, seed=False)) as stack:
            yield stack
    finally:
        erase(folder)


async def _make_known(stack: LocalStack) -> None:
    """Register the agent, so that runs may be submitted before any worker has started."""
    me = {"id": str(uuid4()), "hostname": "soak", "pid": 1, "version": "0", "lease_ms": 1000}
    async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
        await connection.execute(
            "select runhold.worker_register(%s, %s)",
            [json.dumps(me), json.dumps([errands.agent.definition()])],
        )
        await connection.execute("update agent_types set max_attempts = %s", [MAX_ATTEMPTS])


async def _first(
    leading: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None], *, ends: Sequence[asyncio.Task[Any]]
) -> bool:
    """Do both until the leading one has ended, or one of `ends`, whose error is raised: whether it was one of those."""
    doing = [asyncio.create_task(leading), asyncio.create_task(other)]
    try:
        done, _ = await asyncio.wait({*doing, *ends}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in doing:
            task.cancel()
        await asyncio.wait(doing)
    for task in done:
        task.result()
    return doing[0] not in done


async def _calm(stack: LocalStack, runs: Sequence[str]) -> None:
    """Wait until every run has ended, or should have: the verdict says which have not."""

    async def all_ended() -> bool:
        async with await psycopg.AsyncConnection.connect(stack.database_url) as connection:
            cursor = await connection.execute(
                "select from agent_executions where id = any (%s::uuid[]) and completed_at is null", [[*runs]]
            )
            return cursor.rowcount == 0

    with contextlib.suppress(AssertionError):
        await eventually(all_ended, patience_s=CALM_S)
