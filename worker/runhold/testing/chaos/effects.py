"""Effects on the world, counted outside of the workers: what a tool did stays done, whatever becomes of the worker.

A tool calls :func:`record_effect`. It speaks to the :class:`Effects` server of the test, which keeps them in a table
with unique keys. A server rather than a file that every worker writes: a suspended worker would hold the file's lock,
and a crash point needs a place in the middle of a tool.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from runhold.agents import RunContext
from runhold.errors import ToolFailed
from runhold.testing.chaos.moments import Happening
from runhold.testing.chaos.points import Points, Side, Way

HOST: Final = "127.0.0.1"
ADDRESS: Final = "RUNHOLD_CHAOS_EFFECTS"
WORKER: Final = "RUNHOLD_CHAOS_WORKER"
TIMEOUT_S: Final = 300.0
"""The server answers at once, or a crash point holds it: that ends with the test."""


def record_effect(ctx: RunContext, kind: str) -> bool:
    """Take effect, in a tool under test: blocks until the effects table has it; whether it is there for the first time.

    Its key is the call's idempotency key, so a repetition of an idempotent call changes nothing, and is counted.

    :param kind: best the tool's name: then a verdict also finds effects that should have happened and did not.
    :raises ToolFailed: a crash point refused it: nothing happened.
    :raises ConnectionError: there was no answer: nobody knows.
    """
    host, _, port = os.environ[ADDRESS].rpartition(":")
    effect = {
        "worker": os.environ.get(WORKER, ""),
        "run": str(ctx.execution_id),
        "kind": kind,
        "key": ctx.idempotency_key,
    }
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(json.dumps(effect).encode() + b"\n")
        with connection.makefile("r", encoding="utf-8") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionError("The effects table did not answer.")
    answer = json.loads(line)
    if "refused" in answer:
        raise ToolFailed(answer["refused"])
    return bool(answer["first"])


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One effect, as often as it was asked for.

    :ivar key: the call's idempotency key, ``run:step:position:hash``.
    :ivar times: how often it arrived. Behind a service that deduplicates by key it still happened once.
    """

    run: str
    kind: str
    key: str
    times: int

    @property
    def call(self) -> tuple[int, int]:
        """(step number, position) of the call that did it."""
        _, step, position, _ = self.key.split(":", 3)
        return int(step), int(position)


class Effects:
    """The effects table, and the server that tools reach it by.

    :ivar url: where it is, as ``HOST:PORT``.
    """

    def __init__(self, path: Path | None = None) -> None:
        """
        :param path: the SQLite file that keeps them; in memory by default.
        """
        self.url = ""
        self._points = Points()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._table = sqlite3.connect(path or ":memory:")
        self._table.execute(
            "create table if not exists effects"
            " (key text primary key, run text not null, kind text not null, times integer not null)"
        )

    def attach(self, points: Points) -> None:
        """From now on these crash points are heeded: ``effect``, ``before`` and ``after`` the table has it."""
        self._points = points

    def env_for(self, worker: str) -> Mapping[str, str]:
        """The variables by which :func:`record_effect` finds this table, in that worker."""
        return {ADDRESS: self.url, WORKER: worker}

    def all(self, run: str | None = None) -> list[Effect]:
        """Every effect, or one run's."""
        rows = self._table.execute("select run, kind, key, times from effects order by rowid")
        found = [Effect(run=row[0], kind=row[1], key=row[2], times=row[3]) for row in rows]
        return [effect for effect in found if run in (None, effect.run)]

    def times(self, run: str | None = None) -> Counter[str]:
        """How often each kind of effect was asked for."""
        counts: Counter[str] = Counter()
        for effect in self.all(run):
            counts[effect.kind] += effect.times
        return counts

    def add(self, effect: Mapping[str, str]) -> bool:
        """Keep an effect; whether its key is new."""
        (times,) = self._table.execute(
            "insert into effects (key, run, kind, times) values (:key, :run, :kind, 1)"
            " on conflict (key) do update set times = times + 1 returning times",
            dict(effect),
        ).fetchone()
        self._table.commit()
        return times == 1

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.url = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            answer = await self._take(json.loads(await reader.readline()))
            if answer is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the worker was killed while it told us
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _take(self, effect: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer to an effect that arrived; None: there is none."""

        async def meet(side: Side) -> Way:
            victim = self._points.victims.get(effect["worker"])
            return await self._points.meet(side, victim, [Happening("effect", effect["run"])])

        way = await meet("before")
        if way == "go_on":
            first = self.add(effect)
            if await meet("after") == "go_on":
                return {"first": first}
        return {"refused": "The effects table is closed today."} if way == "refuse" else None
