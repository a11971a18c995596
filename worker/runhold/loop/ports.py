"""What the loop needs from the outside, as Protocols, and the records that cross that border.

The records are structs of msgspec: like frozen dataclasses, but made and copied at a tenth of the cost.

The loop knows no SQL and no HTTP. A model is a :class:`ChatModel`; the database is a :class:`RunLog`, one per
claimed run. ``docs/reference/worker-protocol.md`` describes the same records as JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from uuid import UUID

from msgspec import Struct, field

from runhold.agents.tool import (
    Effect as Effect,
)  # the words of the log are those that tools are declared with

if TYPE_CHECKING:
    from supabase import AsyncClient

Json = Any  # values are validated where they enter (store, models), not again here
JsonObject = dict[str, Any]

CallStatus = Literal["pending", "awaiting_review", "running", "succeeded", "failed", "rejected", "unknown"]
ReviewKind = Literal["approval", "unknown_outcome", "question"]
ReviewStatus = Literal["pending", "approved", "rejected", "expired", "cancelled"]

MAX_RECORD_BYTES: Final = 960 * 1024
"""Of one encoded entry: gateways that accept requests of 1 MiB let it pass."""

ReleaseReason = Literal[
    "shutdown", "agent_disabled", "missing_tool", "model_outage", "lease_ending", "budget", "user_access"
]
"""Why a run goes back to the queue. Never counted as an attempt."""


# ---------------------------------------------------------------------------------------------- models


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens of one model call. ``estimated`` is true when the provider did not report them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    estimated: bool = False


class ModelReply(Struct, frozen=True, kw_only=True):
    """One assistant message as the provider returned it.

    :ivar message: ``{"role": "assistant", "content": …, "tool_calls": […]}``; arguments stay the exact
        string.
    :ivar finish_reason: ``stop``, ``tool_calls``, ``length``, ``content_filter`` or None.
    :ivar usage: None when the provider reported none.
    """

    message: JsonObject
    finish_reason: str | None
    usage: Usage | None


class ChatModel(Protocol):
    """Anything that answers an OpenAI chat-completions request."""

    async def complete(
        self, body: JsonObject, *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """Send ``body`` (without ``stream``); return the answer within ``timeout_s`` s, retries included.

        ``on_text`` receives pieces of text as they arrive; given, the client streams.

        :raises ModelUnavailable: outage or rate limit, also after retries.
        :raises ModelTimeout: no answer in time.
        :raises ModelRejected: the request will never be accepted as it is.
        """
        ...


# ------------------------------------------------------------------------------------------ claimed runs


class Definition(Struct, frozen=True, kw_only=True):
    """What an agent was when a step was decided (a row of ``agent_definitions``)."""

    id: UUID
    agent_type: str
    version: str
    model: str
    instructions: str
    tools: Sequence[JsonObject]  # name, description, parameters (JSON schema), effect, approval
    params: JsonObject  # temperature, response_format, …
    limits: JsonObject


class Step(Struct, frozen=True, kw_only=True):
    """One model decision that is already in the log (a row of ``agent_steps``)."""

    step_number: int  # 1, 2, 3 …
    definition_id: UUID
    message: JsonObject
    injected: Sequence[JsonObject] = ()
    max_output_tokens: int | None = None  # the bound in its request: what was left then
    streamed: bool = False  # the client asked for a stream, because somebody might watch
    landing: str | None = None  # the limit that made it the last one, asked without tools
    finish_reason: str | None = None
    usage: Usage
    cost_usd: float = 0.0
    latency_ms: int = 0
    delivered: Sequence[UUID] = ()  # agent_messages that ``injected`` carries


class ToolCall(Struct, frozen=True, kw_only=True):
    """One tool call in the log (a row of ``agent_tool_calls``), known by (step_number, position).

    :ivar output: the JSON that the tool returned (None until it did).
    :ivar shown: what the model sees instead of ``output``; set only where the output was cut.
    :ivar edited: a reviewer changed the arguments: ``input`` is not what the model asked for.
    """

    step_number: int
    position: int  # 0, 1, 2 … within the step
    call_id: str
    tool_name: str
    input: JsonObject
    effect: Effect
    status: CallStatus
    output: Json = None
    shown: str | None = None
    error: str | None = None
    edited: bool = False
    attempt: int = 0
    latency_ms: int | None = None


class Review(Struct, frozen=True, kw_only=True):
    """What is known of a question to a person, for the call at (step_number, position)."""

    id: UUID
    step_number: int
    position: int
    kind: ReviewKind
    status: ReviewStatus
    used: bool
    comment: str | None = None
    answer: Json = None


class PersonMessage(Struct, frozen=True, kw_only=True):
    """What a person said to the living run and the model has not seen yet."""

    id: UUID
    content: str


class Run(Struct, frozen=True, kw_only=True):
    """A claimed run with all that is needed to go on."""

    id: UUID
    user_id: UUID
    tenant_id: str | None
    agent_type: str
    fence: int
    attempt: int
    input: JsonObject
    state: JsonObject
    limits: JsonObject  # agent_executions.effective_limits; keys as in runhold.Limits
    active_ms: int
    cost_usd: float
    created_at: datetime
    cancel_requested: bool
    approval_tools: Sequence[str]
    outage_since: datetime | None  # first release for a provider outage since the last step
    resumed_after_step: int = 0  # the last step before a person retried or forked the run; 0: nobody did
    steps: Sequence[Step]
    calls: Sequence[ToolCall]
    reviews: Sequence[Review]
    messages: Sequence[PersonMessage]
    budgeted: bool = False  # a budget matches the run


# --------------------------------------------------------------------------------------------- recording


class OpenReview(Struct, frozen=True, kw_only=True):
    """Ask a person about the call at (step_number, position).

    Mostly the call is new and comes in the same entry as ``awaiting_review``. A stored call may be asked
    about (again), too: one that is ``pending``, or one that was taken and is ``running``, of which the loop
    vouches that it has not started. The database puts such a call (back) to ``awaiting_review``.
    """

    step_number: int
    position: int
    kind: ReviewKind
    summary: str


class Result(Struct, frozen=True, kw_only=True):
    """How a tool call ended: ``succeeded``, ``failed`` or ``unknown`` (SQL then opens the review)."""

    step_number: int
    position: int
    status: Literal["succeeded", "failed", "unknown"]
    output: Json = None
    shown: str | None = None
    error: str | None = None
    latency_ms: int = 0


class Start(Struct, frozen=True, kw_only=True):
    """Set a stored call to ``running`` before its effect: a fresh attempt of an ungated call, or, for a call
    that awaits review, *taking* it: the approval is used up and the verdict carries the arguments to run."""

    step_number: int
    position: int


class Reserve(Struct, frozen=True, kw_only=True):
    """Ask the run's budgets for what the next call of the model may use: ``min`` at least, ``max`` if there is so much.

    :ivar min_usd: US dollars, like ``max_usd``; both None if no price of the model is known.
    """

    min_tokens: int
    max_tokens: int
    min_usd: float | None = None
    max_usd: float | None = None


class Transition(Struct, frozen=True, kw_only=True):
    """How the run leaves this worker.

    ``completed`` (result), ``failed`` (error = a code of design §10, detail), ``awaiting_review``,
    ``cancelled`` (detail), ``pending`` (reason, delay_ms).

    :ivar final: for ``completed``: there is no room for another step. Without it, a run to which people spoke
        meanwhile is not ended: the verdict is ``continue``, with their messages.
    :ivar counted: for ``pending``: the attempt is used up; at the type's last one the run has failed.
    """

    to: Literal["completed", "failed", "awaiting_review", "cancelled", "pending"]
    result: Json = None
    error: str | None = None
    detail: JsonObject | None = None
    reason: str | None = None
    delay_ms: int = 0
    final: bool = False
    counted: bool = False


class Entry(Struct, frozen=True, kw_only=True):
    """What one run adds to its log in one go. All of it becomes durable in one transaction, in this order.

    ``calls`` are new tool calls (intents): ``pending``, ``running`` (intent of an effect about to start),
    ``awaiting_review`` (with a matching item of ``reviews``) or already final.

    :ivar reserve: nothing may follow it before its verdict. A step, or how the run leaves, gives back what was reserved
        before.
    :ivar charge: with a transition: the call of the model that was reserved for had begun, and what it used will never
        be known: it is charged as estimated.
    """

    step: Step | None = None
    calls: Sequence[ToolCall] = ()
    reviews: Sequence[OpenReview] = ()
    starts: Sequence[Start] = ()
    results: Sequence[Result] = ()
    state: JsonObject | None = None
    active_ms: int = 0  # active time since the last entry
    reserve: Reserve | None = None
    charge: bool = False
    transition: Transition | None = None


class Started(Struct, frozen=True, kw_only=True):
    """The database's answer to a :class:`Start`: run ``input``, exactly, or do not run (``taken`` false)."""

    step_number: int
    position: int
    taken: bool
    input: JsonObject = field(default_factory=dict[str, Any])
    edited: bool = False
    attempt: int = 1
    reason: str | None = None


