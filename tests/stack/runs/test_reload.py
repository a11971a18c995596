"""`runhold worker --reload`: a new worker after every edit, for a project that somebody else started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import Process, descendants, wait_until_gone
from town import Town, eventually

AGENT = """
import json, os
from pathlib import Path
from clerk import hold_unsafe, note
from runhold import Agent, tool

@tool
def post(text: str) -> str:
    "Note the text, a word of this file, and a word of the environment."
    note("post", f"{text} SAYS " + os.environ.get("ENV_WORD", "unset"))
    return "posted"

agent = Agent(type="reloaded", model="scripted", instructions="Do as the plan says.", tools=[post, hold_unsafe])
"""
WAITS = "A new worker starts when a file changes."


@dataclass
class Reloading:
    """The command as a process, in a folder of its own with an agent."""

    town: Town
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def log(self) -> str:
        path = self.town.folder / "stderr"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def write(self, name: str, text: str) -> None:
        """Replace a file as editors do, so that no half of it is seen."""
        (self.town.folder / "new").write_text(text, encoding="utf-8")
        (self.town.folder / "new").rename(self.town.folder / name)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **self.town.stack.env(),
            "PYTHONPATH": str(Path(__file__).parent),
            "OPENAI_BASE_URL": self.town.model_url,
            "OPENAI_API_KEY": "scripted",
            "CLERK_FOLDER": str(self.town.folder),
        }
        with (self.town.folder / "stderr").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runhold", "worker", "agent.py", "--reload", *options],
                cwd=self.town.folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.processes.append(process)
        return process

    async def says(self, words: str, times: int = 1) -> None:
        def check() -> bool:
            assert self.processes[-1].poll() is None, self.log
            return self.log.count(words) >= times

        await eventually(check, f"{words!r} in {self.log}")


@pytest.fixture
def reloading(town: Town) -> Iterator[Reloading]:
    made = Reloading(town)
    made.write("agent.py", AGENT.replace("SAYS", "one"))
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def below(process: subprocess.Popen[bytes]) -> set[Process]:
    found = descendants(process.pid)
    assert found
    return found


async def test_every_edit_starts_a_new_worker_and_loses_no_run(town: Town, reloading: Reloading) -> None:
    process = reloading.start("--log-format", "json")
    await reloading.says("worker ready")
    user = await town.person()
    run = await town.submit(
        user,
        ["call", "hold_unsafe", {"name": "edit"}],
        ["call", "post", {"text": "first"}],
        ["say", "."],
        agent_type="reloaded",
    )
    await town.holding("edit")
    reloading.write("agent.py", AGENT.replace("SAYS", "two"))
    await reloading.says("agent.py changed")
    town.let_go("edit")
    await town.until(user, run, "completed")

    reloading.write(".env", "ENV_WORD=set\n")
    await reloading.says(".env changed")
    await reloading.says("worker ready", 3)
    reloading.write("agent.py", AGENT + "def broken(:\n")
    await reloading.says(WAITS)
    assert "agent.py can't be imported: SyntaxError" in reloading.log
    run = await town.submit(user, ["call", "post", {"text": "second"}], ["say", "."], agent_type="reloaded")
    reloading.write("agent.py", AGENT.replace("SAYS", "three"))
    await town.until(user, run, "completed")

    assert town.ledger == [["hold", "edit"], ["post", "first two unset"], ["post", "second three set"]]
    left = below(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    wait_until_gone(left)
    others = [line for line in reloading.log.splitlines() if not isinstance(_parsed(line), dict)]
    assert len(others) == 1, others
    assert others[0].startswith("Error: agent.py can't be imported")


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


async def test_one_signal_ends_all_in_order_and_a_second_one_at_once(
    town: Town, reloading: Reloading
) -> None:
    process = reloading.start()
    await reloading.says("worker ready")
    left = below(process)
    process.send_signal(signal.SIGHUP)  # as a terminal does that is closed
    assert process.wait() == 0
    wait_until_gone(left)
    assert "Traceback" not in reloading.log

    process = reloading.start("--grace", "600")
    await reloading.says("worker ready")
    user = await town.person()
    await town.submit(user, ["call", "hold_unsafe", {"name": "signal"}], ["say", "."], agent_type="reloaded")
    await town.holding("signal")
    left = below(process)
    process.send_signal(signal.SIGINT)
    await reloading.says("stopping: ")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    wait_until_gone(left)
    assert "Traceback" not in reloading.log


async def test_a_killed_parent_and_a_worker_that_never_started_leave_nothing(reloading: Reloading) -> None:
    reloading.write("agent.py", "raise ValueError('odd')\n")
    process = reloading.start()
    await reloading.says(WAITS)
    assert "agent.py can't be imported: ValueError: odd" in reloading.log
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0

    reloading.write("agent.py", AGENT)
    process = reloading.start()
    await reloading.says("worker ready")
    left = below(process)
    process.kill()
    process.wait()
    wait_until_gone(left)
