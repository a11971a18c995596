"""A run's row and log in memory, by the rules of the worker protocol, and a model with a script.

``Row`` is the database: it outlives workers. ``Row.claim()`` gives what a worker gets, after a round trip
through something as forgetful as ``jsonb``. ``work()`` is a worker that takes the run as far as it goes. A
crash is a worker whose task is cancelled (it writes nothing more) followed by ``Row.lose_worker()``.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

from msgspec.structs import replace

from runhold import Agent
from runhold.loop import Outcome, RecordedRun, rebuild_request, run_agent
from runhold.loop.ports import (
    Definition,
    Entry,
    ModelReply,
    PersonMessage,
    ReleaseReason,
    Reserve,
    Reserved,
    Review,
    Run,
    Started,
    Step,
    ToolCall,
    Transition,
    Usage,
    Verdict,
)
from runhold.models.request import encode

LIMIT_CODES = {
    "max_steps": "MAX_STEPS_EXCEEDED",
    "max_tokens": "MAX_TOKENS_EXCEEDED",
    "max_cost_usd": "MAX_COST_EXCEEDED",
    "max_tool_calls": "MAX_TOOL_CALLS_EXCEEDED",
    "total_timeout_s": "TOTAL_TIMEOUT",
}
FINAL = ("succeeded", "failed", "rejected")

ROWS: list[Row] = []
"""Rows that workers claimed in the test that runs: ``conftest.py`` checks their logs at its end."""


def through_jsonb(value: Any) -> Any:
    """What comes back of a value that was stored: keys in another order, numbers as Postgres prints them."""

    def forgetful(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: forgetful(item[key]) for key in sorted(item, key=lambda k: (len(k), k))}
        if isinstance(item, (list, tuple)):
            return [forgetful(part) for part in item]
        if isinstance(item, float):
            return Number(format(Decimal(repr(item)) + 0, "f"))
        assert not isinstance(item, str) or "\x00" not in item, "jsonb refuses NUL"
        return item

    class Number(float):
        def __new__(cls, text: str) -> Number:
            number = super().__new__(cls, text)
            number.text = text
            return number

        text: str

    # json can't be told how to write a float: write placeholders and put the digits in
    numbers: list[str] = []

    def placeholders(item: Any) -> Any:
        if isinstance(item, Number):
            numbers.append(item.text)
            return f"@@{len(numbers) - 1}@@"
        if isinstance(item, dict):
            return {key: placeholders(part) for key, part in item.items()}
        if isinstance(item, list):
            return [placeholders(part) for part in item]
        return item

    text = json.dumps(placeholders(forgetful(value)), allow_nan=False)
    text.encode()
    for index, digits in enumerate(numbers):
        text = text.replace(f'"@@{index}@@"', digits)
    return json.loads(text)


class FakeClock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.today = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self.today

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.today += timedelta(seconds=seconds)


class Signals:
    """What the worker knows of the run."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.leave_because: ReleaseReason | None = None
        self.lease_ok = True
        self.approval_tools: Sequence[str] = row.approval_tools
        self._cancelled = asyncio.Event()

    @property
    def cancel_requested(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """The heartbeat's answer says so."""
        self._row.cancel_requested = True
        self._cancelled.set()

    def may_start_effect(self) -> bool:
        return self.lease_ok

    async def wait_for_cancel(self) -> None:
        await self._cancelled.wait()


@dataclass
class Budget:
    """A budget in tokens, and maybe USD, that rows share; and what was used and is reserved of it."""

    tokens: int
    usd: float | None = None
    on_budget: Literal["fail", "wait"] = "fail"
    used: int = 0
    used_usd: float = 0
    reserved: dict[UUID, tuple[int, float]] = field(default_factory=dict)
    charged: list[int] = field(default_factory=list)

    def ask(self, run: UUID, step: int, wish: Reserve) -> Reserved:
        """All or a part of ``wish`` for ``run``, or why not."""
        self.reserved.pop(run, None)
        detail = {"limit": "budget", "scope": "all", "period": "day", "step": step}
        if self.usd is not None and wish.max_usd is None:
            return Reserved(granted=False, then="fail", detail={**detail, "reason": "no_price"})
        granted: list[float] = []
        caps = [(self.tokens, self.used, 0, wish.min_tokens, wish.max_tokens)]
        if self.usd is not None:
            caps.append((self.usd, self.used_usd, 1, wish.min_usd, wish.max_usd))
        for cap, used, part, least, most in caps:
            free = cap - used - sum(held[part] for held in self.reserved.values())
            if free >= most:
                granted.append(most)
            elif free >= least and not self.reserved:
                granted.append(free)
            elif cap - used >= least:
                why = {**detail, "reason": "reserved_by_others"}
                return Reserved(granted=False, then="wait", delay_ms=7_000, detail=why)
            else:
                why = {**detail, "reason": "exceeded"}
                return Reserved(granted=False, then=self.on_budget, delay_ms=3_600_000, detail=why)
        usd = granted[1] if len(granted) > 1 else wish.max_usd
        self.reserved[run] = (int(granted[0]), usd or 0)
        return Reserved(granted=True, tokens=int(granted[0]), usd=usd)

    def settle(self, run: UUID, tokens: int, usd: float) -> None:
        """A step was recorded."""
        self.used, self.used_usd = self.used + tokens, self.used_usd + usd
        self.reserved.pop(run, None)

    def leave(self, run: UUID, *, charge: bool) -> None:
        """The run leaves its worker: give back what it holds, or charge it as estimated."""
        tokens, usd = self.reserved.pop(run, (0, 0))
        if charge and tokens:
            self.used, self.used_usd = self.used + tokens, self.used_usd + usd
            self.charged.append(tokens)


@dataclass
class Row:
    """One run in the database."""

    input: dict[str, Any] = field(default_factory=lambda: {"topic": "tea"})
    limits: dict[str, Any] = field(default_factory=dict)
    approval_tools: Sequence[str] = ()
    status: str = "pending"
    fence: int = 0
    steps: list[Step] = field(default_factory=list)
    calls: dict[tuple[int, int], ToolCall] = field(default_factory=dict)
    cut_off: set[tuple[int, int]] = field(default_factory=set)
    reviews: list[Review] = field(default_factory=list)
    edits: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)
    messages: list[PersonMessage] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    active_ms: int = 0
    cancel_requested: bool = False
    budget: Budget | None = None
    outage_since: datetime | None = None
    resumed_after_step: int = 0
    result: Any = None
    error: str | None = None
    detail: Any = None
    transitions: list[Transition] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    max_unconfirmed_steps: int = 0
    id: UUID = field(default_factory=uuid4)
    models: list[ScriptedModel] = field(default_factory=list)
    definitions: dict[UUID, Definition] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------- the worker's side

    def claim(self) -> Run:
        assert self.status == "pending", self.status
        self.status = "running"
        self.fence += 1
        return Run(
            id=self.id,
            user_id=UUID(int=7),
            tenant_id="acme",
            agent_type="helper",
            fence=self.fence,
            attempt=1,
            input=through_jsonb(self.input),
            state=through_jsonb(self.state),
            limits=self.limits,
            active_ms=self.active_ms,
            cost_usd=sum(step.cost_usd for step in self.steps),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            cancel_requested=self.cancel_requested,
            approval_tools=self.approval_tools,
            outage_since=self.outage_since,
            resumed_after_step=self.resumed_after_step,
            steps=[_stored_step(step) for step in self.steps],
            calls=self._sorted_calls(),
            reviews=list(self.reviews),
            messages=list(self.messages),
            budgeted=self.budget is not None,
        )

    def apply(self, entry: Entry, fence: int) -> Verdict:
        if self.status != "running" or fence != self.fence:
            return Verdict(kind="fenced")
        assert not (entry.charge and entry.step), "a recorded step is charged as it was"
        self.entries.append(entry)
        transition = entry.transition
        intents = bool(entry.starts or entry.reviews) or any(
            call.status in ("pending", "awaiting_review", "running") for call in entry.calls
        )
        pause = transition is not None and transition.to == "awaiting_review"
        goes_on = intents or bool(entry.calls and transition is None)
        code = detail = None
        if self.cancel_requested:
            code = "CANCELLED" if intents or pause else None
        elif goes_on:
            code, detail = self._passed(entry)
        self._store(entry, stop=code is not None)
        starts = () if code else entry.starts
        started = [self._start(start.step_number, start.position) for start in starts]
        kind = "stop" if code else "ok"
        gated = False if code else self._gate(entry)
        if transition is None and (gated or any(each.reason == "not_approved" for each in started)):
            kind = "continue"
        if pause and not code and not any(review.status == "pending" for review in self.reviews):
            kind = "continue"
        ends = transition is not None and transition.to == "completed" and not transition.final
        if kind == "ok" and ends and self.messages and not self.cancel_requested:
            kind = "continue"
        if transition is not None and kind == "ok":
            self._move(transition)
        reserved = None
        if self.budget is not None:
            if transition is not None and kind == "ok":
                self.budget.leave(self.id, charge=entry.charge)
            if entry.reserve is not None and kind == "ok":
                reserved = self.budget.ask(self.id, len(self.steps) + 1, entry.reserve)
        elif entry.reserve is not None and kind == "ok":
            reserved = Reserved(granted=True, tokens=entry.reserve.max_tokens, usd=entry.reserve.max_usd)
        return Verdict(
            kind=kind,
            code=code,
            detail=detail,
            cancel_requested=self.cancel_requested,
            started=started,
            calls=self._sorted_calls() if kind == "continue" else (),
            reviews=list(self.reviews) if kind == "continue" else (),
            messages=list(self.messages),
            budgeted=self.budget is not None and kind in ("ok", "continue"),
            reserved=reserved,
        )

    def _passed(self, entry: Entry) -> tuple[str | None, Any]:
        step = entry.step
        used = {
            "max_steps": len(self.steps) + (step is not None),
            "max_tokens": self.tokens + (_tokens(step) if step else 0),
            "max_tool_calls": len(self.calls) + len(entry.calls),
            "total_timeout_s": (self.active_ms + entry.active_ms) / 1000,
        }
        for name, amount in used.items():
            if self.limits.get(name) is not None and amount > self.limits[name]:
                return LIMIT_CODES[name], {"limit": name, "allowed": self.limits[name], "used": amount}
        return None, None

    def _store(self, entry: Entry, *, stop: bool) -> None:
        self.active_ms += entry.active_ms
        if entry.step is not None:
            assert entry.step.step_number == len(self.steps) + 1
            self.steps.append(entry.step)
            if self.budget is not None:
                self.budget.settle(self.id, _tokens(entry.step), entry.step.cost_usd)
            self.messages = [m for m in self.messages if m.id not in entry.step.delivered]
            self.outage_since = None
        for call in entry.calls:
            if not stop or call.status in FINAL:
                assert (call.step_number, call.position) not in self.calls
                self.calls[call.step_number, call.position] = replace(
                    call, input=through_jsonb(call.input), attempt=int(call.status == "running")
                )
        for result in entry.results:
            call = self.calls.get((result.step_number, result.position))
            if call is not None and call.status in ("pending", "running"):
                self.calls[result.step_number, result.position] = replace(
                    call,
                    status=result.status,
                    output=through_jsonb(result.output),
                    shown=through_jsonb(result.shown),
                    error=through_jsonb(result.error),
                )
        if not stop:
            for review in entry.reviews:
                key = (review.step_number, review.position)
                if review.kind != "unknown_outcome" and self.calls[key].status in ("pending", "running"):
                    self.calls[key] = replace(self.calls[key], status="awaiting_review")
                self._open(key, review.kind, review.summary)
            self._ask_about_unknown()
        if entry.state is not None:
            self.state = through_jsonb(entry.state)

    def _gate(self, entry: Entry) -> bool:
        """New calls of tools that an operator gated wait for a person; a read may have begun."""
        keys = [(call.step_number, call.position) for call in entry.calls if self._is_gated(call)]
        held_back = [key for key in keys if self.calls[key].status in ("pending", "running")]
        for key in held_back:
            self.calls[key] = replace(self.calls[key], status="awaiting_review", attempt=0)
            self._open(key, "approval", f"SQL asks about {self.calls[key].tool_name}")
        return bool(held_back)

    def _is_gated(self, call: ToolCall) -> bool:
        key = (call.step_number, call.position)
        used = any(review.used for review in self.reviews if (review.step_number, review.position) == key)
        begun = call.effect == "read" and call.status == "running"
        return call.tool_name in self.approval_tools and not used and not begun

    def _ask_about_unknown(self) -> None:
        for key, call in self.calls.items():
            asked = any(r.status == "pending" and (r.step_number, r.position) == key for r in self.reviews)
            if call.status == "unknown" and not asked:
                self._open(key, "unknown_outcome", f"Did {call.tool_name} happen?")

    def _open(self, key: tuple[int, int], kind: Any, summary: str) -> None:
        self.reviews.append(
            Review(id=uuid4(), step_number=key[0], position=key[1], kind=kind, status="pending", used=False)
        )
        self.summaries.append(through_jsonb(summary))

    def _start(self, step_number: int, position: int) -> Started:
        key = (step_number, position)
        call, reason = self.calls[key], None
        if call.status == "awaiting_review":
            index = next(
                (
                    i
                    for i, r in enumerate(self.reviews)
                    if (r.step_number, r.position) == key and r.status == "approved" and not r.used
                ),
                None,
            )
            if index is None:
                reason = "not_approved"
            else:
                review = self.reviews[index] = replace(self.reviews[index], used=True)
                if review.id in self.edits:
                    call = replace(call, input=self.edits[review.id], edited=True)
        elif call.status != "pending":
            reason = "not_pending"
        elif self._is_gated(call):
            call = self.calls[key] = replace(call, status="awaiting_review")
            self._open(key, "approval", f"SQL asks about {call.tool_name}")
            reason = "not_approved"
        if reason is None:
            call = self.calls[key] = replace(call, status="running", attempt=call.attempt + 1)
        return Started(
            step_number=step_number,
            position=position,
            taken=reason is None,
            input=through_jsonb(call.input),
            edited=call.edited,
            attempt=call.attempt,
            reason=reason,
        )

    def _move(self, transition: Transition) -> None:
        self.transitions.append(transition)
        to = transition.to
        if self.cancel_requested and to in ("completed", "failed", "pending"):
            to = "cancelled"
        if to in ("failed", "cancelled"):
            for key, call in self.calls.items():
                if (call.status == "running" and call.effect != "unsafe") or call.status == "pending":
                    self.cut_off.add(key)
                    self.calls[key] = replace(call, status="failed", error="cut off")
        if to == "pending":
            for key, call in self.calls.items():
                if call.status == "running" and call.effect != "unsafe":
                    self.calls[key] = replace(call, status="pending")
        self.status, self.result, self.error = to, through_jsonb(transition.result), transition.error
        self.detail = through_jsonb(transition.detail)
        if transition.reason == "model_outage" and self.outage_since is None:
            self.outage_since = datetime(2026, 1, 1, tzinfo=UTC)

    # ------------------------------------------------------------------------------------- everyone else's

    def say(self, text: str) -> UUID:
        """Somebody speaks to the run (``agent_send``)."""
        said = PersonMessage(id=uuid4(), content=text)
        self.messages.append(said)
        return said.id

    def retry(self) -> None:
        """``agent_retry``."""
        assert self.status == "failed", self.status
        self.status, self.error, self.detail, self.outage_since = "pending", None, None, None
        self.resumed_after_step = len(self.steps)
        for key in self.cut_off:
            self.calls[key] = replace(self.calls[key], status="pending", error=None)
        self.cut_off.clear()

    def lose_worker(self) -> None:
        """The lease ended."""
        if self.status != "running":
            return  # it has left the worker already
        if self.budget is not None:
            self.budget.leave(self.id, charge=True)
        for key, call in self.calls.items():
            if call.status == "running":
                unsafe = call.effect == "unsafe"
                self.calls[key] = replace(call, status="unknown" if unsafe else "pending")
        self._ask_about_unknown()
        waits = any(call.status == "unknown" for call in self.calls.values())
        self.status = "awaiting_review" if waits else "pending"

    def decide(
        self, status: str, *, index: int = -1, edit: Any = None, answer: Any = None, comment: Any = None
    ) -> None:
        """A person decides about the last pending review (or the one at ``index`` of the pending ones)."""
        pending = [i for i, review in enumerate(self.reviews) if review.status == "pending"]
        at = pending[index]
        review = self.reviews[at] = replace(
            self.reviews[at],
            status=status,
            comment=comment,
            answer=answer,  # pyright: ignore
        )
        key = (review.step_number, review.position)
        call = self.calls[key]
        if edit is not None:
            self.edits[review.id] = edit
        match review.kind, status:
            case "approval" | "question", "rejected":
                self.calls[key] = replace(call, status="rejected", error=comment)
            case "question", _:
                self.calls[key] = replace(call, status="succeeded", output=answer)
            case "unknown_outcome", "approved" if answer["outcome"] == "happened":
                self.calls[key] = replace(call, status="succeeded", output=answer.get("result"), error=None)
            case "unknown_outcome", "approved":
                self.calls[key] = replace(call, status="awaiting_review", error=None)
            case _:
                pass
        if self.status == "awaiting_review" and not any(r.status == "pending" for r in self.reviews):
            self.status = "pending"

    @property
    def tokens(self) -> int:
        return sum(_tokens(step) for step in self.steps)

    @property
    def recorded(self) -> RecordedRun:
        """What the rows tell."""
        return RecordedRun(
            input=through_jsonb(self.input),
            steps=[_stored_step(step) for step in self.steps],
            calls=self._sorted_calls(),
            definitions=self.definitions,
        )

    def require_rebuildable(self) -> None:
        """Every step that a worker recorded here answers a request that the rows give again, byte for byte."""
        sent = {request for model in self.models for request in model.sent}
        for step in [entry.step for entry in self.entries if entry.step is not None]:
            request = rebuild_request(self.recorded, step.step_number)
            rebuilt = encode(request.body, stream=request.stream)
            assert rebuilt in sent, (
                f"step {step.step_number}: the rows give\n{rebuilt.decode()}\nand not one of\n"
                + "\n".join(request.decode() for request in sent)
            )

    def call(self, step: int = 1, position: int = 0) -> ToolCall:
        return self.calls[step, position]

    def _sorted_calls(self) -> list[ToolCall]:
        calls = [self.calls[key] for key in sorted(self.calls)]
        return [replace(call, output=None) if call.shown is not None else call for call in calls]


