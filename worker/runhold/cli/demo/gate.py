"""The gate: what is proposed is shown, and a person says yes, yes with changes, or no."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any, Literal

from rich.text import Text

from runhold.cli.backend import Row
from runhold.cli.output import out
from runhold.cli.render import members, one_line

Choice = Literal["approve", "edit", "reject"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the person says, as the columns of ``agent_reviews`` that say it."""

    changes: Row
    word: str


async def ask(review: Row) -> Decision:
    """Ask at the terminal until there is an answer."""
    while True:
        answer = (
            (await _line("  Approve, edit or reject? [bold]a[/]/[bold]e[/]/[bold]r[/]: ")).strip().lower()
        )
        if answer in ("a", "approve", "y", "yes"):
            return approved()
        if answer in ("e", "edit"):
            edited = await _edit(members(review["proposed_input"]))
            return Decision(
                changes={"status": "approved", "edited_input": edited}, word="approves it with changes"
            )
        if answer in ("r", "reject", "n", "no"):
            return rejected((await _line("  Why? The agent reads it: ")).strip() or "Not now.")


def approved() -> Decision:
    return Decision(changes={"status": "approved"}, word="approves it")


def rejected(comment: str) -> Decision:
    return Decision(changes={"status": "rejected", "comment": comment}, word="rejects it")


async def _edit(proposed: dict[str, Any]) -> dict[str, Any]:
    out.print(Text("  Enter keeps what is proposed.", style="hint"))
    edited = dict(proposed)
    for name, value in proposed.items():
        typed = (await _line(Text(f"  {name} [{one_line(value, 50)}]: "))).strip()
        if typed:
            edited[name] = typed if isinstance(value, str) else _value(typed)
    return edited


def _value(typed: str) -> Any:
    try:
        return json.loads(typed)
    except ValueError:
        return typed


async def _line(prompt: str | Text) -> str:
    """A line that the person types. Not input() in a thread: Ctrl-C could not end that."""
    out.print(prompt, end="")
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not typed.done():
            typed.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, read)
    try:
        line = await typed
    finally:
        loop.remove_reader(sys.stdin)
    if not line:
        out.print()
        raise KeyboardInterrupt  # Ctrl-D: there is nobody any more
    return line
