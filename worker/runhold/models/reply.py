"""From a provider's answer to a :class:`ModelReply`: one form for the log, whatever the provider's dialect.

Harmless deviations are mended here, deterministically, because the log replays messages byte for byte. What
can't be mended is :class:`UnusableAnswer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from runhold.loop.ports import JsonObject, ModelReply, Usage

_OWN_FIELDS: Final = frozenset({"role", "content", "refusal", "tool_calls"})
_FAILED_REASONS: Final = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons by which OpenRouter and DeepSeek say that generation broke off."""


class UnusableAnswer(Exception):
    """The provider answered, but not with a chat completion. ``str()`` follows on *it answered with* …"""


class ErrorInAnswer(Exception):
    """The provider reports an error inside a successful answer.

    :ivar payload: the error as sent, for :func:`runhold.models.failure.complaint_of`.
    """

    def __init__(self, payload: object) -> None:
        super().__init__("error inside an answer")
        self.payload = payload


def read_completion(payload: object) -> ModelReply:
    """Read a ``chat.completion`` object.

    :raises UnusableAnswer: no message can be made of it.
    :raises ErrorInAnswer: it reports an error.
    """
    answer = _mapping(payload, "JSON that is no object")
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        if answer.get("error"):
            raise ErrorInAnswer(answer)
        raise UnusableAnswer("no choices")
    choice = _mapping(cast("list[object]", choices)[0], "a choice that is no object")
    if choice.get("error"):
        raise ErrorInAnswer(choice)
    return _reply(choice.get("message"), choice.get("finish_reason"), answer.get("usage"))


class StreamedAnswer:
    """Assembles the ``chat.completion.chunk`` objects of one stream."""

    def __init__(self) -> None:
        self._message: JsonObject = {}
        self._calls: dict[int, JsonObject] = {}
        self._finish_reason: object = None
        self._usage: object = None

    def add(self, payload: object) -> str:
        """Take the next chunk; return the text that it adds, to be shown at once.

        :raises UnusableAnswer: the chunk is malformed.
        :raises ErrorInAnswer: the chunk reports an error.
        """
        chunk = _mapping(payload, "a chunk that is no object")
        if chunk.get("error"):
            raise ErrorInAnswer(chunk)
        # Some servers count on every chunk; the last count is the whole.
        self._usage = chunk.get("usage") or self._usage
        choices = cast("list[object]", chunk.get("choices") or [])
        if not choices:
            return ""
        choice = _mapping(choices[0], "a choice that is no object")
        if choice.get("error"):
            raise ErrorInAnswer(choice)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta")
        return "" if delta is None else self._add_delta(_mapping(delta, "a delta that is no object"))

    def finish(self) -> ModelReply:
        """Return the whole once the stream has ended.

        :raises UnusableAnswer: the stream ended before the answer did, or no message can be made of it.
        """
        if self._finish_reason is None:
            raise UnusableAnswer("a stream that ended early")
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return _reply(message, self._finish_reason, self._usage)

    def _add_delta(self, delta: Mapping[str, Any]) -> str:
        text = ""
        for key, value in delta.items():
            if value is None:
                continue
            if key == "content":
                text, refusal = _text_of(value)
                if refusal:
                    _extend(self._message, "refusal", refusal)
                _extend(self._message, "content", text)
            elif key == "tool_calls":
                for item in cast("list[object]", value):
                    self._add_call(_mapping(item, "a tool call that is no object"))
            elif key != "role":
                _extend(self._message, key, value)
        return clean_text(text)

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        index = delta.get("index")
        if not isinstance(index, int):
            # Servers without indexes send each call whole or in a row: a new id begins a new one.
            last = max(self._calls, default=-1)
            begins = last < 0 or (delta.get("id") and delta["id"] != self._calls[last].get("id"))
            index = last + 1 if begins else last
        call = self._calls.setdefault(index, {"function": {}})
        for key, value in delta.items():
            if value is None or key == "index":
                continue
            if key == "function":
                function = cast("JsonObject", call["function"])
                for part, piece in _mapping(value, "a function that is no object").items():
                    if part == "arguments" and isinstance(piece, str):
                        _extend(function, part, piece)
                    elif piece:
                        function[part] = piece
            elif value:  # later chunks of some servers repeat id and type, or send them empty
                call[key] = value


