"""The parts of the benchmark: the run that all systems do, the delay, and what processes are told."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from bench import machine
from bench.cells import CELLS, QUICK
from bench.delay import Delay
from bench.machine import Others, busy_s, cpu_s, family, memory_mib, sleep_ms
from bench.systems import NAMES, Order, load
from bench.workload import TEXT_BYTES, Model, Workload, read_page


@pytest.mark.parametrize("steps", [1, 8, 100])
async def test_a_run_is_its_steps_with_one_page_between_each(steps: int) -> None:
    model = Model(Workload(steps=steps))
    said = [await model.decide(7, step) for step in range(1, steps + 1)]
    pages = [each.page for each in said if each.page is not None]
    assert len(pages) == steps - 1
    assert len(set(pages)) == len(pages)  # a loop guard has no reason to step in
    assert said[-1].page is None
    assert {len(each.text) for each in said} == {TEXT_BYTES}
    assert {len(read_page(page)) for page in pages} <= {TEXT_BYTES}


async def test_a_held_model_tells_so_and_leaves_a_trace_of_its_calls(tmp_path: Path) -> None:
    file = os.open(tmp_path / "trace", os.O_WRONLY | os.O_CREAT)
    held = asyncio.Event()
    model = Model(Workload(hold_at=2), trace=file, on_hold=lambda count: held.set() if count == 1 else None)
    await model.decide(5, 1)
    calling = asyncio.create_task(model.decide(5, 2))
    await held.wait()
    assert not calling.done()
    calling.cancel()
    os.close(file)
    assert [line.split()[:2] for line in (tmp_path / "trace").read_text().splitlines()] == [
        ["5", "1"],
        ["5", "2"],
    ]


async def test_the_delay_adds_its_time_to_each_round_trip_and_loses_nothing() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    sent = os.urandom(1_000_000)
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Delay("127.0.0.1", port, 0.05) as delay:
            reader, writer = await asyncio.open_connection("127.0.0.1", delay.port)
            for _ in range(3):
                began = time.monotonic()
                writer.write(b"!")
                assert await reader.readexactly(1) == b"!"
                assert time.monotonic() - began >= 0.05
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            writer.write_eof()
            writer.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_system_can_be_asked_what_it_is_without_its_libraries(name: str) -> None:
    system = load(name)
    assert system.title
    assert system.guarantee
    assert system.queue == (system.completed is not None)
    assert system.processes(1) == 1


def test_an_order_arrives_as_it_was_given() -> None:
    order = Order(
        system="floor",
        role="work",
        address={"database": "postgresql://…"},
        workload=Workload(steps=3, latency_s=0.5, hold_at=2),
        in_flight=7,
    )
    assert Order.from_json(order.to_json()) == order


def test_the_quick_benchmark_is_a_part_of_the_whole() -> None:
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == len(names)
    assert set(QUICK) < set(names)


def test_others_are_all_but_this_process_and_its_descendants(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, mine, clock = iter([100.0, 110.0]), iter([40.0, 44.0]), iter([7.0, 10.0])
    monkeypatch.setattr(machine, "busy_s", lambda: next(busy))
    monkeypatch.setattr(machine, "family_cpu_s", lambda pid: next(mine) if pid == os.getpid() else 0.0)
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    others = Others()
    assert others.share == (10 - 4) / 2 / 3


def test_what_the_machine_did_includes_what_this_process_did() -> None:
    busy, mine = busy_s(), cpu_s(os.getpid())
    while cpu_s(os.getpid()) - mine < 0.3:
        sum(range(100_000))
    assert busy_s() - busy >= 0.1  # the machine's clock ticks apart from the process's


async def test_a_sleep_takes_at_least_its_time() -> None:
    assert 2 <= await sleep_ms(0.002) < 1000


def test_a_process_is_known_by_what_it_costs() -> None:
    me = os.getpid()
    assert me in family(me)
    assert memory_mib(me) > 1
    before = cpu_s(me)
    while cpu_s(me) == before:
        sum(range(100_000))
    assert cpu_s(me) > before
    assert cpu_s(2**22 + 1) == 0  # no such process
