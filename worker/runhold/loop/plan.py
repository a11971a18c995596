"""From the tool calls that a model asks for to what is recorded and run: validation and approval."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from msgspec import Struct
from pydantic_core import from_json

from runhold.agents import Agent, InvalidArguments, RunContext, Tool
from runhold.loop.canonical import canonical_json, clean, clean_text
from runhold.loop.execute import Work
from runhold.loop.ports import CallStatus, Json, JsonObject, OpenReview, ReviewKind, RunSignals, ToolCall
from runhold.loop.redaction import HIDDEN, Redaction, log_failure

logger = logging.getLogger(__name__)

SUMMARY_MAX: Final = 200
"""Characters of a review's summary: what fits a line of a list or a notification."""

_VALUE_MAX = 60

ContextFactory = Callable[[ToolCall], RunContext]


class Planned(Struct, frozen=True, kw_only=True):
    """One tool call of a fresh step.

    :ivar call: as it is recorded.
    :ivar work: set for a call that is to run now.
    :ivar review: set for a call that waits for a person.
    """

    call: ToolCall
    work: Work | None = None
    review: OpenReview | None = None


class Planner:
    """Decides what becomes of the calls that the model asks for."""

    def __init__(
        self, agent: Agent, signals: RunSignals, context: ContextFactory, redaction: Redaction
    ) -> None:
        self._agent = agent
        self._signals = signals
        self._context = context
        self._redaction = redaction

    async def plan(self, message: JsonObject, step_number: int) -> list[Planned]:
        """Plan all tool calls of a message. A call that can't work fails here, with words for the model."""
        asked = enumerate(message.get("tool_calls") or ())
        return [await self._plan_one(call, step_number, position) for position, call in asked]

    def prepare(self, call: ToolCall, tool: Tool[..., Any]) -> Work:
        """A call whose arguments are settled, ready to run.

        :raises InvalidArguments: they do not fit the tool (any more).
        """
        return Work(
            call=call,
            tool=tool,
            arguments=tool.validate(canonical_json(call.input)),
            hidden=self._redaction.texts(tool.name, call.input),
            is_redacted=self._redaction.concerns(tool.name),
        )

    async def needs_approval(self, work: Work) -> bool:
        """Whether a person must agree to the call first. What can't be decided needs approval."""
        if work.tool.name in self._signals.approval_tools:
            return True
        approval = work.tool.approval
        if isinstance(approval, bool):
            return approval
        try:
            async with asyncio.timeout(work.tool.timeout_s):
                answer = approval(self._context(work.call), work.arguments)
                return bool(await answer) if inspect.isawaitable(answer) else bool(answer)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.warning(
                "the approval function of tool %s cancelled itself: a person decides", work.tool.name
            )
            return True
        except (Exception, SystemExit) as error:
            said = f"the approval function of tool {work.tool.name} failed: a person decides"
            log_failure(logger, logging.ERROR, said, error, work.hidden)
            return True

    def question(self, call: ToolCall, tool: Tool[..., Any], *, because: str | None = None) -> OpenReview:
        """What a person is asked about ``call``; ``because`` says why they are asked once more."""
        kind: ReviewKind = "question" if tool.asks_person else "approval"
        asked: JsonObject = self._redaction.masked(tool.name, call.input)
        summary = str(asked.get("question", "")) if tool.asks_person else describe(call.tool_name, asked)
        if because is not None:
            summary = f"{because} {summary}"
        return OpenReview(
            step_number=call.step_number,
            position=call.position,
            kind=kind,
            summary=_cut(" ".join(summary.split()), SUMMARY_MAX),
        )

    async def _plan_one(self, asked: JsonObject, step_number: int, position: int) -> Planned:
        name, arguments = clean_text(asked["function"]["name"]), asked["function"]["arguments"]
        tool = self._agent.tool(name)

        def call(status: CallStatus, input: JsonObject, error: str | None = None) -> ToolCall:  # noqa: A002
            return ToolCall(
                step_number=step_number,
                position=position,
                call_id=asked["id"],
                tool_name=name,
                input=input,
                effect="read" if tool is None else tool.effect,
                status=status,
                error=error,
                attempt=1 if status == "running" else 0,
            )

        if tool is None:
            known = ", ".join(sorted(tool.name for tool in self._agent.tools)) or "none"
            return Planned(call=call("failed", {}, f"there is no tool {name!r}. There are: {known}."))
        given: JsonObject = {}
        try:
            given = read_arguments(arguments)
            work = self.prepare(call("running", given), tool)
        except InvalidArguments as error:
            return Planned(call=call("failed", given, clean_text(str(error))))
        if tool.asks_person or await self.needs_approval(work):
            waiting = call("awaiting_review", given)
            return Planned(call=waiting, review=self.question(waiting, tool))
        return Planned(call=work.call, work=work)


def read_arguments(arguments: str) -> JsonObject:
    """The arguments that a model wrote, as they are recorded and shown to people.

    :raises InvalidArguments: they are no JSON object.
    """
    try:
        value = _read(arguments)
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(f"the arguments are not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidArguments("the arguments must be a JSON object.")
    return cast("JsonObject", clean(value))


def describe(tool_name: str, arguments: JsonObject) -> str:
    """A call as a person reads it: ``send_email(to="…", subject="…")``."""
    said = (
        f"{name}={value if value is HIDDEN else _cut(canonical_json(value), _VALUE_MAX)}"
        for name, value in arguments.items()
    )
    return _cut(f"{tool_name}({', '.join(said)})", SUMMARY_MAX)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _read(arguments: str) -> Json:
    try:
        return from_json(arguments, allow_inf_nan=False)
    except ValueError:  # the slower reader takes more, lone surrogates for one, and says better what is wrong
        return json.loads(arguments, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
