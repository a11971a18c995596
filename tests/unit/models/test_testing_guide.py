"""The guide docs/guides/testing-agents.md tells the truth: its blocks run, in their order.

Those that need a stack are run by tests/chaos/test_guide.py.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runhold.models import fault

GUIDE = Path(__file__).parents[3] / "docs/guides/testing-agents.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    page, _, _ = GUIDE.read_text(encoding="utf-8").partition("\n## Kill it\n")
    return [text for found, text in BLOCK.findall(page) if found == language]


async def test_the_python_blocks_run() -> None:
    namespace: dict[str, Any] = {"__name__": "guide"}
    for number, block in enumerate(blocks("python"), 1):
        code = compile(block, f"{GUIDE.name}, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if inspect.iscoroutine(outcome := eval(code, namespace)):
            await outcome


def test_the_command_serves_the_guides_script(tmp_path: Path) -> None:
    script = next(block for block in blocks("python") if block.startswith("# letter_script.py"))
    (tmp_path / "letter_script.py").write_text(script)
    command = shlex.split(blocks("sh")[0].replace("8090", "0"))
    assert command[0] == "python"
    child = subprocess.Popen(
        [sys.executable, *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "RUNHOLD_EXIT_ON_STDIN_EOF": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        ready = child.stdout.readline()
        assert child.stdin is not None
        child.stdin.close()
    assert re.sub(r":\d+/", ":8090/", ready) == blocks("")[0]
    assert child.returncode == 0


FAULTS = [name for name, value in vars(fault).items() if getattr(value, "__module__", "") == fault.__name__]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_explained(name: str) -> None:
    assert re.search(rf"\b{name}\(|`fault\.{name}`", GUIDE.read_text(encoding="utf-8"))
