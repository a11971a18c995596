"""The request to the model, as a pure function of the log.

``build_request`` makes a request again for an audit (:mod:`runhold.loop.rebuild`), byte for byte as it was sent:

    system       the instructions of that step's definition
    user         the run's input as canonical JSON
    then per step that is already in the log:
      …          what the loop injected before the step (nudges, messages of people)
      assistant  the model's message as it was returned
      tool       one message per tool call, in the order of the calls
    …            what is injected before the step at hand
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from runhold.loop.canonical import canonical, canonical_bytes, canonical_json, canonical_schema, json_value
from runhold.loop.ports import Definition, Json, JsonObject, Step, ToolCall

BYTES_PER_TOKEN: Final = 3
"""For estimates. Real tokenizers average about 4 in English, 3 elsewhere: the estimate errs on the dear side."""

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")
_NOT_WHEN_LANDING: Final = ("tools", "tool_choice", "parallel_tool_calls", "response_format")


def build_request(
    definition: Definition,
    input: JsonObject,  # noqa: A002 - the column's name
    steps: Sequence[Step],
    calls: Iterable[ToolCall],
    injected: Sequence[JsonObject],
    *,
    max_output_tokens: int | None,
    landing: bool = False,
) -> JsonObject:
    """The body of the request that follows ``steps``.

    :param definition: what the agent is (or was) at the step to be decided.
    :param steps: all steps before it, in order; ``calls`` are theirs.
    :param injected: what the loop adds before it (``Step.injected``).
    :param max_output_tokens: the bound that it gives (``Step.max_output_tokens``).
    :param landing: whether it is the run's last, without tools.
    """
    conversation = Conversation(definition, input)
    by_step: dict[int, list[ToolCall]] = {}
    for call in calls:
        by_step.setdefault(call.step_number, []).append(call)
    for step in steps:
        conversation.add(step, by_step.get(step.step_number, ()))
    return conversation.request(injected, max_output_tokens=max_output_tokens, landing=landing)


class Conversation:
    """The same request, grown step by step: each message is rendered once.

    :ivar size: bytes of what the next request says, without what is injected before it.
    """

    def __init__(
        self,
        definition: Definition,
        input: JsonObject,  # noqa: A002
        older: Mapping[UUID, Definition] | None = None,
    ) -> None:
        self._definition = definition
        self._older = older or {}
        self._frame = _frame_of(definition)
        self._messages: list[JsonObject] = []
        self.size = self._frame.size
        self._size_at_last_step = 0
        self._last_step: Step | None = None
        self._messages.append({"content": definition.instructions, "role": "system"})
        self._say({"content": canonical_json(input), "role": "user"})

    def add(self, step: Step, calls: Iterable[ToolCall]) -> None:
        """Append a step that is in the log and will not change any more."""
        for message in step.injected:
            self._say(message)
        self._size_at_last_step, self._last_step = self.size, step
        self._say(_assistant_message(step.message))
        for message in _tool_messages(step.message, calls):
            self._say(message)

    def request(
        self, injected: Sequence[JsonObject], *, max_output_tokens: int | None, landing: bool = False
    ) -> JsonObject:
        """The body of the next request. It shares its parts with this conversation: don't change it."""
        members = dict(self._frame.members)
        if max_output_tokens is not None:
            members[output_bound(self._definition)] = max_output_tokens
        if landing:
            for name in _NOT_WHEN_LANDING:
                members.pop(name, None)
        members["messages"] = [*self._messages, *(canonical(message) for message in injected)]
        return {name: members[name] for name in sorted(members)}

    def estimate_input_tokens(self, injected: Sequence[JsonObject]) -> int:
        """Tokens of the next request: what the provider counted last, and an estimate of what came since."""
        size, last = self.size + sum(_size(message) for message in injected), self._last_step
        if last is None:
            return _tokens(size)
        size_then = self._size_at_last_step
        if last.definition_id != self._definition.id:
            older = self._older.get(last.definition_id)
            if older is None:
                return _tokens(size)
            size_then += _frame_of(older).size - self._frame.size
        return max(1, last.usage.input_tokens + _tokens(size - size_then))

    def _say(self, message: JsonObject) -> None:
        text = canonical_bytes(message)
        self._messages.append(json_value(text))
        self.size += len(text)


