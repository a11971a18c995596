"""One cell of one system: start its processes, give them work, and see what it takes."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from bench.cells import Cell
from bench.delay import Delay
from bench.machine import Others, family_cpu_s, memory_mib, sleep_ms
from bench.place import Place
from bench.processes import Host, HostFailed, running
from bench.systems import Order, System

Values = dict[str, float]

LEAST_WARM_UP: Final = 12
WARM_UP: Final = 64
"""Runs before the clock starts, as many as are in flight but not more: connections, plans and caches are there then."""

MOST_RUNS: Final = 6000
LOOK_S: Final = 0.2
"""Between looks whether runs are completed; they cost the database a little, so not more often than needed."""
STALLED_S: Final = 150.0
"""Without one more run completed for so long, a cell is given up: longer than any lease here."""

APART_S: Final = (0.25, 0.75)
"""Between single submissions, so that each finds an idle system; at random, so that no system's poll keeps step."""


class End(NamedTuple):
    """A run's claim and its durable end, as Unix seconds."""

    run: int
    started: float
    ended: float


class NotMeasured(Exception):
    """A system can't do this; the text says why, for its cell."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every cell needs.

    :ivar processes: worker processes; None as many as serve the system best.
    :ivar seconds: about how long a measurement shall last.
    :ivar quick: as few runs as say something.
    """

    place: Place
    name: str
    system: System
    cell: Cell
    folder: Path
    seconds: float
    processes: int | None = None
    quick: bool = False

    @property
    def count(self) -> int:
        """Runs to measure; 0 as many as fit into ``seconds``."""
        return (self.quick and self.cell.quick_count) or self.cell.count


class Workers:
    """The worker processes of a cell, and who submits to them."""

    def __init__(self, setting: Setting, hosts: list[Host], submitter: Host | None) -> None:
        self.hosts = hosts
        self._setting = setting
        self._submitter = submitter
        self._next = 1

    def take(self, count: int) -> range:
        """Numbers for ``count`` runs."""
        self._next += count
        return range(self._next - count, self._next)

    async def give(self, batch: range) -> float:
        """Submit a batch; when that began."""
        if self._submitter is None:
            began = time.time()
            for host in self.hosts:
                await host.send(batch)
            return began
        await self._submitter.send(batch)
        return (await self._submitter.event("submitted", within_s=STALLED_S))["at"]

    async def do(self, batch: range) -> list[End]:
        """Submit a batch and wait until every run of it is complete."""
        await self.give(batch)
        if self._submitter is None:
            done = await asyncio.gather(*(host.event("done", within_s=STALLED_S * 2) for host in self.hosts))
            return [End(*end) for each in done for end in each["ends"]]
        ends: list[End] = []
        moved = time.monotonic()
        while len(ends) < len(batch):
            await asyncio.sleep(LOOK_S)
            found = [end for end in completed(self._setting) if end.run in batch]
            if len(found) > len(ends):
                moved = time.monotonic()
            ends = found
            if time.monotonic() - moved > STALLED_S or not all(host.running for host in self.hosts):
                tails = "\n".join(host.tail() for host in self.hosts)
                raise HostFailed(f"{len(ends)} of {len(batch)} runs were completed, then no more.\n{tails}")
        return ends


def completed(setting: Setting) -> list[End]:
    """All completed runs of a system with a queue."""
    query = setting.system.completed
    assert query is not None
    connection = setting.place.kept(setting.system.database())
    return [End(*row) for row in connection.execute(query).fetchall()]


async def prepare(place: Place, name: str, system: System, folder: Path) -> None:
    """Make a system's tables."""
    await system.open(place)
    try:
        order = Order(system=name, role="prepare", address=system.address(place))
        async with running(system, [order], folder):
            pass
    finally:
        await system.close(place)


async def measure(setting: Setting) -> Values:
    """What a cell says of a system.

    :raises NotMeasured: it can't do this.
    :raises HostFailed: it did not do it.
    """
    kinds = {"runs": _runs, "start": _start, "size": _size, "memory": _memory, "recovery": _recovery}
    await setting.system.open(setting.place)
    try:
        await setting.system.empty(setting.place)
        commit_ms, others = setting.place.commit_ms(), Others()
        values = await kinds[setting.cell.kind](setting)
        return {**values, "commit_ms": commit_ms, "others": others.share}
    finally:
        await setting.system.close(setting.place)


