"""What a message of the model without tool calls amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from runhold.agents import Agent, InvalidData
from runhold.loop.canonical import clean, clean_text
from runhold.loop.endings import ErrorCode
from runhold.loop.ports import Json, JsonObject, Step

MAX_CORRECTIONS: Final = 2
"""How often in a row an answer that can't be used goes back to the model."""

_QUOTED_MAX = 500


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The run's result."""

    result: Json


@dataclass(frozen=True, slots=True)
class UnusableAnswer:
    """Not a result.

    :ivar problem: what is wrong with it, for the model and for people.
    """

    code: ErrorCode
    problem: str


def read_answer(agent: Agent, step: Step) -> FinalAnswer | UnusableAnswer:
    """What ``step``, a message without tool calls (or a landing), says. A pure function of the log."""
    text, refusal = content_text(step), step.message.get("refusal")
    if step.landing is not None:
        return (
            FinalAnswer({"partial": True, "text": text})
            if text
            else UnusableAnswer("INVALID_OUTPUT", "It is empty.")
        )
    if step.finish_reason == "content_filter":
        return UnusableAnswer("CONTENT_FILTERED", "The provider's content filter cut the answer off.")
    if refusal:
        return UnusableAnswer("MODEL_REFUSED", f"The model refused: {str(refusal)[:_QUOTED_MAX]}")
    if step.finish_reason == "length":
        return UnusableAnswer("INVALID_OUTPUT", "It was cut off because it was too long.")
    if not text.strip():
        return UnusableAnswer("INVALID_OUTPUT", "It is empty.")
    try:
        return FinalAnswer(clean(agent.parse_output(text)))
    except InvalidData as error:
        return UnusableAnswer("INVALID_OUTPUT", clean_text(str(error)))


def final_answer(agent: Agent, step: Step) -> FinalAnswer | None:
    """The result that ``step`` gives, if it does."""
    if step.message.get("tool_calls") and step.landing is None:
        return None
    answer = read_answer(agent, step)
    return answer if isinstance(answer, FinalAnswer) else None


def corrections_in_a_row(agent: Agent, steps: Sequence[Step]) -> int:
    """How many steps at the end of ``steps`` are answers that could not be used."""
    count = 0
    for step in reversed(steps):
        if step.message.get("tool_calls") or isinstance(read_answer(agent, step), FinalAnswer):
            break
        count += 1
    return count


def content_text(step: Step) -> str:
    """The text of the model's message; some servers send it in parts."""
    content: Json = step.message.get("content")
    if isinstance(content, list):
        parts = cast("list[JsonObject]", content)
        return "".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""
