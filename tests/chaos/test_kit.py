"""The kit itself: it leaves nothing behind, and does what it says, where it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import courier
import postman
import pytest
from supabase_project import Project
from town import Town

from runhold.cli.exits import Exit
from runhold.testing import ScriptedModel
from runhold.testing.chaos import (
    ChaosMailbox,
    CrashPoint,
    Effects,
    Fleet,
    ForkServer,
    Points,
    Reviewer,
    assert_nothing_lost,
    eventually,
)
from runhold.testing.chaos.moments import Happening, in_answer, in_request

UNSAFE = {"tool": "unsafe", "gated": False}


def is_there(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_python(program: str) -> subprocess.Popen[str]:
    """A process that runs this text, with its standard output on a pipe."""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


# -------------------------------------------------------------------------------------------- processes


async def test_no_worker_outlives_a_test_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from runhold.testing.chaos import ForkServer
        server = ForkServer().open()
        env = {{**os.environ, "SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_x", "OPENAI_API_KEY": "x"}}
        pids = []
        for name in ("one", "two"):
            worker = server.start({courier.__file__!r}, name=name, env=env, folder=Path({str(tmp_path)!r}))
            pids.append(worker.pid)
        worker.suspend()
        print(*pids, server.ask(poll=pids[0])["status"], flush=True)
        signal.pause()
    """
    test = start_python(textwrap.dedent(program))
    with test:
        assert test.stdout is not None
        one, two, status = test.stdout.readline().split()
        assert (is_there(int(one)), is_there(int(two)), status) == (True, True, "None")
        test.kill()
    await eventually(lambda: not is_there(int(one)) and not is_there(int(two)), "the end of the workers")


async def test_worker_processes_are_sessions_of_their_own_and_end_as_they_are_told(
    forks: ForkServer, tmp_path: Path
) -> None:
    bad = forks.start("no_such_module", name="bad", env={**os.environ, "SUPABASE_URL": "x"}, folder=tmp_path)
    assert await bad.ended() == Exit.UNREACHABLE
    assert "SUPABASE" in bad.log_tail
    env = {
        **os.environ,
        "SUPABASE_URL": "http://127.0.0.1:9",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
        "OPENAI_API_KEY": "x",
    }
    worker = forks.start(courier.__file__, name="worker", env=env, folder=tmp_path)
    assert os.getsid(worker.pid) != os.getsid(0)
    worker.kill()
    worker.kill()
    assert (worker.status, worker.running, is_there(worker.pid)) == (-signal.SIGKILL, False, False)


# -------------------------------------------------------------------------------------------- crash points


class Victim:
    """A worker that only remembers what was done to it."""

    name = "worker-1"

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> None:
        self.done.append("kill")

    def suspend(self) -> None:
        self.done.append("suspend")


async def test_point_fires_for_its_run_and_worker_so_many_times() -> None:
    points, victim = Points(), Victim()
    point = CrashPoint("step", "before")
    other = points.arm(point, "kill", worker="worker-2")
    armed = points.arm(point, "kill", run="r", times=2, skip=1)

    async def meet(run: str, moment: Any = "step", side: Any = "before") -> str:
        return await points.meet(side, victim, [Happening(moment, run)])

    assert await meet("another") == await meet("r", "result") == await meet("r", side="after") == "go_on"
    assert [await meet("r") for _ in range(4)] == ["go_on", "gone", "gone", "go_on"]
    assert victim.done == ["kill", "kill"]
    assert (len(armed.fired), other.fired) == (2, [])
    assert [(fired.worker, fired.run, str(fired.point)) for fired in points.fired] == [
        ("worker-1", "r", "before step")
    ] * 2
    assert points.passed[point] == 5


async def test_disarmed_point_lets_go_what_it_held() -> None:
    points, victim = Points(), Victim()
    armed = points.arm(CrashPoint("claim", "before"), "hold", times=9)
    held = asyncio.create_task(points.meet("before", victim, [Happening("claim")]))
    await armed.reached()
    assert not held.done()
    points.disarm_all()
    assert await held == await points.meet("before", victim, [Happening("claim")]) == "go_on"


def test_points_that_can_t_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no moment 'lunch'"):
        CrashPoint("lunch", "before")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="take the side 'after'"):
        Points().arm(CrashPoint("step", "before"), "cut")


