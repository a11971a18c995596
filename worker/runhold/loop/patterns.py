"""Runs that go in circles: the same call again and again, or a tool that only fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic_core import from_json

from runhold.loop.canonical import canonical_json
from runhold.loop.ports import JsonObject, Step, ToolCall

NUDGE_AT: Final = 3
"""Steps in a row with the same call after which the model is told; one more, and the run has failed."""

MAX_TOOL_FAILURES: Final = 3
"""Steps in a row in which every call of one tool failed."""


class Repetition:
    """Counts in how many steps in a row the same tool was called with the same arguments."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._streaks: dict[tuple[str, str], int] = {}
        for step in steps:
            self.add(step.message)

    def add(self, message: JsonObject) -> None:
        """Count the calls of the next step."""
        self._streaks = {call: self._streaks.get(call, 0) + 1 for call in _signatures(message)}

    def repeated_tool(self, times: int) -> str | None:
        """A tool whose call has now been repeated this many times or more."""
        return next((name for (name, _), streak in self._streaks.items() if streak >= times), None)


def failing_tool(calls: Sequence[ToolCall]) -> ToolCall | None:
    """The last call of a tool of the last step that failed in each of the last three steps that called it.

    Several calls in one step count once: the model could not know better yet.
    """
    by_tool: dict[str, dict[int, list[ToolCall]]] = {}
    for call in calls:
        by_tool.setdefault(call.tool_name, {}).setdefault(call.step_number, []).append(call)
    last = max((call.step_number for call in calls), default=0)
    for steps in by_tool.values():
        recent = [steps[number] for number in sorted(steps)][-MAX_TOOL_FAILURES:]
        failed = all(call.status == "failed" for step in recent for call in step)
        if last in steps and len(recent) == MAX_TOOL_FAILURES and failed:
            return recent[-1][-1]
    return None


def _signatures(message: JsonObject) -> set[tuple[str, str]]:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return {(function["name"], _normal(function["arguments"])) for function in functions}


def _normal(arguments: str) -> str:
    """Arguments without differences of spacing and order."""
    try:
        return canonical_json(from_json(arguments))
    except (ValueError, RecursionError):
        return arguments