class Reserved(Struct, frozen=True, kw_only=True):
    """The database's answer to a :class:`Reserve`.

    :ivar tokens: granted, input and output together; ``usd`` likewise (None: no price of the model is known).
    :ivar then: not granted: ``fail``, or go back to the queue and ``wait`` for ``delay_ms``.
    :ivar detail: not granted: why, for the run's owner.
    """

    granted: bool
    tokens: int = 0
    usd: float | None = None
    then: Literal["fail", "wait"] = "fail"
    delay_ms: int = 0
    detail: JsonObject = field(default_factory=dict[str, Any])


VerdictKind = Literal["ok", "stop", "continue", "fenced"]


class Verdict(Struct, frozen=True, kw_only=True):
    """The database's answer to an :class:`Entry`.

    ``ok``: all of it is durable. ``stop``: what happened is durable, intents and transition are not; end the
    run with ``code`` (an error of design §10, or ``CANCELLED``). ``continue``: all but the transition is durable;
    the pause found no open review, or the end came before people were heard: keep the slot and go on with
    ``calls``, ``reviews`` and ``messages``, which are the run's present ones. Also answered when calls that were to run
    await review instead, because an operator has gated their tools.
    ``fenced``: this run belongs to someone else now: stop without another word.

    :ivar budgeted: a budget matches the run, as far as the verdict says ``ok`` or ``continue``.
    :ivar reserved: set where the entry asked for it.
    """

    kind: VerdictKind
    code: str | None = None
    detail: JsonObject | None = None
    cancel_requested: bool = False
    started: Sequence[Started] = ()
    calls: Sequence[ToolCall] = ()
    reviews: Sequence[Review] = ()
    messages: Sequence[PersonMessage] = ()
    budgeted: bool = False
    reserved: Reserved | None = None