class Log:
    """A worker's way to the row.

    ``hold`` keeps entries from the database until :meth:`release`; with ``lose_answers`` they arrive, and what the
    database says to them does not.
    """

    def __init__(self, row: Row, fence: int) -> None:
        self.row = row
        self.fence = fence
        self.hold = False
        self.lose_answers = False
        self._queue: deque[tuple[Entry, asyncio.Future[Verdict]]] = deque()

    def append(self, entry: Entry) -> Awaitable[Verdict]:
        assert entry.transition is None or not self._queue, "a run leaves when all it wrote is confirmed"
        waits = any(queued.reserve for queued, _ in self._queue)
        assert not waits, "who reserved does nothing before it knows what it got"
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._queue.append((entry, verdict))
        steps = sum(queued.step is not None for queued, _ in self._queue)
        self.row.max_unconfirmed_steps = max(self.row.max_unconfirmed_steps, steps)
        if not self.hold:
            asyncio.get_running_loop().call_soon(self.release)
        return verdict

    def release(self) -> None:
        while self._queue:
            entry, verdict = self._queue.popleft()
            answer = self.row.apply(entry, self.fence)
            if self.lose_answers:
                self.hold = True  # nothing goes out behind an entry that is not answered
                return
            if not verdict.done():
                verdict.set_result(answer)

    @property
    def held(self) -> list[Entry]:
        """What was written and has not arrived."""
        return [entry for entry, _ in self._queue]