def clean_text(text: str) -> str:
    """Replace what PostgreSQL and UTF-8 can't hold (NUL, lone surrogates) by U+FFFD; join surrogate pairs.

    A pair is torn apart when a server splits an escaped emoji between two chunks.
    """
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _extend(into: JsonObject, key: str, value: Any) -> None:
    """Add a piece to what earlier chunks brought: texts and lists grow, anything else is replaced."""
    before = into.get(key)
    if isinstance(before, str) and isinstance(value, str):
        into[key] = before + value
    elif isinstance(before, list) and isinstance(value, list):
        into[key] = [*cast("list[Any]", before), *cast("list[Any]", value)]
    else:
        into[key] = value


def _reply(message: object, finish_reason: object, usage: object) -> ModelReply:
    reason = finish_reason if isinstance(finish_reason, str) else None
    if reason in _FAILED_REASONS:
        raise UnusableAnswer(f"finish reason {reason!r}")
    normal = _message(_mapping(message, "no message"), cut=reason == "length")
    if reason == "function_call" or ("tool_calls" in normal and reason in {None, "stop"}):
        reason = "tool_calls"
    return ModelReply(message=normal, finish_reason=reason, usage=_usage(usage))


def _message(message: Mapping[str, Any], *, cut: bool) -> JsonObject:
    text, refusal = _text_of(message.get("content"))
    normal: JsonObject = {"role": "assistant", "content": None if text is None else clean_text(text)}
    refusal = message.get("refusal") or refusal
    if isinstance(refusal, str) and refusal:
        normal["refusal"] = clean_text(refusal)
    calls = _calls(message.get("tool_calls") or (), cut=cut)
    if calls:
        normal["tool_calls"] = calls
    normal |= _extras(message, _OWN_FIELDS)
    return normal


def _text_of(content: object) -> tuple[Any, str]:
    """Text and refusal of a content that may be a text, a list of parts, or missing."""
    if content is None or isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise UnusableAnswer("content that is no text")
    text = refusal = ""
    for part in cast("list[object]", content):
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict):
            fields = cast("JsonObject", part)
            text += fields["text"] if isinstance(fields.get("text"), str) else ""
            refusal += fields["refusal"] if isinstance(fields.get("refusal"), str) else ""
    return text, refusal


def _calls(calls: Any, *, cut: bool) -> list[JsonObject]:
    if not isinstance(calls, list | tuple):
        raise UnusableAnswer("tool calls that are no list")
    normal: list[JsonObject] = []
    ids: set[str] = set()
    for position, item in enumerate(cast("list[object]", calls)):
        call = _mapping(item, "a tool call that is no object")
        function = call.get("function")
        name = cast("JsonObject", function).get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            if cut:
                continue  # the output limit fell into this call; what came before it is whole
            raise UnusableAnswer("a tool call without a name")
        given = call.get("id")
        call_id = clean_text(given) if isinstance(given, str) else ""
        if not call_id or call_id in ids:
            call_id = _free_id(position, ids)
        ids.add(call_id)
        fields = cast("JsonObject", function)
        arguments = _arguments(fields.get("arguments"))
        normal.append(
            {
                "id": call_id,
                "type": "function",
                "function": {"name": clean_text(name), "arguments": arguments},
                **_extras(call, frozenset({"id", "type", "function", "index"})),
            }
        )
    return normal


def _free_id(position: int, taken: set[str]) -> str:
    call_id = f"call_{position}"
    while call_id in taken:
        call_id += "_"
    return call_id


def _arguments(arguments: object) -> str:
    """The exact text that the model wrote; servers that send it parsed get it written again."""
    if isinstance(arguments, str):
        # Nothing at all is how some servers write a call without arguments.
        return clean_text(arguments) if arguments.strip() else "{}"
    if arguments is None:
        return "{}"
    return clean_text(json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def _extras(fields: Mapping[str, Any], known: frozenset[str]) -> JsonObject:
    """What else was said, such as ``reasoning_content`` or a thought signature: some want it back."""
    return {
        clean_text(key): _clean(value)
        for key, value in fields.items()
        if key not in known and value is not None and value != []
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in cast("JsonObject", value).items()}
    return value


def _usage(usage: object) -> Usage | None:
    """None also for a count of zero, which some servers send instead of none: the loop must then estimate."""
    if not isinstance(usage, dict):
        return None
    fields = cast("JsonObject", usage)
    given, made = _count(fields.get("prompt_tokens")), _count(fields.get("completion_tokens"))
    if not given or made is None:
        return None
    details = fields.get("prompt_tokens_details")
    cached = _count(cast("JsonObject", details).get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(input_tokens=given, output_tokens=made, cached_tokens=min(cached or 0, given))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _mapping(value: object, otherwise: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UnusableAnswer(otherwise)
    return cast("JsonObject", value)
