"""A registered worker at work, against a database in memory that follows the protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from fake_port import FakePort

from runhold import Agent, Limits, RunContext, tool
from runhold.errors import ConfigError, Refused, StoreError, StoreUnavailable, WorkerDead
from runhold.loop import run_agent
from runhold.loop.ports import Definition, Step, Usage
from runhold.models.breaker import FAILURES_TO_OPEN, Breaker
from runhold.models.inprocess import FunctionModel
from runhold.models.prices import Prices
from runhold.models.script import Hang
from runhold.runtime import claims, registration, runs, watchdog
from runhold.runtime.config import WorkerConfig
from runhold.runtime.registration import Registered, register
from runhold.runtime.runs import Equipment
from runhold.runtime.session import Session
from runhold.runtime.side_tasks import SideTaskDied
from runhold.runtime.user_client import UserClients
from runhold.store import client
from runhold.store.records import ModelPrice, TypeSettings
from runhold.testing import call, fault, say
from runhold.testing.chaos.patience import eventually

LEASE_S = 1.0


class Bench:
    """One worker in this process, and what its tools do."""

    def __init__(self) -> None:
        self.port = FakePort(lease_ms=round(LEASE_S * 1000))
        self.prices = Prices()
        self.stop = asyncio.Event()
        self.holding = asyncio.Event()
        self.go = asyncio.Event()
        self.script: Callable[..., Any] = lambda messages, tools: say("done")

        @tool(effect="read", timeout=30)
        async def hold(ctx: RunContext) -> str:
            """Wait until told to go on."""
            self.holding.set()
            await self.go.wait()
            return "held"

        self.agent = Agent(type="t", model="m", instructions="x", tools=[hold], limits=Limits(max_steps=9))

    def holds(self) -> None:
        """Let the model call the tool that holds, then answer."""
        self.script = lambda messages, tools: (
            say("done") if messages[-1]["role"] == "tool" else call("hold", {})
        )

    def config(self, **options: Any) -> WorkerConfig:
        given: dict[str, Any] = {
            "capacity": 4,
            "lease_s": LEASE_S,
            "grace_s": 5,
            "poll_s": 0.05,
            "realtime": False,
        }
        return WorkerConfig(url="http://x.test", secret_key="sb_secret_x", **{**given, **options})

    async def register(self, *, first: bool = True, **options: Any) -> Registered | None:
        return await register(
            self.config(**options),
            {"t": self.agent},
            self.port,
            version="0",
            stop=self.stop,
            for_the_first_time=first,
        )

    async def start(self, **options: Any) -> tuple[Session, asyncio.Task[str]]:
        registered = await self.register(**options)
        assert registered is not None
        equipment = Equipment(
            agents={"t": self.agent},
            model=Breaker(FunctionModel(lambda messages, tools: self.script(messages, tools), strict=False)),
            executor=None,  # type: ignore[arg-type]
            prices=self.prices,
            users=UserClients("http://x.test", None, None),
            progress=lambda _: None,
        )
        made = Session(self.config(**options), equipment, self.port, self._open, registered)
        task: asyncio.Task[str] = asyncio.create_task(made.run(self.stop))
        return made, task

    async def _open(self) -> FakePort:
        return self.port


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(client, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(claims, "RETRY_S", 0.01)
    return Bench()


async def test_prices_are_known_before_the_first_claim(bench: Bench) -> None:
    price = Decimal(7)
    bench.port.price_rows = [ModelPrice(model="m", input_usd=price, cached_input_usd=price, output_usd=price)]
    known: list[object] = []
    bench.port.on_claim = lambda: known.append(bench.prices.price("m"))
    _, task = await bench.start()
    await eventually(lambda: known)
    assert known[0] is not None
    await wound_up(bench, task)


async def test_prices_that_cannot_be_read_keep_nobody_from_work(bench: Bench) -> None:
    bench.port.always_failing["prices"] = StoreUnavailable("away")
    run = bench.port.submit()
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run).status == "completed")
    await wound_up(bench, task)


async def wound_up(bench: Bench, task: asyncio.Task[str]) -> str:
    bench.stop.set()
    return await asyncio.wait_for(task, 15)


async def test_whoever_begins_to_hear_looks_once_more_a_moment_later(bench: Bench) -> None:
    made, task = await bench.start(poll_s=1000)
    await eventually(lambda: len(bench.port.calls_of("claim")) == 1)
    made._on_joined()  # pyright: ignore[reportPrivateUsage]
    await eventually(lambda: len(bench.port.calls_of("claim")) == 2)
    late = bench.port.submit()  # no wake-up tells of it: one that nobody heard came just before
    await eventually(lambda: bench.port.run(late).status == "completed")
    await wound_up(bench, task)


async def test_runs_are_claimed_run_recorded_and_the_worker_says_goodbye(bench: Bench) -> None:
    ids = [bench.port.submit() for _ in range(10)]  # more than there are slots
    _, task = await bench.start()
    await eventually(lambda: all(bench.port.run(each).status == "completed" for each in ids))
    late = bench.port.submit()  # found by polling
    await eventually(lambda: bench.port.run(late).status == "completed")
    assert await wound_up(bench, task) == "stopped"
    assert bench.port.calls_of("stop") == [True, False]
    assert all(n <= 4 for _, n in bench.port.calls_of("claim"))
    assert [seq for seq, _ in bench.port.calls_of("claim")] == sorted(
        {seq for seq, _ in bench.port.calls_of("claim")}
    )


async def test_a_claim_whose_answer_was_lost_is_repeated_under_its_number(bench: Bench) -> None:
    bench.port.failing["claim"].extend(["lost", StoreUnavailable("down"), "lost"])
    run_id = bench.port.submit()
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).status == "completed")
    assert [seq for seq, _ in bench.port.calls_of("claim")][:4] == [1, 1, 1, 1]
    assert bench.port.run(run_id).fence == 1
    await wound_up(bench, task)


async def test_the_heartbeat_never_names_a_claim_whose_runs_are_not_held(bench: Bench) -> None:
    bench.holds()
    ids = {bench.port.submit() for _ in range(4)}
    _, task = await bench.start()
    await eventually(lambda: len(bench.port.calls_of("heartbeat")) >= 4)
    for held, last_seq in bench.port.calls_of("heartbeat"):
        claimed = {run for (_, seq), taken in bench.port.claims.items() if seq <= last_seq for run in taken}
        assert claimed <= set(held)
    assert set(bench.port.calls_of("heartbeat")[-1][0]) == ids
    bench.go.set()
    await wound_up(bench, task)


async def test_at_shutdown_runs_reach_the_end_of_a_step_and_go_back(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    _, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.stop.set()
    await eventually(lambda: bench.port.calls_of("stop"))
    bench.port.submit()  # not for us any more
    bench.go.set()
    assert await asyncio.wait_for(task, 5) == "stopped"
    run = bench.port.run(run_id)
    assert run.status == "pending"
    assert run.entries[-1]["transition"]["reason"] == "shutdown"
    assert len(bench.port.pending) == 1
    assert [each["status"] for each in run.rows("calls") + run.rows("results")][-1] == "succeeded"


async def test_what_does_not_end_within_the_grace_is_given_back_as_it_is(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    _, task = await bench.start(grace_s=0.05)
    await eventually(bench.holding.is_set)
    assert await wound_up(bench, task) == "stopped"
    assert bench.port.run(run_id).status == "pending"
    assert bench.port.calls_of("stop") == [True, False]


async def test_what_a_run_had_done_is_written_when_it_is_given_back(bench: Bench) -> None:
    bench.script = lambda messages, tools: Hang() if messages[-1]["role"] == "tool" else call("hold", {})
    bench.go.set()
    run_id = bench.port.submit()
    _, task = await bench.start(grace_s=0)
    bench.port.latency_s = 0.2
    await eventually(bench.holding.is_set)
    await asyncio.sleep(0.05)  # its step is under way, the tool's result waits behind it
    assert not bench.port.run(run_id).entries
    assert await wound_up(bench, task) == "stopped"
    run = bench.port.run(run_id)
    assert [each["status"] for each in run.rows("calls") + run.rows("results")][-1] == "succeeded"


async def test_a_goodbye_that_nobody_takes_does_not_keep_the_worker(bench: Bench) -> None:
    _, task = await bench.start()
    await eventually(lambda: bench.port.calls_of("claim"))
    bench.port.always_failing["stop"] = StoreUnavailable("down")
    assert await wound_up(bench, task) == "stopped"


async def test_a_lost_lease_drops_all_runs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.port.always_failing["heartbeat"] = StoreUnavailable("down")
    bench.port.always_failing["record"] = StoreUnavailable("down")
    assert await asyncio.wait_for(task, 5) == "dead"
    assert bench.port.run(run_id).status == "running"  # nothing was written
    assert "lease is lost" in caplog.text
    assert made.dropped == [run_id], "to be given back by the next registration"
    bench.port.always_failing.clear()
    again = await bench.register(first=False)
    assert again is not None
    assert again.worker_id != made.worker_id


async def test_a_tool_that_blocks_the_event_loop_costs_the_lease_and_is_not_forgiven(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def block() -> str:
        time.sleep(LEASE_S * 2)  # noqa: ASYNC251
        return "blocked"

    bench.agent = Agent(type="t", model="m", instructions="x", tools=[block])
    bench.script = lambda messages, tools: call("block", {})
    run_id = bench.port.submit()
    made, task = await bench.start()
    assert await asyncio.wait_for(task, 10) == "dead"
    run = bench.port.run(run_id)
    assert run.status == "running"
    assert [row["status"] for row in run.rows("calls") + run.rows("results")] == ["running"]
    assert "stood still" in caplog.text
    assert "in tool block (test_session.py:" in caplog.text
    assert made.dropped == ()


@pytest.mark.parametrize("where", ["heartbeat", "claim", "record"])
async def test_a_dead_worker_drops_all_runs_wherever_it_learns_it(bench: Bench, where: str) -> None:
    bench.holds()
    bench.port.submit()
    _, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.port.always_failing[where] = WorkerDead("dead", code="RH012")
    bench.go.set()
    assert await asyncio.wait_for(task, 5) == "dead"


async def test_no_effect_starts_when_the_lease_is_about_to_end(bench: Bench) -> None:
    made, task = await bench.start()
    lease = made._lease  # pyright: ignore[reportPrivateUsage]
    assert lease.may_start_effect()
    bench.port.always_failing["heartbeat"] = StoreUnavailable("down")
    await eventually(lambda: not lease.may_start_effect())
    assert not lease.is_lost
    assert await asyncio.wait_for(task, 5) == "dead"


async def test_a_cancel_reaches_the_run_through_the_heartbeat(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    _, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.port.cancelled.add(run_id)
    await eventually(lambda: bench.port.run(run_id).status == "cancelled")
    await wound_up(bench, task)


async def test_a_run_that_belongs_to_someone_else_is_dropped_at_once(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.port.lost.add(run_id)
    await eventually(lambda: not len(made._held))  # pyright: ignore[reportPrivateUsage]
    assert "transition" not in str(bench.port.run(run_id).entries)
    await wound_up(bench, task)


async def test_a_run_claimed_again_takes_over_its_slot(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    held = made._held  # pyright: ignore[reportPrivateUsage]
    first = await eventually(lambda: held.get(run_id))
    bench.port.pending.append(run_id)  # the sweep gave it back, and we are the first to claim it
    second = await eventually(lambda: held.get(run_id) is not first and held.get(run_id))
    assert second.run.fence == 2
    await eventually(first.task.done)
    assert held.get(run_id) is second
    bench.go.set()
    await eventually(lambda: bench.port.run(run_id).status == "completed")
    await wound_up(bench, task)


async def test_runs_of_a_type_that_was_switched_off_go_back_at_the_end_of_a_step(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    _, task = await bench.start()
    await eventually(bench.holding.is_set)
    bench.port.types["t"] = TypeSettings(enabled=False)
    beats = len(bench.port.calls_of("heartbeat"))
    await eventually(lambda: len(bench.port.calls_of("heartbeat")) > beats + 1)
    bench.go.set()
    await eventually(lambda: bench.port.run(run_id).status == "pending")
    assert bench.port.run(run_id).entries[-1]["transition"]["reason"] == "agent_disabled"
    await wound_up(bench, task)


async def test_a_running_run_follows_what_an_operator_gates_and_opens_again(bench: Bench) -> None:
    bench.script = lambda messages, tools: say("done") if len(messages) > 5 else call("hold", {})
    bench.port.types["t"] = TypeSettings(approval_tools=["look"])
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(bench.holding.is_set)
    held = made._held.get(run_id)  # pyright: ignore[reportPrivateUsage]
    assert held is not None
    await eventually(lambda: "look" in held.signals.approval_tools)
    bench.port.types["t"] = TypeSettings(approval_tools=["hold"])
    await eventually(lambda: set(held.signals.approval_tools) == {"hold"})
    bench.go.set()
    await eventually(lambda: any("reviews" in entry for entry in bench.port.run(run_id).entries))
    asked = next(entry for entry in bench.port.run(run_id).entries if "reviews" in entry)
    assert [each["status"] for each in asked["calls"]] == ["awaiting_review"]
    await wound_up(bench, task)


async def test_a_run_whose_task_raises_is_given_back_for_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(runs, "run_agent", broken)
    run_id = bench.port.submit()
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).entries)
    transition = bench.port.run(run_id).entries[-1]["transition"]
    assert transition["delay_ms"] > 0
    assert "RuntimeError" in transition["reason"]
    assert transition["counted"]  # it may fail so everywhere
    assert bench.port.run(run_id).entries[-1]["charge"]  # nobody knows how far its model was
    assert "a bug" in caplog.text  # with its traceback, for whoever runs the worker
    await wound_up(bench, task)


async def test_runs_of_a_provider_that_is_down_wait_and_do_not_all_ask_it(bench: Bench) -> None:
    asked = 0

    def down(messages: Any, tools: Any) -> Any:
        nonlocal asked
        asked += 1
        return fault.server_error(503)

    bench.script = down
    ids = [bench.port.submit() for _ in range(60)]
    _, task = await bench.start(capacity=8)
    await eventually(lambda: all(bench.port.run(each).entries for each in ids))
    assert FAILURES_TO_OPEN <= asked <= 8, "those that were asking already, and nobody after them"
    ends = [bench.port.run(each).entries[-1]["transition"] for each in ids]
    assert {end["reason"] for end in ends} == {"model_outage"}
    delays = sorted(end["delay_ms"] for end in ends)
    assert delays[0] >= 2000
    assert delays[-1] - delays[0] >= 4000, "they do not come back together"
    await wound_up(bench, task)


async def test_a_run_that_can_not_even_be_given_back_goes_on_by_the_next_heartbeat(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, attempts = run_agent, 0

    async def broken_once(*args: Any, **options: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("a bug")
        bench.port.always_failing.pop("record", None)
        return await real(*args, **options)

    monkeypatch.setattr(runs, "run_agent", broken_once)
    monkeypatch.setattr(runs, "GIVE_BACK_TIMEOUT_S", 0.05)
    bench.port.always_failing["record"] = StoreUnavailable("down")
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).status == "completed")
    assert bench.port.calls_of("forgotten") == [run_id]
    assert bench.port.run(run_id).fence == 2
    assert made.worker_id in bench.port.workers, "the same worker went on with it"
    await wound_up(bench, task)


async def test_a_run_dropped_before_its_task_began_leaves_its_slot(bench: Bench) -> None:
    made, task = await bench.start()
    held = made._held  # pyright: ignore[reportPrivateUsage]
    take = made._runs.take  # pyright: ignore[reportPrivateUsage]
    claim = await bench.port.claim(made.worker_id, 999, {}, 1)
    bench.port.submit()
    claim = await bench.port.claim(made.worker_id, 1000, {}, 1)
    take(claim)
    (one,) = held.snapshot()
    one.drop("lost at once")
    await eventually(lambda: held.get(one.run.id) is None)
    await wound_up(bench, task)


async def test_a_run_that_the_database_can_not_store_fails_by_itself(bench: Bench) -> None:
    bench.port.poison = lambda entry: "22P05" if "poison" in str(entry) else None
    bench.script = lambda messages, tools: say("poison" if messages[-1]["content"] != "{}" else "fine")
    bad = bench.port.submit({"say": "poison"})
    good = bench.port.submit()
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(good).status == "completed")
    await eventually(lambda: bench.port.run(bad).status == "failed")
    assert bench.port.run(bad).entries[-1]["transition"]["error"] == "INTERNAL_ERROR"
    await wound_up(bench, task)


async def test_a_run_too_large_for_the_claim_is_fetched_while_it_is_held(bench: Bench) -> None:
    run_id = bench.port.submit()
    bench.port.truncated.add(run_id)
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).status == "completed")
    assert bench.port.calls_of("log") == [(run_id, 1)]
    await wound_up(bench, task)


async def test_an_outage_while_it_is_fetched_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LOG_RETRY_S", 0.001)
    run_id = bench.port.submit()
    bench.port.truncated.add(run_id)
    outage = [StoreUnavailable("refused"), Refused("read-only", code="25006"), Refused("no", code="PGRST202")]
    bench.port.failing["log"].extend(outage * 2)
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).status == "completed")
    assert len(bench.port.calls_of("log")) == 7
    assert not bench.port.calls_of("requeued")
    await wound_up(bench, task)


async def test_a_run_too_large_that_can_not_be_fetched_is_given_back(bench: Bench) -> None:
    run_id = bench.port.submit()
    bench.port.truncated.add(run_id)
    bench.port.always_failing["log"] = StoreError("no")
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(run_id).entries)
    assert bench.port.run(run_id).status == "pending"
    await wound_up(bench, task)


async def test_a_run_that_makes_no_sense_is_given_back_and_blocks_nobody(bench: Bench) -> None:
    odd, fine = bench.port.submit(), bench.port.submit()
    bench.port.unreadable.add(odd)
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(fine).status == "completed")
    await eventually(lambda: bench.port.run(odd).entries)
    assert bench.port.run(odd).status == "pending"
    assert bench.port.run(odd).entries[-1]["transition"]["delay_ms"] > 0
    await wound_up(bench, task)


async def test_a_run_whose_redacted_fields_it_can_not_read_goes_back_for_another_worker(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    function = {"name": "hold", "arguments": "[redacted]", "$redacted": "v1:made with another key"}
    message = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
    usage = Usage(input_tokens=1, output_tokens=1)
    unreadable = bench.port.submit(
        steps=[Step(step_number=1, definition_id=uuid4(), message=message, usage=usage)]
    )
    fine = bench.port.submit()
    _, task = await bench.start()
    await eventually(lambda: bench.port.run(fine).status == "completed")
    await eventually(lambda: bench.port.run(unreadable).entries)
    run = bench.port.run(unreadable)
    assert (run.status, list(run.entries[-1])[-1]) == ("pending", "transition")
    transition = run.entries[-1]["transition"]
    assert (transition["reason"], transition["detail"]["waiting_for"]) == ("missing_key", "redact_key")
    assert transition["delay_ms"] > 0
    (told,) = [record for record in caplog.records if getattr(record, "action", "") == "waits"]
    assert told.levelname == "WARNING"
    assert "a run of t waits for redact_key" in told.getMessage()
    assert "this worker has no RUNHOLD_REDACT_KEY" in told.getMessage()
    await wound_up(bench, task)


async def test_definitions_of_earlier_steps_are_fetched_once(bench: Bench) -> None:
    older = Definition(
        id=uuid4(), agent_type="t", version="0", model="m", instructions="", tools=[], params={}, limits={}
    )
    bench.port.older[older.id] = older
    step = Step(
        step_number=1,
        definition_id=older.id,
        message={"role": "assistant", "content": "an answer"},
        usage=Usage(input_tokens=1, output_tokens=1),
    )
    ids = [bench.port.submit(steps=[step]) for _ in range(2)]
    _, task = await bench.start(capacity=1)
    await eventually(lambda: all(bench.port.run(each).status == "completed" for each in ids))
    assert bench.port.calls_of("definitions") == [[older.id]]
    await wound_up(bench, task)


async def test_a_run_that_does_not_get_on_is_given_to_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(watchdog.Watchdog, "allowed_silence_s", lambda self, held: 0.1)
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(lambda: bench.port.calls_of("release"))
    assert bench.port.calls_of("release")[0] == ([run_id], "no progress", True)
    await eventually(lambda: not len(made._held))  # pyright: ignore[reportPrivateUsage]
    assert bench.port.run(run_id).rows("steps")  # what it had written is durable
    await wound_up(bench, task)


async def test_the_watchdog_leaves_room_for_a_model_call_and_slow_tools(bench: Bench) -> None:
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    held: Any = await eventually(lambda: made._held.get(run_id))  # pyright: ignore[reportPrivateUsage]
    assert made._watchdog.allowed_silence_s(held) > 30 + 2 * 30  # pyright: ignore[reportPrivateUsage]
    bench.go.set()
    await wound_up(bench, task)


async def test_a_part_that_dies_stops_the_worker_loudly_and_gives_its_runs_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.holds()
    run_id = bench.port.submit()
    made, task = await bench.start()
    await eventually(bench.holding.is_set)

    def broken() -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(made._writer, "_take", broken)  # pyright: ignore[reportPrivateUsage]
    bench.go.set()
    with pytest.raises(SideTaskDied, match="writer"):
        await asyncio.wait_for(task, 5)
    assert bench.port.calls_of("stop") == [False]
    assert bench.port.run(run_id).status == "pending"


async def test_every_worker_sweeps(bench: Bench) -> None:
    bench.port.failing["sweep"].append(StoreUnavailable("down"))
    _, task = await bench.start()
    await eventually(lambda: len(bench.port.calls_of("sweep")) >= 2)
    await wound_up(bench, task)


# ------------------------------------------------------------------------------------------- registering


async def test_an_id_used_up_by_a_lost_answer_is_replaced(bench: Bench) -> None:
    bench.port.failing["register"].append(WorkerDead("used before", code="RH012"))
    assert await bench.register() is not None
    first, second = bench.port.calls_of("register")
    assert first.id != second.id
    assert second.lease_ms == 1000


async def test_an_unreachable_database_is_a_mistake_at_the_start_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REGISTER_AGAIN_S", 0.01)
    bench.port.failing["register"].append(StoreUnavailable("refused"))
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        await bench.register(start_timeout_s=0)
    bench.port.failing["register"].extend([StoreUnavailable("refused")] * 3)
    assert await bench.register(first=False) is not None
    bench.port.always_failing["register"] = StoreUnavailable("refused")
    waiting = asyncio.create_task(bench.register(first=False))
    await asyncio.sleep(0.02)
    bench.stop.set()
    assert await asyncio.wait_for(waiting, 1) is None
