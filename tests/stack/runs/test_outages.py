"""What a run lives through: parts of the stack that stop, hang or die, and workers killed at the worst moments.

Everything happens on a stack of this module's own. Real processes get real signals; nothing waits by the clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import clerk
import psycopg
import pytest
from postgrest import APIError
from rebuilding import require_rebuildable
from stack_thread import on_its_loop, running_stack
from supabase_project import Project, forget_runs
from test_runs import decide, open_review
from town import Town, eventually

from runhold.local.stack import LocalStack
from runhold.testing import ScriptedModel
from runhold.testing.chaos import ForkServer

ENDED = ("completed", "failed", "cancelled")
SEND = ["call", "send", {"to": "ada", "text": "hello"}]


@pytest.fixture(scope="module")
def own_stack(external: Project | None) -> Iterator[Project]:
    """A stack that may be broken; an external project may not."""
    if external is not None:
        yield external
        return
    with running_stack(durable=True) as stack:
        yield stack


@pytest.fixture
def breakable(own_stack: Project) -> LocalStack:
    """The same stack with its parts, for tests with the marker `local_stack`."""
    assert isinstance(own_stack, LocalStack)
    return own_stack


@pytest.fixture
async def town(
    own_stack: Project, forks: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    """A town on that stack. Whatever a test stopped goes on at its end, and no process stays."""
    monkeypatch.setenv("CLERK_FOLDER", str(tmp_path))
    me = {"id": str(uuid4()), "hostname": "t", "pid": 1, "version": "0"}
    sql(
        own_stack,
        "select runhold.worker_register(%s, %s)",
        json.dumps({**me, "lease_ms": 1000}),
        json.dumps([clerk.agent.definition()]),
    )
    async with ScriptedModel(clerk.script) as model:
        made = Town(own_stack, tmp_path, model.base_url, forks)
        try:
            yield made
        finally:
            for worker in made.workers:
                worker.kill()
            for client in made.clients:
                await client.remove_all_channels()
            require_rebuildable(own_stack, model, "clerk")
            forget_runs(own_stack)
            sql(own_stack, "update agent_types set approval_tools = '{}' where name = 'clerk'")


def sql(stack: Project, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement as the owner of the tables."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return cursor.fetchall() if cursor.description else []


async def call_rows(user: Any, run_id: str) -> list[dict[str, Any]]:
    rows = await user.table("agent_tool_calls").select("*").eq("execution_id", run_id).execute()
    return rows.data


# -------------------------------------------------------------------------------------- parts of the stack


@pytest.mark.local_stack("freezes the API")
async def test_api_that_hangs_for_longer_than_the_lease_costs_the_runs_nothing(
    town: Town, breakable: LocalStack
) -> None:
    worker = town.worker(lease_s=2)
    user, reviewer = await town.person(), await town.reviewer()
    plain = await town.submit(user, ["call", "hold_idempotent", {"name": "i"}], ["say", "Done."])
    risky = await town.submit(user, ["call", "hold_unsafe", {"name": "u"}], ["say", "Done."])
    await town.holding("i")
    await town.holding("u")
    async with breakable.api.frozen():
        await eventually(lambda: "the lease is lost" in worker.log, "the loss of the lease")
    town.let_go("i")
    row = await town.until(user, plain, "completed")
    assert row["attempt"] <= 2
    review = await open_review(reviewer, risky)
    assert review["kind"] == "unknown_outcome"
    await decide(reviewer, review, status="approved", answer={"outcome": "happened", "result": "it did"})
    await town.until(user, risky, "completed")
    assert worker.log.count("worker ready") >= 2
    assert "Traceback" not in worker.log
    assert len({text for kind, text in town.ledger if kind == "key of i"}) == 1
    town.let_go("u")


@pytest.mark.local_stack("freezes the API")
async def test_outage_of_two_leases_ends_no_run_repeats_no_effect_and_starts_no_storm(
    town: Town, breakable: LocalStack
) -> None:
    """Two workers, runs in every state, and a database that nobody reaches for longer than all leases."""
    lease_s = 2.0
    async with CountingProxy(town.stack) as proxy:
        workers = [town.worker("--capacity", "8", lease_s=lease_s, SUPABASE_URL=proxy.url) for _ in range(2)]
        user, reviewer = await town.person(), await town.reviewer()
        await eventually(lambda: all("worker ready" in worker.log for worker in workers), "two workers")
        held = [
            await town.submit(user, ["call", "hold_idempotent", {"name": f"i{n}"}], ["say", "Done."])
            for n in range(3)
        ]
        unsafe = await town.submit(user, ["call", "hold_unsafe", {"name": "u"}], ["say", "Done."])
        thinking = await town.submit(user, ["hang", ["say", "Thought."]])
        paused = await town.submit(user, SEND, ["say", "Sent."])
        review = await open_review(reviewer, paused)
        for name in ("i0", "i1", "i2", "u", "model"):
            await town.holding(name)
        proxy.asked.clear()
        began = time.monotonic()
        async with breakable.api.frozen():
            waiting = asyncio.gather(
                *(eventually(lambda w=w: "the lease is lost" in w.log, "a lost lease") for w in workers)
            )
            await asyncio.sleep(2 * lease_s)  # the outage itself
            await waiting
        for name in ("i0", "i1", "i2", "u"):
            town.let_go(name)
        await decide(reviewer, review, status="approved")
        for run_id in (*held, thinking, paused):
            await town.until(user, run_id, "completed")
        asked = await open_review(reviewer, unsafe)
        assert asked["kind"] == "unknown_outcome"
        happened = {"outcome": "happened", "result": "it did"}
        await decide(reviewer, asked, status="approved", answer=happened)
        await town.until(user, unsafe, "completed")
        leases = (time.monotonic() - began) / lease_s
        sweeps = proxy.asked["agent_sweep"]
    reasons = sql(town.stack, "select data ->> 'reason' from agent_events where kind = 'requeued'")
    print(f"{sweeps} sweeps in {leases:.1f} leases, requeued {Counter(reason for (reason,) in reasons)}")
    assert {reason for (reason,) in reasons} <= {"lease_lost", "worker_lost", "forgotten"}
    effects = Counter((kind, text) for kind, text in town.ledger if kind in ("send", "hold"))
    assert effects["send", "ada: hello"] == 1
    assert effects["hold", "u"] == 1
    assert sweeps <= 2 * 3 * 1.34 * leases + 4, f"{sweeps} sweeps in {leases:.0f} leases"
    keys = {(kind, text) for kind, text in town.ledger if kind.startswith("key of")}
    assert len(keys) == len(held), "each call kept its key"
    assert all("Traceback" not in worker.log for worker in workers)


@pytest.mark.realtime
@pytest.mark.local_stack("freezes Realtime")
async def test_runs_start_by_polling_while_realtime_hangs_and_by_push_when_it_is_back(
    town: Town, breakable: LocalStack
) -> None:
    worker = town.worker(lease_s=2)
    user = await town.person()
    await town.until(user, await town.submit(user, ["say", "a"]), "completed")
    async with breakable.realtime.frozen():
        await eventually(lambda: "Realtime is not heard" in worker.log, "the worker to notice")
        await town.until(user, await town.submit(user, ["say", "b"]), "completed")
        polled = worker.log.count("by poll")
        assert polled >= 1

    async def pushed() -> bool:
        before = worker.log.count("by push")
        await town.until(user, await town.submit(user, ["say", "c"]), "completed")
        return worker.log.count("by push") > before

    await eventually(pushed, "a run that a push started")


# ------------------------------------------------------------------------------------------------ workers


async def test_worker_killed_while_the_model_thinks_has_decided_nothing(town: Town) -> None:
    first = town.worker(lease_s=2)
    user = await town.person()
    run_id = await town.submit(user, ["hang", ["call", "post", {"text": "once"}]], ["say", "Done."])
    await town.holding("model")
    first.kill()
    town.worker(lease_s=2)
    row = await town.until(user, run_id, "completed")
    assert (row["step_count"], town.ledger) == (2, [["post", "once"]])


async def test_approval_while_no_worker_lives_is_followed_by_the_next_one(town: Town) -> None:
    first = town.worker(lease_s=2)
    user, reviewer = await town.person(), await town.reviewer()
    run_id = await town.submit(user, SEND, ["say", "Sent."])
    review = await open_review(reviewer, run_id)
    first.kill()
    await decide(reviewer, review, status="approved")
    assert town.ledger == []
    town.worker(lease_s=2)
    await town.until(user, run_id, "completed")
    assert town.ledger == [["send", "ada: hello"]]


async def test_sigterm_while_the_model_thinks_and_while_a_person_does(town: Town) -> None:
    first = town.worker("--grace", "1", lease_s=30)
    user, reviewer = await town.person(), await town.reviewer()
    paused = await town.submit(user, SEND, ["say", "Sent."])
    review = await open_review(reviewer, paused)
    thinking = await town.submit(user, ["hang", ["say", "Thought."]])
    await town.holding("model")
    assert await first.terminate() == 0, first.log
    assert (await town.run(user, thinking))["status"] == "pending"
    assert (await town.run(user, paused))["status"] == "awaiting_review"
    town.worker(lease_s=30)
    await decide(reviewer, review, status="approved")
    for run_id in (thinking, paused):
        assert (await town.until(user, run_id, "completed"))["attempt"] <= 1
    assert town.ledger == [["send", "ada: hello"]]


async def test_second_sigterm_ends_the_worker_now_and_loses_nothing(town: Town) -> None:
    first = town.worker("--grace", "60", lease_s=2)
    user = await town.person()
    run_id = await town.submit(user, ["call", "hold_read", {"name": "r"}], ["say", "Done."])
    await town.holding("r")
    first.signal(signal.SIGTERM)
    await eventually(lambda: "stopping: 1 runs" in first.log, "the first signal to be heard")
    assert await first.terminate() == 128 + signal.SIGTERM
    town.let_go("r")
    town.worker(lease_s=2)
    await town.until(user, run_id, "completed")


# ------------------------------------------------------------------------------------------------- people


async def test_two_reviewers_in_the_same_instant_are_one_decision(town: Town) -> None:
    town.worker()
    user = await town.person()
    one, other = await town.reviewer(), await town.reviewer()
    for n in range(5):
        run_id = await town.submit(user, ["call", "send", {"to": "x", "text": str(n)}], ["say", "Over."])
        review = await open_review(one, run_id)
        answers = await asyncio.gather(
            decide(one, review, status="approved"),
            decide(other, review, status="rejected"),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, APIError)]
        assert [error.code for error in refused] == ["RH007"]
        await town.until(user, run_id, "completed")
        approved = not isinstance(answers[0], APIError)
        assert town.ledger.count(["send", f"x: {n}"]) == approved


async def test_cancels_that_race_with_completion_end_every_run_once(town: Town) -> None:
    town.worker()
    user = await town.person()
    await town.until(user, await town.submit(user, ["say", "warm"]), "completed")

    async def race(delay_s: float) -> str:
        run_id = await town.submit(user, ["call", "look", {"key": "k"}], ["say", "Done."])
        await asyncio.sleep(delay_s)  # the race itself: anywhere in the life of the run
        cancel = user.rpc("agent_cancel", {"execution_id": run_id, "reason": "race"}).execute()
        (answer,) = await asyncio.gather(cancel, return_exceptions=True)
        assert not isinstance(answer, BaseException) or getattr(answer, "code", "") == "RH014", answer
        return (await town.until(user, run_id, "completed", "cancelled"))["status"]

    ends = Counter(await asyncio.gather(*(race(n * 0.004) for n in range(50))))
    assert sum(ends.values()) == 50


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_hundred_runs_survive_a_killing_every_second(town: Town) -> None:
    for _ in range(3):
        town.worker("--capacity", "16", lease_s=2)
    user = await town.person()
    sql(town.stack, "update agent_types set max_attempts = 100 where name = 'clerk'")
    ids = [
        await town.submit(
            user, *(["call", "save", {"name": f"{n}-{step}"}] for step in range(4)), ["say", "x"]
        )
        for n in range(100)
    ]
    for _ in range(20):
        await asyncio.sleep(1)
        living = [worker for worker in town.workers if worker.running]
        random.choice(living).kill()
        town.worker("--capacity", "16", lease_s=2)
    for run_id in ids:
        await town.until(user, run_id, "completed")
    keys = Counter(text for kind, text in town.ledger if kind == "save")
    assert len(keys) == 400


# --------------------------------------------------------------------------------------------------- idle


class CountingProxy:
    """Between a worker and the API: counts what is asked."""

    def __init__(self, stack: Project) -> None:
        self.asked: Counter[str] = Counter()
        self._upstream = int(stack.url.rsplit(":", 1)[1])

    async def __aenter__(self) -> CountingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(self._pipe(reader, up_writer, True), self._pipe(up_reader, writer, False))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool) -> None:
        try:
            while data := await reader.read(65536):
                if count and data.startswith((b"POST ", b"GET ")):
                    self.asked[data.split(b" ", 2)[1].decode().split("?")[0].rsplit("/", 1)[1]] += 1
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.mark.local_stack("counts requests on a plain connection to loopback")
@pytest.mark.realtime  # how rarely it polls while it hears
async def test_idle_worker_asks_little_and_says_no_secret(town: Town) -> None:
    async with CountingProxy(town.stack) as proxy:
        worker = town.worker(lease_s=6, SUPABASE_URL=proxy.url, OPENAI_API_KEY="sk-planted-key")
        user = await town.person()
        await town.until(user, await town.submit(user, ["say", "a"]), "completed")
        proxy.asked.clear()
        cpu_before = cpu_s(worker.pid)
        await eventually(lambda: proxy.asked["agent_worker_heartbeat"] >= 3, "three heartbeats")
        # three beats are 6 s: as many sweeps, give or take, at most one poll and one look at what was due, and the second
        # looks after the wake-up and after each reason to look that joining gave
        assert proxy.asked["agent_sweep"] <= 5
        assert proxy.asked["agent_worker_claim"] <= 5
        assert sum(proxy.asked.values()) <= 12, proxy.asked
        assert cpu_s(worker.pid) - cpu_before < 0.6
        assert await worker.terminate() == 0
    for secret in (town.stack.secret_key, town.stack.jwt_secret, "sk-planted-key"):
        assert secret not in worker.log
    for word in ("worker ready", "claimed 1", "run completed", "worker done"):
        assert word in worker.log


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ------------------------------------------------------------------------- last, because it breaks the most


@pytest.mark.local_stack("crashes PostgreSQL")
async def test_database_that_crashes_loses_no_run_and_doubles_no_effect(
    town: Town, breakable: LocalStack
) -> None:
    worker = town.worker(lease_s=10)
    user = await town.person()
    ids = [
        await town.submit(
            user,
            ["call", "save", {"name": str(n)}],
            ["call", "hold_unsafe", {"name": f"d{n}"}],
            ["say", "Done."],
        )
        for n in range(4)
    ]
    for n in range(4):
        await town.holding(f"d{n}")
    await on_its_loop(breakable, breakable.postgres.stop(immediate=True))
    for n in range(4):
        town.let_go(f"d{n}")
    await on_its_loop(breakable, breakable.postgres.start())
    for run_id in ids:
        await town.until(user, run_id, "completed")
    assert Counter(kind for kind, _ in town.ledger) == {"save": 4, "hold": 4}
    assert worker.running
    assert "Traceback" not in worker.log
    again = await town.submit(user, ["say", "Still here."])
    await town.until(user, again, "completed")
