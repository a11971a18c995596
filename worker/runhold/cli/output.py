"""Where words go: what was asked for to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text
from rich.theme import Theme

from runhold.credentials import HIDDEN, hide_credentials
from runhold.environment.variables import secrets_in

PIPED_WIDTH: Final = 140
"""Columns of output that no terminal shows: wide enough that no column is cut."""

THEME: Final = Theme(
    {
        "completed": "green",
        "succeeded": "green",
        "approved": "green",
        "running": "cyan",
        "pending": "blue",
        "awaiting_review": "bold yellow",
        "failed": "bold red",
        "rejected": "red",
        "unknown": "bold red",
        "expired": "red",
        "cancelled": "dim",
        "actor": "bold",
        "hint": "dim",
        "repr.number": "none",
    }
)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, theme=THEME, width=width, highlight=False)


out: Final = _console(stderr=False)
err: Final = _console(stderr=True)


_never_shown: Final[set[str]] = set()


def never_show(secrets: Iterable[str]) -> None:
    """Keep these out of all messages about failures, also when the environment does not hold them any more."""
    _never_shown.update(secrets)


def hide(text: str) -> str:
    """``text`` without secrets: what the environment holds, and what is recognised as one."""
    for secret in sorted(_never_shown | secrets_in(os.environ), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return hide_credentials(text)


def tell(line: Text) -> None:
    """One line of a story: wrapped between words in a terminal, left whole where it is piped."""
    out.print(line, soft_wrap=not out.is_terminal)


def say(message: str | Text) -> None:
    """A message to the person, beside the output."""
    err.print(message, soft_wrap=True)


def hint(message: str) -> None:
    """What one may do next; only a person at a terminal is told."""
    if err.is_terminal:
        err.print(Text(message, style="hint"), soft_wrap=True)


def program() -> str:
    """How the person calls this command again: ``runhold``, or its path if the search path leads elsewhere."""
    called = Path(sys.argv[0])
    if called.name != "runhold" or not called.is_file():  # python -m runhold, or a test
        return "runhold"
    found = shutil.which("runhold")
    if found is not None and os.path.samefile(found, called):
        return "runhold"
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One of several JSON documents on standard output, a line each."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()
