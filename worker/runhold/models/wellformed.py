"""Whether a provider would accept a conversation: the rules that OpenAI enforces with a 400.

The scripted model refuses what a real one refuses, so that a test fails where production would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def complaint_about(body: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a request in one sentence, or None."""
    if not isinstance(body.get("model"), str):
        return "The request names no model."
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "The request has no messages."
    for tool in body.get("tools") or ():
        if not _TOOL_NAME.fullmatch(tool["function"]["name"]):
            return f"The tool name {tool['function']['name']!r} is not letters, digits, _ and - (64 at most)."
    return _complaint_about_messages(cast("list[Mapping[str, Any]]", messages))


def _complaint_about_messages(messages: list[Mapping[str, Any]]) -> str | None:
    open_calls: set[str] = set()
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            return f"messages[{number}] has the unknown role {role!r}."
        if role == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in open_calls:
                return f"messages[{number}] answers the tool call {call_id!r}, which is not open."
            open_calls.discard(call_id)
        elif open_calls:
            return f"messages[{number}] comes before the tool calls {sorted(open_calls)} were answered."
        if role == "assistant":
            for call in message.get("tool_calls") or ():
                if not _TOOL_NAME.fullmatch(call["function"]["name"]):
                    return f"messages[{number}] calls {call['function']['name']!r}, which is no tool's name."
                if not isinstance(call["function"]["arguments"], str):
                    return f"messages[{number}] has tool arguments that are not a string."
                open_calls.add(call["id"])
            if message.get("content") is None and not open_calls and not message.get("refusal"):
                return f"messages[{number}] of the assistant is empty."
        elif message.get("content") is None:
            return f"messages[{number}] has no content."
    if open_calls:
        return f"The tool calls {sorted(open_calls)} have no answers."
    return None