@asynccontextmanager
async def _workers(setting: Setting, *, trace: Path | None = None) -> AsyncGenerator[Workers]:
    system, cell = setting.system, setting.cell
    count = 1 if cell.one_worker else setting.processes or system.processes(cell.in_flight)
    count = min(count, cell.in_flight)
    async with AsyncExitStack() as parts:
        near = system.address(setting.place)
        far = await _led_through(parts, near, cell.distance_s)
        profile = setting.folder / f"{setting.name}.prof" if setting.place.profile else None
        orders = [
            Order(
                system=setting.name,
                role="work",
                address=far,
                workload=cell.workload,
                in_flight=math.ceil(cell.in_flight / count),
                process=number,
                processes=count,
                trace=None if trace is None else str(trace),
                profile=str(profile) if profile is not None and number == 0 else None,
            )
            for number in range(count)
        ]
        if system.queue:
            # Who submits is a frontend, whose time is no part of a worker's.
            orders.append(Order(system=setting.name, role="submit", address=far))
        hosts = await parts.enter_async_context(running(system, orders, setting.folder))
        submitter = hosts.pop() if system.queue else None
        yield Workers(setting, hosts, submitter)


async def _led_through(parts: AsyncExitStack, address: dict[str, str], distance_s: float) -> dict[str, str]:
    """The address with every URL of a server replaced by one through the delay; without distance, as it is."""
    if not distance_s:
        return address
    led = dict(address)
    for key, value in address.items():
        url = urlsplit(value)
        if url.scheme and url.hostname and url.port:
            delay = await parts.enter_async_context(Delay(url.hostname, url.port, distance_s))
            place = f"{url.netloc.rpartition(':')[0]}:{delay.port}"
            led[key] = urlunsplit(url._replace(netloc=place))
    return led


def _cost(setting: Setting, hosts: Sequence[Host]) -> Values:
    """CPU seconds and WAL bytes so far."""
    servers = setting.place.server_cpu_s()
    return {
        "client_cpu_ms": 1000 * sum(family_cpu_s(host.pid) for host in hosts),
        **{f"{name}_cpu_ms": 1000 * seconds for name, seconds in servers.items()},
        "wal_kib": setting.place.wal_bytes() / 1024,
    }


async def _runs(setting: Setting) -> Values:
    """Throughput, latency, and what a run costs."""
    cell = setting.cell
    alone = cell.in_flight == 1 and cell.workload.latency_s > 0
    model_ms = await sleep_ms(cell.workload.latency_s) if alone else 0.0
    async with _workers(setting) as workers:
        warm = await workers.do(workers.take(max(LEAST_WARM_UP, min(cell.in_flight, WARM_UP))))
        rate = len(warm) / (max(end.ended for end in warm) - min(end.started for end in warm))
        least = 2 * cell.in_flight if cell.in_flight > 1 else 8
        count = setting.count or min(MOST_RUNS, max(least, round(setting.seconds * rate)))
        before = _cost(setting, workers.hosts)
        ends = await workers.do(workers.take(count))
        after = _cost(setting, workers.hosts)
        commit_after_ms = setting.place.commit_ms()
    first, last = min(end.started for end in ends), max(end.ended for end in ends)
    took_ms = sorted(1000 * (end.ended - end.started) for end in ends)
    values = {
        "runs": float(len(ends)),
        "runs_per_s": len(ends) / (last - first),
        "latency_p50_ms": statistics.median(took_ms),
        "latency_p95_ms": took_ms[math.ceil(0.95 * len(took_ms)) - 1],
        "commit_after_ms": commit_after_ms,
        "processes": float(len(workers.hosts)),
        **{name: (after[name] - before[name]) / len(ends) for name in before},
    }
    if alone:
        values["overhead"] = values["latency_p50_ms"] / (1000 * cell.workload.latency_s * cell.workload.steps)
        values["model_ms"] = model_ms
        values["overhead_of_sleeps"] = values["latency_p50_ms"] / (model_ms * cell.workload.steps)
    return values


