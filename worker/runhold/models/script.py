"""The scripts of a scripted model: a function from messages to what the model says next.

    def script(messages, tools):
        if messages[-1]["role"] == "user":
            return call("find_customer", {"email": "ada@example.com"})
        return say({"name": "Ada"})

The same script runs behind HTTP (:class:`runhold.models.scripted.ScriptedModel`) and in process
(:class:`runhold.models.inprocess.FunctionModel`); what both share is here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from pydantic import BaseModel

from runhold.loop.ports import Json, JsonObject, Usage
from runhold.models.wellformed import complaint_about

BYTES_PER_TOKEN: Final = 4
"""How tokens are counted where an answer does not say: about right for English, and the same every time."""

PIECE_CHARS: Final = 16
"""Streamed texts and arguments come in pieces of this length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model says. Made by :func:`say`, :func:`call`, :func:`calls` and :mod:`runhold.models.fault`.

    :ivar calls: (tool, arguments as the text that the model writes, id or None for one made of the position).
    :ivar usage: the tokens to report; None counts bytes.
    :ivar reports_usage: false for a provider that reports none.
    """

    text: str | None = None
    refusal: str | None = None
    calls: tuple[tuple[str, str, str | None], ...] = ()
    finish_reason: str = "stop"
    usage: Usage | None = None
    reports_usage: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpError:
    """The provider answers with an error status."""

    status: int
    message: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def payload(self) -> JsonObject:
        """The error in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Hang:
    """The provider never answers."""


@dataclass(frozen=True, slots=True)
class NotJson:
    """Something in between answers 200 with a page of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """The connection is cut in the middle of ``answer``."""

    answer: Answer


Fault = HttpError | Hang | NotJson | Drop
Outcome = Answer | Fault


@dataclass(frozen=True, kw_only=True, slots=True)
class First:
    """``faults`` one by one, each time the same request is sent again; then ``then``."""

    faults: tuple[Outcome, ...]
    then: Outcome


Script = Callable[[list[JsonObject], list[JsonObject]], Outcome | First]
"""(messages, tools) as sent → what the model says."""


def say(content: Json, *, usage: Usage | None = None) -> Answer:
    """The model says a text; anything but a ``str`` is written as JSON (a structured answer)."""
    return Answer(text=_text(content), usage=usage)


def call(tool: str, arguments: Json = None, *, id: str | None = None, usage: Usage | None = None) -> Answer:  # noqa: A002
    """The model calls one tool. Without ``id`` the call's id is made of its place in the conversation."""
    written = _text({} if arguments is None else arguments)
    return Answer(calls=((tool, written, id),), finish_reason="tool_calls", usage=usage)


def calls(*answers: Answer, text: str | None = None, usage: Usage | None = None) -> Answer:
    """The model calls several tools at once: ``calls(call("a"), call("b"))``, perhaps saying ``text`` too."""
    return Answer(
        text=text,
        calls=tuple(one for answer in answers for one in answer.calls),
        finish_reason="tool_calls",
        usage=usage,
    )


def in_order(*answers: Outcome | First) -> Script:
    """A script that gives the first answer to a new conversation, the second after one answer, and so on.

    It counts the model's messages in the request and remembers nothing, so any number of runs may share it.
    """

    def script(messages: list[JsonObject], tools: list[JsonObject]) -> Outcome | First:
        turn = sum(message.get("role") == "assistant" for message in messages)
        if turn >= len(answers):
            raise IndexError(f"the script has {len(answers)} answers, but the model was asked once more")
        return answers[turn]

    return script


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived.

    :ivar raw: the body's bytes.
    """

    raw: bytes

    @property
    def body(self) -> JsonObject:
        """The body, parsed anew each time: nobody else holds this copy."""
        return json.loads(self.raw)

    @property
    def messages(self) -> list[JsonObject]:
        return self.body["messages"]

    @property
    def conversation(self) -> str:
        """What the first user message says: tells concurrent runs apart, if their inputs differ."""
        return next(
            (str(message["content"]) for message in self.messages if message.get("role") == "user"), ""
        )


class Player:
    """Plays one script: asks it what the model says and writes that as a chat completion."""

    def __init__(self, script: Script, *, strict: bool = True) -> None:
        """
        :param strict: refuse conversations that OpenAI refuses, such as a tool call without its result.
        """
        self._script = script
        self._strict = strict
        self._seen: dict[bytes, int] = {}
        self._answered = 0

    def outcome(self, body: JsonObject) -> Outcome:
        """What the model says to ``body``.

        :raises Exception: whatever the script raises; TypeError if it returns something else.
        """
        if self._strict and (complaint := complaint_about(body)):
            return HttpError(status=400, message=complaint)
        messages = cast("list[JsonObject]", body["messages"])
        said = self._script(messages, cast("list[JsonObject]", body.get("tools") or []))
        if isinstance(said, First):
            return self._next(said, messages)
        if not isinstance(cast("object", said), Answer | HttpError | Hang | NotJson | Drop):
            raise TypeError(f"a script must return say(…), call(…) or a fault, not {said!r}")
        return said

    def completion(self, body: JsonObject, answer: Answer) -> JsonObject:
        """``answer`` as a ``chat.completion`` object."""
        self._answered += 1
        messages = cast("list[JsonObject]", body["messages"])
        message: JsonObject = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
        if answer.calls:
            turn = sum(earlier.get("role") == "assistant" for earlier in messages)
            message["tool_calls"] = [
                {
                    "id": call_id or f"call_{turn}_{position}",
                    "type": "function",
                    "function": {"name": tool, "arguments": arguments},
                }
                for position, (tool, arguments, call_id) in enumerate(answer.calls)
            ]
        completion: JsonObject = {
            "id": f"chatcmpl-{self._answered}",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model"),
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
            ],
        }
        if answer.reports_usage:
            completion["usage"] = _usage(answer.usage or count_tokens(body, message))
        return completion

    def _next(self, first: First, messages: list[JsonObject]) -> Outcome:
        key = hashlib.sha256(_bytes(messages)).digest()
        count = self._seen.get(key, 0)
        self._seen[key] = count + 1
        return first.faults[count] if count < len(first.faults) else first.then


def chunks(completion: JsonObject, *, with_usage: bool) -> Iterator[JsonObject]:
    """``completion`` as the ``chat.completion.chunk`` objects of a stream."""
    choice = completion["choices"][0]
    message = choice["message"]
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def chunk(delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": None if message["content"] is None else ""})
    for key in ("content", "refusal"):
        for piece in _pieces(message[key] or ""):
            yield chunk({key: piece})
    for index, one in enumerate(message.get("tool_calls", ())):
        function = one["function"]
        opening = {**one, "index": index, "function": {"name": function["name"], "arguments": ""}}
        yield chunk({"tool_calls": [opening]})
        for piece in _pieces(function["arguments"]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, choice["finish_reason"])
    if with_usage and "usage" in completion:
        yield {**head, "choices": [], "usage": completion["usage"]}


def count_tokens(body: JsonObject, message: JsonObject) -> Usage:
    """The tokens of a call by the bytes of its JSON: no tokenizer, and the same every time."""
    sent = len(_bytes(body["messages"])) + len(_bytes(body.get("tools") or ""))
    return Usage(
        input_tokens=max(1, sent // BYTES_PER_TOKEN),
        output_tokens=max(1, len(_bytes(message)) // BYTES_PER_TOKEN),
    )


def without_usage(answer: Answer) -> Answer:
    """The same answer from a provider that reports no usage."""
    return replace(answer, reports_usage=False)


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS))


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return json.dumps(value, ensure_ascii=False)


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