Answer = ModelReply | BaseException | Callable[[], Any]


class ScriptedModel:
    """Answers from a script; keeps the requests. A callable item is called (and awaited) for its answer."""

    def __init__(self, *script: Answer) -> None:
        self.script = deque(script)
        self.requests: list[dict[str, Any]] = []
        self.sent: list[bytes] = []

    async def complete(
        self, body: dict[str, Any], *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        self.requests.append(json.loads(json.dumps(body)))
        self.sent.append(encode(body, stream=on_text is not None))
        self.timeout_s = timeout_s
        assert_well_formed(body)
        assert self.script, f"no answer left for {body['messages'][-1]}"
        item = self.script.popleft()
        if callable(item):
            item = item()
            if asyncio.iscoroutine(item):
                item = await item
        if isinstance(item, BaseException):
            raise item
        if on_text is not None:
            for piece in (item.message.get("content") or "").split():
                on_text(piece)
        return item

    @property
    def last_messages(self) -> list[dict[str, Any]]:
        return self.requests[-1]["messages"]


def assert_well_formed(body: dict[str, Any]) -> None:
    """What a provider would refuse with a 400."""
    open_calls: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls
            open_calls.remove(message["tool_call_id"])
            assert isinstance(message["content"], str)
        else:
            assert not open_calls, f"unanswered tool calls {open_calls}"
        if message["role"] == "assistant":
            assert message.get("tool_calls") != []
            open_calls = [call["id"] for call in message.get("tool_calls") or ()]
    assert not open_calls


def says(text: str | None, *, finish: str = "stop", usage: Any = (10, 5), **extra: Any) -> ModelReply:
    """The model answers with text."""
    return ModelReply(
        message={"role": "assistant", "content": text, **extra}, finish_reason=finish, usage=_usage(usage)
    )


def asks(*calls: tuple[str, Any], usage: Any = (10, 5), finish: str = "tool_calls") -> ModelReply:
    """The model calls tools: ``asks(("find", {"q": 1}), …)``. Text is sent as it is."""
    asked = [
        {
            "id": f"call_{uuid4().hex[:6]}",
            "type": "function",
            "function": {"name": name, "arguments": args if isinstance(args, str) else json.dumps(args)},
        }
        for name, args in calls
    ]
    message = {"role": "assistant", "content": None, "tool_calls": asked}
    return ModelReply(message=message, finish_reason=finish, usage=_usage(usage))


def _usage(usage: Any) -> Usage | None:
    return None if usage is None else Usage(input_tokens=usage[0], output_tokens=usage[1])


def definition_of(agent: Agent, number: int = 1) -> Definition:
    raw = through_jsonb(agent.definition())
    return Definition(
        id=UUID(int=number),
        agent_type=raw["agent_type"],
        version=raw["version"],
        model=raw["model"],
        instructions=raw["instructions"],
        tools=raw["tools"],
        params=raw["params"],
        limits=raw["limits"],
    )


def _registered(row: Row, agent: Agent) -> Definition:
    """The agent's definition under the id that the row knows it by, or the next one."""
    known = [definition_of(agent, number.int) for number in row.definitions]
    return next(
        (one for one in known if one in row.definitions.values()), definition_of(agent, len(known) + 1)
    )


class Progress:
    """Collects what is told to whoever watches."""

    def __init__(self, *, wants_text: bool = False) -> None:
        self.wants_text = wants_text
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, payload: Mapping[str, Any]) -> None:
        self.events.append((event, dict(payload)))


