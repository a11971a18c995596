"""On Windows there is one sentence, and agents can be written."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_UNIX = """
import sys
GONE = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty"}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in GONE:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Finder())
"""

AS_WINDOWS = """
import sys
import runhold.testing  # and with it the libraries that would now look for modules of Windows
sys.platform = "win32"
"""

AGENT = """
from runhold import Agent, tool
from runhold.testing import FunctionModel
agent = Agent(type="helpdesk", model="m", instructions="x", tools=[])
"""

SENTENCE = (
    "Runhold's worker, commands and local stack need Linux or macOS: on Windows, use WSL "
    "(https://learn.microsoft.com/windows/wsl)."
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("system", [WITHOUT_UNIX, AS_WINDOWS], ids=["no fcntl", "win32"])
@pytest.mark.parametrize("arguments", [["worker", "agent.py"], ["dev"]])
def test_the_command_says_so_in_one_sentence(system: str, arguments: list[str]) -> None:
    ended = python(f"{system}\nfrom runhold.cli import main\nmain({arguments})")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"Error: {SENTENCE}\n")


def test_agents_can_be_written_and_run_worker_says_so() -> None:
    code = f"""{WITHOUT_UNIX}{AGENT}
import asyncio
from runhold.errors import ConfigError
from runhold.runtime.config import WorkerConfig
from runhold.runtime.worker import run_worker
config = WorkerConfig(url="http://127.0.0.1:9", secret_key="sb_secret_x")
try:
    asyncio.run(run_worker(config, [agent]))
except ConfigError as error:
    print(error)
"""
    ended = python(code)
    assert (ended.stdout, ended.stderr) == (f"{SENTENCE}\n", "")