async def _start(setting: Setting) -> Values:
    """From the call that submits to the first call of the model, one run at a time."""
    trace = setting.folder / f"{setting.name}-start.trace"
    trace.unlink(missing_ok=True)
    began: dict[int, float] = {}
    async with _workers(setting, trace=trace) as workers:
        await workers.do(workers.take(3))
        for _ in range(setting.count):
            batch = workers.take(1)
            if setting.system.queue:
                began[batch.start] = await workers.give(batch)
                await _called(trace, batch.start)
            else:
                (end,) = await workers.do(batch)
                began[batch.start] = end.started
            await asyncio.sleep(random.uniform(*APART_S))
    first = {run: at for run, step, at, _ in reversed(_calls(trace)) if step == 1}
    waits = sorted(1000 * (first[run] - at) for run, at in began.items())
    return {"start_p50_ms": statistics.median(waits), "start_p95_ms": waits[math.ceil(0.95 * len(waits)) - 1]}


def _calls(trace: Path) -> list[tuple[int, int, float, int]]:
    """(run, step, time, process) of the model's calls, in their order."""
    if not trace.exists():
        return []
    rows = (line.split() for line in trace.read_text().splitlines())
    return [(int(run), int(step), float(at), int(pid)) for run, step, at, pid in rows]


async def _called(trace: Path, run: int) -> None:
    """Wait until the model was called for a run."""
    ends = time.monotonic() + STALLED_S
    while not any(called == run for called, *_ in _calls(trace)):
        if time.monotonic() > ends:
            raise HostFailed(f"run {run} was not begun within {STALLED_S:g} s")
        await asyncio.sleep(0.02)


async def _size(setting: Setting) -> Values:
    """Bytes that stay of a run."""
    database = setting.system.database()
    empty = setting.place.stored_bytes(database)
    async with _workers(setting) as workers:
        wal = setting.place.wal_bytes()
        await workers.do(workers.take(setting.count))
        wal = setting.place.wal_bytes() - wal
    stored = setting.place.stored_bytes(database) - empty
    return {
        "stored_kib": stored / 1024 / setting.count,
        "wal_kib": wal / 1024 / setting.count,
    }


async def _until_held(hosts: Sequence[Host], count: int) -> None:
    moved, seen = time.monotonic(), -1
    while (held := sum(host.held for host in hosts)) < count:
        if held != seen:
            moved, seen = time.monotonic(), held
        if time.monotonic() - moved > STALLED_S or not all(host.running for host in hosts):
            raise HostFailed(f"{held} of {count} runs came halfway.\n{hosts[0].tail()}")
        await asyncio.sleep(LOOK_S)


async def _memory(setting: Setting) -> Values:
    """What one worker weighs with so many runs in the middle of their work."""
    async with _workers(setting) as workers:
        (host,) = workers.hosts
        idle = memory_mib(host.pid)
        await workers.give(workers.take(setting.cell.in_flight))
        await _until_held(workers.hosts, setting.cell.in_flight)
        held = memory_mib(host.pid)
        host.kill()
    return {"memory_idle_mib": idle, "memory_mib": held}


async def _recovery(setting: Setting) -> Values:
    """From kill -9 to the moment when the last of its runs was at work again."""
    system = setting.system
    if system.recovery == "none":
        raise NotMeasured("nobody goes on")
    trace = setting.folder / f"{setting.name}-recovery.trace"
    trace.unlink(missing_ok=True)
    async with _workers(setting, trace=trace) as workers, AsyncExitStack() as parts:
        batch = workers.take(setting.cell.in_flight)
        await workers.give(batch)
        await _until_held(workers.hosts, len(batch))
        (victim,) = workers.hosts
        released = replace(setting.cell.workload, hold_at=None)
        successor = replace(victim.order, workload=released, resume=system.recovery == "invoke")

        async def succeed() -> Host:
            return (await parts.enter_async_context(running(system, [successor], setting.folder)))[0]

        heir = await succeed() if system.recovery == "others" else None
        killed = time.time()
        victim.kill()
        if heir is None:
            heir = await succeed()
        if system.recovery == "invoke":
            await heir.send(batch)
        resumed: dict[int, float] = {}
        while len(resumed) < len(batch):
            await asyncio.sleep(LOOK_S)
            if time.time() - killed > STALLED_S:
                raise NotMeasured(f"{len(resumed)} of {len(batch)} within {STALLED_S:g} s")
            again: list[Any] = [call for call in _calls(trace) if call[2] > killed]
            resumed = {run: at for run, _, at, _ in reversed(again)}
        heir.kill()
    after = sorted(at - killed for at in resumed.values())
    return {"recovery_p50_s": statistics.median(after), "recovery_last_s": after[-1]}