class Worker:
    """One claim of the run by one worker."""

    def __init__(self, row: Row, agent: Agent, model: ScriptedModel, **options: Any) -> None:
        self.row = row
        self.run = row.claim()
        self.log = Log(row, self.run.fence)
        self.signals = Signals(row)
        self.clock = options.pop("clock", None) or FakeClock()
        definition = options.setdefault("definition", _registered(row, agent))
        row.definitions[definition.id] = definition
        row.models.append(model)
        ROWS.append(row)
        self._work = run_agent(
            self.run, agent, model=model, log=self.log, signals=self.signals, clock=self.clock, **options
        )

    async def go(self) -> Outcome:
        return await asyncio.wait_for(self._work, 10)

    def start(self) -> asyncio.Task[Outcome]:
        self.task = asyncio.create_task(self._work)
        return self.task

    async def crash(self) -> None:
        """The process dies: nothing that is queued arrives, nothing more is written."""
        self.row.fence += 1
        self.task.cancel()
        await asyncio.wait({self.task})
        self.row.lose_worker()


async def work(row: Row, agent: Agent, model: ScriptedModel, **options: Any) -> Outcome:
    return await Worker(row, agent, model, **options).go()


def _tokens(step: Step) -> int:
    return step.usage.input_tokens + step.usage.output_tokens


def _stored_step(step: Step) -> Step:
    return replace(
        step,
        message=through_jsonb(step.message),
        injected=through_jsonb(list(step.injected)),
    )
