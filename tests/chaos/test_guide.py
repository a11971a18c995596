"""The section *Kill it* of docs/guides/testing-agents.md tells the truth: its blocks run, and print what they say."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from runhold.local.control import erase
from runhold.testing.chaos import Action, Moment

GUIDE = Path(__file__).parents[2] / "docs/guides/testing-agents.md"
_, _, SECTION = GUIDE.read_text(encoding="utf-8").partition("\n## Kill it\n")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


async def test_the_blocks_run_and_print_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, agents), (_, test), (_, printed) = BLOCKS
    name = agents.splitlines()[0].removeprefix("# ")
    (tmp_path / name).write_text(agents)
    project = Path.cwd()
    monkeypatch.chdir(tmp_path)
    test = test.replace("port=0", f"port=0, project=Path({str(project)!r})")
    code = compile(test, GUIDE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    namespace: dict[str, Any] = {"__name__": "guide"}
    try:
        outcome = eval(code, namespace)
        assert inspect.isawaitable(outcome)
        await outcome
    finally:
        erase(namespace["folder"] / "stack")
        shutil.rmtree(namespace["folder"])
    assert capsys.readouterr().out.split() == printed.split()


@pytest.mark.parametrize("word", [*get_args(Action), *get_args(Moment)])
def test_every_action_and_moment_is_named(word: str) -> None:
    if word not in ("log", "definitions", "release_runs"):  # calls that are made too rarely to be of use
        assert f"`{word}`" in SECTION