def test_moments_are_read_from_requests() -> None:
    def read(function: str, body: Any) -> list[Happening]:
        return in_request(function, json.dumps(body).encode())

    entries = [
        {
            "execution": "a",
            "steps": [{}],
            "calls": [{"status": "failed"}],
            "transition": {"to": "completed"},
        },
        {"execution": "b", "calls": [{"status": "running"}], "starts": [], "results": [{}]},
        {"execution": "c", "reviews": [{}], "starts": [{}], "transition": {"to": "pending"}},
    ]
    assert read("agent_worker_record", {"entries": entries}) == [
        *(("record", "a"), ("step", "a"), ("complete", "a")),
        *(("record", "b"), ("intent", "b"), ("result", "b")),
        *(("record", "c"), ("ask", "c"), ("start", "c"), ("release", "c")),
    ]
    assert read("agent_worker_heartbeat", {"held": ["a", "b"]}) == [("heartbeat", "a"), ("heartbeat", "b")]
    assert read("agent_worker_claim", {"seq": 1}) == [("claim", None)]
    assert read("agent_cancel", {"execution_id": "a"}) == []
    assert in_answer("agent_worker_claim", b'{"runs": [{"id": "a"}]}') == [Happening("claim", "a")]
    assert in_answer("agent_worker_record", b"[]") == []


# ------------------------------------------------------------------------------------------------ weather


@asynccontextmanager
async def fleet_of_one(
    stack: Project, forks: ForkServer, folder: Path, module: Any = courier, **sinks: Any
) -> AsyncIterator[tuple[Fleet, Town]]:
    """One worker at work, and a town around it."""
    async with ScriptedModel(module.script) as model:
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        async with Fleet(forks, module.__file__, "--lease", "3", folder=folder, env=env, **sinks) as fleet:
            await fleet.start()
            await fleet.ready()
            yield fleet, Town(stack, folder, model.base_url, forks)


async def test_worker_comes_through_the_weather(stack: Project, forks: ForkServer, tmp_path: Path) -> None:
    async with Effects() as effects, fleet_of_one(stack, forks, tmp_path, effects=effects) as (fleet, town):
        (worker,), user = fleet.workers, await town.person()
        proxy = fleet.proxies[worker.name]

        async def submit() -> str:
            return await town.submit(user, agent_type="courier", input_data=UNSAFE)

        held = fleet.points.arm(CrashPoint("effect", "before"), "hold")
        runs = [await submit()]
        await held.reached()
        async with proxy.away():
            held.release()
            await eventually(lambda: "the lease is lost" in worker.log, "the loss of the lease")
        await eventually(lambda: worker.log.count("worker ready") > 1, "a new registration")
        # its effect happened; the sweep of the worker itself finds that its old self is dead
        async with Reviewer(await town.reviewer(agent_type="courier")):
            await town.until(user, runs[0], "completed")

        proxy.freeze_realtime()
        await eventually(lambda: "Realtime is not heard" in worker.log, "the worker to notice")
        runs.append(await submit())
        await town.until(user, runs[1], "completed")
        proxy.thaw_realtime()

        held = fleet.points.arm(CrashPoint("result", "before"), "hold")
        runs.append(await submit())
        await held.reached()
        assert proxy.cut_all() >= 2
        held.release()
        await town.until(user, runs[2], "completed")
        assert_nothing_lost(stack.database_url, runs, effects)
        assert effects.times() == {"unsafe": 3}


async def test_mail_is_counted_and_its_sender_killed_in_the_middle(
    stack: Project, forks: ForkServer, tmp_path: Path
) -> None:
    async with (
        ChaosMailbox() as mailbox,
        fleet_of_one(stack, forks, tmp_path, postman, mailbox=mailbox) as (
            fleet,
            town,
        ),
    ):
        armed = fleet.points.arm(CrashPoint("mail", "after"), "kill")
        user = await town.person()
        run_id = await town.submit(user, agent_type="postman", input_data={})
        assert (await armed.reached()).worker == "worker-1"
        await fleet.start()
        async with Reviewer(await town.reviewer(agent_type="postman")) as reviewer:
            await town.until(user, run_id, "completed")
        assert [review["kind"] for review in reviewer.decided] == ["unknown_outcome"]
        assert [mail.subject for mail in mailbox.mails] == ["Hello"]
        assert fleet.thrown == {"kill after mail": 1}