class RunLog(Protocol):
    """One claimed run's way to the database. Entries become durable in the order they were appended."""

    def append(self, entry: Entry) -> Awaitable[Verdict]:
        """Queue ``entry`` and return at once; its answer says that it, and all before it, is durable.

        The answer never needs to be awaited. Answers arrive in order.

        :raises StoreError: (when awaited) the entry could not be stored for a reason of its data.
        """
        ...


class RunSignals(Protocol):
    """What the worker knows about the run from outside the loop."""

    @property
    def cancel_requested(self) -> bool:
        """A cancel was seen (verdict, heartbeat reply or claim)."""
        ...

    @property
    def leave_because(self) -> ReleaseReason | None:
        """Why the run is to be given back at the end of its step: the worker shuts down, its type was disabled."""
        ...

    @property
    def approval_tools(self) -> Collection[str]:
        """Tools that an operator gated, as the worker heard last: a call of them waits for a person."""
        ...

    def may_start_effect(self) -> bool:
        """Whether the lease has enough left to start something that changes the world."""
        ...

    async def wait_for_cancel(self) -> None:
        """Return once ``cancel_requested`` is true (it interrupts the model's call); until then, wait.

        A run that is *lost* is ended by cancelling the task that runs it: it then writes nothing more.
        """
        ...


class ProgressSink(Protocol):
    """Where progress goes (the run's private Realtime topic). Must return at once and never raise.

    Events: ``step`` {step, tokens}; ``tool`` {step, position, name, status}; ``text`` {step, text}: a piece
    of the answer as it arrives; ``custom`` {step, event, payload}: what a tool emitted.
    """

    @property
    def wants_text(self) -> bool:
        """Whether somebody watches, so that the model's answer is worth streaming."""
        ...

    def __call__(self, event: str, payload: Mapping[str, Any]) -> None: ...


class Clock(Protocol):
    """Time, so that tests can move it."""

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        ...

    def now(self) -> datetime:
        """The time of day, in UTC."""
        ...


PriceFunction = Callable[[str, Usage], Decimal | None]
"""(model, usage) → US dollars; None for a model of which no price is known. With the same input, linear in the tokens
of the answer."""


NoteFault = Callable[["str | None"], None]
"""Called with what keeps a tool call from acting as its user, and with None once that is over. From any thread."""


UserClientFactory = Callable[[NoteFault], "AsyncClient"]
"""Makes the client that acts as the run's user by a short-lived JWT: what ``ctx.supabase`` is.

Called at most once per tool call, in the event loop or in a tool's thread.

:raises UserAccessFault: the worker has no signing key to act as a user with.
"""
