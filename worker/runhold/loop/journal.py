"""The run's log as this worker knows it, and the only way by which the loop writes to it.

Whatever is appended is applied at once to the copy in memory, as the database will apply it; whether it did
is known when the verdict comes. The rules about waiting for verdicts (design §6) are the callers', the means
are here:
:meth:`Journal.confirm`, :meth:`Journal.confirm_steps`, :meth:`Journal.commit`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from runhold.loop.endings import Fenced, cancelled, stopped
from runhold.loop.ports import (
    Clock,
    Entry,
    OpenReview,
    PersonMessage,
    Result,
    Review,
    Run,
    RunLog,
    RunSignals,
    Started,
    Step,
    ToolCall,
    Verdict,
)
from runhold.loop.waiting import until_any

CallKey = tuple[int, int]
"""(step_number, position)"""

FINAL: Final = frozenset({"succeeded", "failed", "rejected"})


class Journal:
    """One claimed run's log.

    :ivar steps: all steps, in order.
    :ivar inbox: what people said and no step has delivered yet.
    :ivar budgeted: a budget matches the run, as the database said last.
    :ivar owes: a call of the model began that was reserved for, and the log does not have what it came to.
    :ivar broken: the database could not store an entry: only an ending without anything else is still taken.
    :ivar interrupted: done as soon as the run must not simply go on (cancelled, stopped, lost): whoever waits
        for something slow waits for this, too, and then calls :meth:`checkpoint`.
    """

    def __init__(self, run: Run, log: RunLog, signals: RunSignals, clock: Clock) -> None:
        self.run = run
        self.steps: list[Step] = list(run.steps)
        self.inbox: dict[UUID, PersonMessage] = {message.id: message for message in run.messages}
        self.budgeted = run.budgeted
        self.owes = False
        self.broken = False
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tokens = sum(map(_tokens_of, run.steps))
        self._cost_usd = run.cost_usd
        self._calls: dict[CallKey, ToolCall] = {(call.step_number, call.position): call for call in run.calls}
        self._reviews: dict[UUID, Review] = {review.id: review for review in run.reviews}
        self._log = log
        self._signals = signals
        self._clock = clock
        self._claimed_at = self._recorded_until = clock.monotonic()
        self._unconfirmed: deque[tuple[Entry, asyncio.Future[Verdict]]] = deque()
        self._cancel_requested = run.cancel_requested
        self._watch = asyncio.create_task(self._interrupt_on_cancel(), name=f"cancel-watch {run.id}")

    def close(self) -> None:
        """End the side task; nothing is written."""
        self._watch.cancel()

    # ------------------------------------------------------------------------------------- what is known

    @property
    def step_number(self) -> int:
        """Number of the last step, 0 before the first."""
        return self.steps[-1].step_number if self.steps else 0

    @property
    def active_s(self) -> float:
        """Seconds of active time so far, those of earlier claims included."""
        return self.run.active_ms / 1000 + self._clock.monotonic() - self._claimed_at

    @property
    def tokens(self) -> int:
        """Input and output tokens of all steps."""
        return self._tokens

    @property
    def cost_usd(self) -> float:
        """US dollars: what the claim said, and the steps since."""
        return self._cost_usd

    @property
    def call_count(self) -> int:
        """Tool calls of all steps."""
        return len(self._calls)

    @property
    def cancel_requested(self) -> bool:
        """Whether anybody told us of a cancel."""
        return self._cancel_requested or self._signals.cancel_requested

    def calls_of(self, step_number: int) -> list[ToolCall]:
        """The calls of a step, in order of their position."""
        calls = [call for call in self._calls.values() if call.step_number == step_number]
        return sorted(calls, key=lambda call: call.position)

    @property
    def calls(self) -> list[ToolCall]:
        """All calls, in the order in which they came into the log."""
        return list(self._calls.values())

    def reviews_of(self, call: ToolCall) -> list[Review]:
        """All questions about ``call``, oldest first."""
        return [
            review
            for review in self._reviews.values()
            if (review.step_number, review.position) == (call.step_number, call.position)
        ]

    # ------------------------------------------------------------------------------------------- writing

    def append(self, entry: Entry) -> asyncio.Future[Verdict]:
        """Write without waiting."""
        now = self._clock.monotonic()
        active_ms = max(0, round((now - self._recorded_until) * 1000))
        self._recorded_until += active_ms / 1000  # what was rounded off is not lost
        self._apply(entry)
        verdict = asyncio.ensure_future(self._log.append(replace(entry, active_ms=active_ms)))
        verdict.add_done_callback(self._notice)
        self._unconfirmed.append((entry, verdict))
        return verdict

    async def commit(self, entry: Entry) -> Verdict:
        """Write, and wait until it is durable.

        :raises Ending: the database says stop: nothing of the entry's intents holds.
        :raises Fenced: nothing was stored.
        """
        verdict = self.append(entry)
        await self.confirm()
        return verdict.result()

    async def confirm(self) -> None:
        """Wait until all that was written is durable.

        :raises Ending: the database says stop.
        :raises Fenced: the run belongs to someone else.
        :raises StoreError: an entry can't be stored.
        """
        while self._unconfirmed:
            await self._confirm_first()

    async def confirm_steps(self) -> None:
        """Wait until all written steps are durable; what was written after them may still be on its way.

        :raises Ending: the database says stop.
        :raises Fenced: the run belongs to someone else.
        """
        while any(entry.step is not None for entry, _ in self._unconfirmed):
            await self._confirm_first()

    def checkpoint(self) -> None:
        """Look at what has come in meanwhile, without waiting.

        :raises Ending: the database says stop, or a cancel was requested.
        :raises Fenced: the run belongs to someone else.
        """
        while self._unconfirmed and self._unconfirmed[0][1].done():
            self._digest_first()
        if self.cancel_requested:
            raise cancelled()

    def is_to_run(self, call: ToolCall) -> bool:
        """Whether the database let the intent of ``call`` stand: it may also have asked a person instead."""
        known = self._calls.get((call.step_number, call.position))
        return known is not None and known.status == "running"

    def mark_started(self, call: ToolCall, answer: Started) -> ToolCall:
        """The call as the database started it, with the arguments that are to be run."""
        call = replace(
            call, status="running", input=answer.input, edited=answer.edited, attempt=answer.attempt
        )
        self._calls[call.step_number, call.position] = call
        return call

    # ------------------------------------------------------------------------------------------- details

    async def _confirm_first(self) -> None:
        verdict = self._unconfirmed[0][1]
        if not verdict.done():
            await until_any((verdict,))  # unlike `await verdict`, leaves it alone when we are cancelled
        self._digest_first()

    def _digest_first(self) -> None:
        entry, answer = self._unconfirmed.popleft()
        if answer.exception() is not None:
            self.broken = True
            self.owes = self.owes or (self.budgeted and entry.step is not None)
        verdict = answer.result()
        if verdict.kind == "fenced":
            raise Fenced
        if verdict.cancel_requested:
            self._cancel_requested = True
        if verdict.kind == "stop":
            for call in entry.calls:
                if call.status not in FINAL:
                    self._calls.pop((call.step_number, call.position), None)  # the intent was not stored
            raise stopped(verdict)
        self.budgeted = verdict.budgeted
        if verdict.kind == "continue":
            self._take_present(verdict)
        if verdict.messages:
            delivered = {message for step in self.steps for message in step.delivered}
            self.inbox.update(
                {message.id: message for message in verdict.messages if message.id not in delivered}
            )

    def _take_present(self, verdict: Verdict) -> None:
        """The run's calls and reviews as the database has them, and upon them what it has not answered yet."""
        self._calls.update({(call.step_number, call.position): call for call in verdict.calls})
        if verdict.reviews:
            self._reviews = {review.id: review for review in verdict.reviews}
        for entry, _ in self._unconfirmed:
            self._apply_to_calls(entry)

    def _notice(self, verdict: asyncio.Future[Verdict]) -> None:
        """Called when a verdict is there, maybe in the middle of a long wait."""
        if verdict.cancelled():
            return
        failed = verdict.exception() is not None
        if failed or verdict.result().kind in ("stop", "fenced") or verdict.result().cancel_requested:
            self._interrupt()

    async def _interrupt_on_cancel(self) -> None:
        if not self.cancel_requested:
            await self._signals.wait_for_cancel()
        self._interrupt()

    def _interrupt(self) -> None:
        if not self.interrupted.done():
            self.interrupted.set_result(None)

    def _apply(self, entry: Entry) -> None:
        if entry.step is not None:
            self.steps.append(entry.step)
            self._tokens += _tokens_of(entry.step)
            self._cost_usd += entry.step.cost_usd
            self.owes = False
            for message in entry.step.delivered:
                self.inbox.pop(message, None)
        self._apply_to_calls(entry)

    def _apply_to_calls(self, entry: Entry) -> None:
        for call in entry.calls:
            self._calls[call.step_number, call.position] = call
        for result in entry.results:
            self._apply_result(result)
        for review in entry.reviews:
            self._apply_review(review)

    def _apply_result(self, result: Result) -> None:
        call = self._calls.get((result.step_number, result.position))
        if call is None:
            return  # its intent was not stored: the run is about to end
        self._calls[call.step_number, call.position] = replace(
            call,
            status=result.status,
            output=result.output,
            shown=result.shown,
            error=result.error,
            latency_ms=result.latency_ms,
        )

    def _apply_review(self, review: OpenReview) -> None:
        key = (review.step_number, review.position)
        if review.kind != "unknown_outcome":
            self._calls[key] = replace(self._calls[key], status="awaiting_review")


def _tokens_of(step: Step) -> int:
    return step.usage.input_tokens + step.usage.output_tokens