def output_bound(definition: Definition) -> str:
    """The member that bounds a request's output: servers that only know the older name get it under that."""
    return "max_tokens" if "max_tokens" in definition.params else "max_completion_tokens"


def estimate_tokens(value: Json) -> int:
    """Tokens of a JSON value, without a tokenizer."""
    return _tokens(_size(value))


# ------------------------------------------------------------------------------------------------ details


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a definition puts into each request; ``size`` in bytes, the instructions included."""

    members: JsonObject
    size: int


_frames: dict[UUID, tuple[Definition, _Frame]] = {}
"""Frames of the definitions at hand: a worker runs few of them thousands of times."""

_MAX_FRAMES: Final = 64


def _frame_of(definition: Definition) -> _Frame:
    known = _frames.get(definition.id)
    if known is not None and known[0] is definition:
        return known[1]
    members: JsonObject = {**canonical(definition.params), "model": definition.model}
    response_format: Json = definition.params.get("response_format")
    if response_format is not None:
        members["response_format"] = canonical_schema(response_format)
    if definition.tools:
        members["tools"] = [_function(tool) for tool in definition.tools]
    frame = _Frame(members, _size(members) + _size(definition.instructions))
    if len(_frames) >= _MAX_FRAMES:
        _frames.clear()
    _frames[definition.id] = (definition, frame)
    return frame


def _function(tool: Mapping[str, Any]) -> JsonObject:
    function = {
        "description": tool.get("description") or "",
        "name": tool["name"],
        "parameters": canonical_schema(tool["parameters"]),
    }
    return {"function": function, "type": "function"}


def _assistant_message(message: JsonObject) -> JsonObject:
    """The model's message as it is sent back: as returned, without empty members, which some servers refuse."""
    kept = {key: value for key, value in message.items() if value is not None and key != "tool_calls"}
    if message.get("tool_calls"):
        kept["tool_calls"] = [_asked(call) for call in message["tool_calls"]]
    kept.setdefault("content", None if "tool_calls" in kept else "")
    return kept


def _asked(call: JsonObject) -> JsonObject:
    """A tool call as it is sent back. Names that models invent may not be accepted as names again."""
    function = {**call["function"], "name": _NOT_IN_NAMES.sub("_", call["function"]["name"])[:64] or "_"}
    return {**call, "function": function}


def _tool_messages(message: JsonObject, calls: Iterable[ToolCall]) -> Iterable[JsonObject]:
    """One answer per tool call of ``message``: a request with a call left unanswered is malformed."""
    rows = {call.position: call for call in calls}
    for position, asked in enumerate(message.get("tool_calls") or ()):
        row = rows.get(position)
        content = "Error: this call was not run." if row is None else tool_text(row)
        yield {"content": content, "role": "tool", "tool_call_id": asked["id"]}


def tool_text(call: ToolCall) -> str:
    """What the model is told about a call: a pure function of the call's row."""
    if call.edited:
        return f"A reviewer changed the arguments to {canonical_json(call.input)}\n{_outcome_text(call)}"
    return _outcome_text(call)


def _outcome_text(call: ToolCall) -> str:
    match call.status:
        case "succeeded" if call.shown is not None:
            return call.shown
        case "succeeded":
            return call.output if isinstance(call.output, str) else canonical_json(call.output)
        case "failed":
            return f"Error: {call.error or 'the call failed.'}"
        case "rejected":
            return f"A reviewer rejected this call: {call.error or 'no reason was given.'}"
        case "unknown":
            return "Error: nobody knows whether this call took effect."
        case "pending" | "awaiting_review" | "running":
            return "Error: this call has no result."


def _size(value: Json) -> int:
    return len(canonical_bytes(value))


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
