"""The process around the sessions: it starts, it is told to stop, it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import Any

import pytest
from fake_port import FakePort

from runhold import Agent
from runhold.errors import ConfigError, StoreUnavailable
from runhold.models.inprocess import FunctionModel
from runhold.runtime import worker
from runhold.runtime.config import WorkerConfig
from runhold.runtime.worker import run_worker
from runhold.store.gateway import Gateway
from runhold.testing import say
from runhold.testing.chaos.patience import eventually

AGENT = Agent(type="t", model="m", instructions="x")
CONFIG = WorkerConfig(
    url="http://x.test", secret_key="sb_secret_x", lease_s=1, grace_s=1, poll_s=0.05, realtime=False
)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> FakePort:
    made = FakePort()

    async def opened(*_: Any, **__: Any) -> FakePort:
        return made

    monkeypatch.setattr(Gateway, "open", opened)
    return made


def _model() -> Any:
    return FunctionModel(lambda messages, tools: say("done"), strict=False)


async def test_it_works_until_the_event_is_set(port: FakePort) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(CONFIG, [AGENT], model=_model(), stop_event=stop))
    run_id = port.submit()
    await eventually(lambda: port.run(run_id).status == "completed")
    stop.set()
    assert await asyncio.wait_for(task, 5) == 0
    assert port.calls_of("aclose")


async def test_after_a_lost_lease_it_registers_anew_and_goes_on(port: FakePort) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(CONFIG, [AGENT], model=_model(), stop_event=stop))
    await eventually(lambda: port.calls_of("heartbeat"))
    port.workers[port.calls_of("register")[0].id] = "dead"
    await eventually(lambda: len(port.calls_of("register")) == 2)
    run_id = port.submit()
    await eventually(lambda: port.run(run_id).status == "completed")
    stop.set()
    assert await asyncio.wait_for(task, 5) == 0


async def test_sigterm_stops_it_well(port: FakePort) -> None:
    task = asyncio.create_task(run_worker(CONFIG, [AGENT], model=_model()))
    await eventually(lambda: port.calls_of("claim"))
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, 5) == 0
    assert port.calls_of("stop") == [True, False]


async def test_a_second_signal_ends_the_process_at_once(
    port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", ended.append)  # pyright: ignore[reportPrivateImportUsage]
    with worker._stopping_on_signals(asyncio.Event()):  # pyright: ignore[reportPrivateUsage]
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)
        assert not ended
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
    assert ended == [128 + signal.SIGTERM]


async def test_it_does_not_start_without_a_database(port: FakePort) -> None:
    port.always_failing["register"] = StoreUnavailable("refused")
    with pytest.raises(ConfigError, match=r"http://x\.test"):
        await run_worker(
            replace(CONFIG, start_timeout_s=0.1), [AGENT], model=_model(), stop_event=asyncio.Event()
        )


async def test_it_does_not_start_without_a_key_for_redacted_fields(port: FakePort) -> None:
    redacting = Agent(type="t", model="m", instructions="x", redact=("iban",))
    with pytest.raises(
        ConfigError, match=r"Agent 't' redacts fields.*set RUNHOLD_REDACT_KEY \(make one with"
    ):
        await run_worker(CONFIG, [redacting], model=_model())
    odd = replace(CONFIG, redact_keys=["odd"])
    with pytest.raises(ConfigError, match="RUNHOLD_REDACT_KEY holds something that is no key"):
        await run_worker(odd, [redacting], model=_model())
    assert not port.calls_of("register")


async def test_it_does_not_start_without_agents_or_a_model(
    port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no agents"):
        await run_worker(CONFIG, [], model=_model())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await run_worker(CONFIG, [AGENT])
    assert not port.calls_of("register")
