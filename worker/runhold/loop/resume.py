"""Settle the calls of the last step that a claim, or a decision, left open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from runhold.agents import Agent, InvalidArguments
from runhold.loop.calls import CallRunner
from runhold.loop.endings import cancelled, failed, paused, released
from runhold.loop.execute import Work
from runhold.loop.guard import Guard
from runhold.loop.journal import FINAL, Journal
from runhold.loop.plan import Planner
from runhold.loop.ports import Entry, OpenReview, Result, Start, Started, ToolCall
from runhold.loop.user_access import UserAccess

MISSING_TOOL_DELAY_S = 5.0
"""Time for a worker that has the tool to be started, or to come by. The database doubles it from time to time."""

MAX_ASKED_AGAIN = 2
"""How often a reviewer whose changed arguments do not fit the tool is asked once more."""

MAX_FRUITLESS = 5
"""How often in a row the database may say that nothing is left to wait for while a call still waits."""


class Resumer:
    """Goes on with calls that are in the log, whatever state they are in."""

    def __init__(
        self,
        agent: Agent,
        journal: Journal,
        guard: Guard,
        planner: Planner,
        runner: CallRunner,
        access: UserAccess,
    ) -> None:
        self._agent = agent
        self._guard = guard
        self._journal = journal
        self._planner = planner
        self._runner = runner
        self._access = access
        self._fruitless = 0

    @property
    def open_calls(self) -> list[ToolCall]:
        """The calls of the last step that have no final status."""
        calls = self._journal.calls_of(self._journal.step_number)
        return [call for call in calls if call.status not in FINAL]

    async def settle(self) -> None:
        """Start what may start, run it, and ask people what must be asked.

        :raises Ending: calls wait for people, a tool is missing, a reviewer stopped the run, or a limit did.
        :raises Fenced: the run is someone else's.
        """
        calls = self.open_calls
        self._require_not_stopped(calls)
        start = [call for call in calls if self._may_start(call)]
        ask = [review for call in calls if (review := await self._to_ask(call)) is not None]
        self._access.require()
        asked = {(review.step_number, review.position) for review in ask}
        start = [call for call in start if (call.step_number, call.position) not in asked]
        lost = [
            _result(call, "unknown", "the worker was lost while this call ran")
            for call in calls
            if call.status == "running" and call.effect == "unsafe"
        ]
        if start or ask or lost:
            self._fruitless = 0
            await self._journal.confirm()
            if start:
                await self._require_free_way()
            starts = [Start(step_number=call.step_number, position=call.position) for call in start]
            verdict = await self._journal.commit(Entry(starts=starts, reviews=ask, results=lost))
            await self._run_started(start, verdict.started)
        self._journal.checkpoint()  # what a cancel cut off waits for nobody
        if self.open_calls:
            self._fruitless += 1
            if self._fruitless > MAX_FRUITLESS:
                raise failed(
                    "INTERNAL_ERROR",
                    "A call waits for a review that nobody can decide.",
                    step=self._journal.step_number,
                )
            raise paused()
        self._fruitless = 0

    # ------------------------------------------------------------------------------------------- details

    async def _require_free_way(self) -> None:
        """:raises Ending: nothing may start now. An approval that can't be followed must not be used up."""
        match await self._runner.obstacle():
            case "cancelled":
                raise cancelled()
            case "no_time":
                raise self._guard.exceeded("total_timeout_s")
            case "lease":
                raise released("lease_ending")
            case None:
                return

    def _require_not_stopped(self, calls: list[ToolCall]) -> None:
        """:raises Ending: a person said *stop* about an unknown outcome, or said nothing in time."""
        for call in calls:
            reviews = self._journal.reviews_of(call) if call.status == "unknown" else []
            last = reviews[-1] if reviews else None
            if last is not None and last.status in ("rejected", "expired"):
                stopped = last.status == "rejected"
                raise failed(
                    "STOPPED_BY_REVIEWER" if stopped else "REVIEW_EXPIRED",
                    f"A reviewer stopped the run because the outcome of {call.tool_name} is unknown."
                    if stopped
                    else f"Nobody said in time whether {call.tool_name} took effect.",
                    tool=call.tool_name,
                    step=call.step_number,
                    comment=last.comment,
                )

    def _may_start(self, call: ToolCall) -> bool:
        """:raises Ending: the call could start, but this agent has no such tool (any more)."""
        if call.status == "awaiting_review":
            ready = any(
                review.status == "approved" and not review.used and review.kind != "question"
                for review in self._journal.reviews_of(call)
            )
        else:
            ready = call.status == "pending" or (call.status == "running" and call.effect != "unsafe")
        if ready and self._agent.tool(call.tool_name) is None:
            raise released(
                "missing_tool",
                delay_s=MISSING_TOOL_DELAY_S,
                detail={
                    "waiting_for": "tool",
                    "tool": call.tool_name,
                    "message": f"The run waits for a worker with the tool {call.tool_name} of {self._agent.type}.",
                },
            )
        return ready

    async def _to_ask(self, call: ToolCall) -> OpenReview | None:
        """The question to be put about a call that nobody was asked about, or not about its present state."""
        reviews = self._journal.reviews_of(call)
        if call.status == "unknown":
            asked = any(review.kind == "unknown_outcome" and review.status == "pending" for review in reviews)
            return None if asked else _what_happened(call)
        tool = self._agent.tool(call.tool_name)
        if call.status != "pending" or tool is None or any(review.used for review in reviews):
            return None
        # An operator may have gated the tool since the call was recorded.
        try:
            gated = tool.asks_person or await self._planner.needs_approval(self._planner.prepare(call, tool))
        except InvalidArguments:
            return None  # it fails when it is started
        return self._planner.question(call, tool) if gated else None

    async def _run_started(self, calls: list[ToolCall], answers: Sequence[Started]) -> None:
        """Run, exactly, the arguments that the database answered, where it says that they may run."""
        started = {(answer.step_number, answer.position): answer for answer in answers}
        works: list[Work] = []
        ask: list[OpenReview] = []
        failures: list[Result] = []
        for call in calls:
            tool, answer = self._agent.tool(call.tool_name), started.get((call.step_number, call.position))
            if tool is None or answer is None:
                continue
            if not answer.taken:
                if answer.reason == "changed_since_review":
                    ask.append(self._planner.question(call, tool, because="What was approved has changed."))
                continue
            call = self._journal.mark_started(call, answer)
            try:
                works.append(self._planner.prepare(call, tool))
            except InvalidArguments as error:
                if answer.edited and self._times_approved(call) <= MAX_ASKED_AGAIN:
                    because = f"The changed arguments do not fit: {error}"
                    ask.append(self._planner.question(call, tool, because=because))
                else:
                    failures.append(_result(call, "failed", str(error)))
        if ask or failures:
            await self._journal.commit(Entry(reviews=ask, results=failures))
        await self._runner.run(works)

    def _times_approved(self, call: ToolCall) -> int:
        reviews = self._journal.reviews_of(call)
        return sum(review.kind == "approval" and review.status == "approved" for review in reviews)


def _result(call: ToolCall, status: Literal["failed", "unknown"], error: str) -> Result:
    return Result(step_number=call.step_number, position=call.position, status=status, error=error)


def _what_happened(call: ToolCall) -> OpenReview:
    return OpenReview(
        step_number=call.step_number,
        position=call.position,
        kind="unknown_outcome",
        summary=f"Did {call.tool_name} happen?",
    )
