"""One step: what is said to the model, and what follows from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from runhold.agents import Agent
from runhold.loop.answers import (
    MAX_CORRECTIONS,
    FinalAnswer,
    UnusableAnswer,
    corrections_in_a_row,
    final_answer,
    read_answer,
)
from runhold.loop.ask import Asker, Injected
from runhold.loop.calls import CallRunner
from runhold.loop.canonical import clean_text
from runhold.loop.conversation import Conversation
from runhold.loop.endings import Ending, completed, failed, paused
from runhold.loop.guard import Allowance, Guard
from runhold.loop.journal import FINAL, Journal
from runhold.loop.patterns import NUDGE_AT, Repetition, failing_tool
from runhold.loop.plan import Planner
from runhold.loop.ports import Entry, JsonObject, ProgressSink, Step, ToolCall
from runhold.loop.reserve import Reserver
from runhold.loop.user_access import UserAccess

_LAND_TEXT: Final = (
    "[Runhold] This run has nearly used up a limit. This is your last message: you can't call tools any more. "
    "Give the best answer that you can with what you have, and say what is missing."
)
_AGAIN_TEXT: Final = "[Runhold] Your last answer can't be used: {problem} Answer again."
_LOOP_TEXT: Final = (
    "[Runhold] You have called {tool} with the same arguments {times} times in a row. Calling it again gives "
    "nothing new: do something else, or answer. If you repeat the call once more, the run is ended."
)


class Thinker:
    """Takes a run from one settled step to the next."""

    def __init__(
        self,
        *,
        agent: Agent,
        journal: Journal,
        conversation: Conversation,
        asker: Asker,
        reserver: Reserver,
        guard: Guard,
        planner: Planner,
        runner: CallRunner,
        progress: ProgressSink | None,
        access: UserAccess,
    ) -> None:
        self._agent = agent
        self._journal = journal
        self._conversation = conversation
        self._asker = asker
        self._reserver = reserver
        self._guard = guard
        self._planner = planner
        self._runner = runner
        self._progress = progress
        self._access = access
        self._repetition = Repetition(self._since_resumed(journal.steps))
        self._rendered = 0

    async def take_step(self) -> None:
        """Ask the model, record its decision, run what it asks for.

        :raises Ending: that was the last step, or there may be no other.
        :raises Fenced: the run is someone else's.
        """
        self._catch_up()
        injected = self._injections()
        allowance = await self._allowance(injected)
        if allowance.landing is not None:
            injected.messages.append(_say(_LAND_TEXT))
        step = await self._asker.ask(injected, allowance)
        await self._journal.confirm_steps()
        self._repetition.add(step.message)
        self._tell(step)
        if allowance.landing is not None:
            self._land(step, allowance.landing)
        elif step.message.get("tool_calls"):
            await self._follow_calls(step)
        else:
            self._follow_answer(step)

    async def _allowance(self, injected: Injected) -> Allowance:
        """What the call may use.

        :raises Ending: a limit or budget leaves no room for it. An answer that is there already is then the last word.
        :raises Fenced: the run is someone else's.
        """
        try:
            return await self._reserver.reserve(self._asker.allowance(injected))
        except Ending as ending:
            steps = self._journal.steps
            answer = final_answer(self._agent, steps[-1]) if steps else None
            if answer is None or ending.transition.to != "failed":
                raise
            raise completed(answer.result, final=True) from None

    def _since_resumed(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The steps that count for patterns: whoever retries or forks a run gives the model another chance."""
        return [step for step in steps if step.step_number > self._journal.run.resumed_after_step]

    def _catch_up(self) -> None:
        """Add to the conversation what was settled since the last call."""
        for step in self._journal.steps[self._rendered :]:
            self._conversation.add(step, self._journal.calls_of(step.step_number))
        self._rendered = len(self._journal.steps)

    def _injections(self) -> Injected:
        """Nudges, corrections and messages of people: a pure function of the log and the inbox."""
        messages: list[JsonObject] = []
        repeated = self._repetition.repeated_tool(NUDGE_AT)
        if repeated is not None:
            messages.append(_say(_LOOP_TEXT.format(tool=repeated, times=NUDGE_AT)))
        last = self._journal.steps[-1] if self._journal.steps else None
        if last is not None and not last.message.get("tool_calls"):
            answer = read_answer(self._agent, last)
            if isinstance(answer, UnusableAnswer):
                messages.append(_say(_AGAIN_TEXT.format(problem=answer.problem)))
        inbox = list(self._journal.inbox.values())
        messages.extend(_say(clean_text(message.content)) for message in inbox)
        return Injected(messages=messages, delivered=[message.id for message in inbox])

    def _land(self, step: Step, limit: str) -> None:
        """:raises Ending: always. The model's last word is the result, or the limit has ended the run."""
        answer = read_answer(self._agent, step)
        if isinstance(answer, FinalAnswer):
            raise completed(answer.result, Entry(step=step), final=True)
        raise self._guard.exceeded(limit, Entry(step=step))

    def _follow_answer(self, step: Step) -> None:
        entry, answer = Entry(step=step), read_answer(self._agent, step)
        if isinstance(answer, FinalAnswer):
            if not self._journal.inbox:
                raise completed(answer.result, entry)
            # somebody spoke meanwhile: the model shall hear it before it ends
        else:
            corrections = corrections_in_a_row(self._agent, self._since_resumed([*self._journal.steps, step]))
            if answer.code != "INVALID_OUTPUT" or corrections > MAX_CORRECTIONS:
                raise failed(answer.code, answer.problem, entry, step=step.step_number)
        self._journal.append(entry)

    async def _follow_calls(self, step: Step) -> None:
        """Record the step with its calls, run those that need nobody, and wait for people if any do."""
        self._require_allowed(step)
        planned = await self._planner.plan(step.message, step.step_number)
        self._access.require(Entry(step=step, calls=[_not_begun(plan.call) for plan in planned]))
        works = [plan.work for plan in planned if plan.work is not None]
        entry = Entry(
            step=step,
            calls=[plan.call for plan in planned],
            reviews=[plan.review for plan in planned if plan.review is not None],
        )
        for plan in planned:
            if plan.work is None:
                self._runner.tell(plan.call, plan.call.status)
        if entry.reviews and not works:
            raise paused(entry)
        self._journal.append(entry)
        await self._runner.run(works)
        self._require_working_tools(step)
        self._journal.checkpoint()  # what a cancel cut off waits for nobody
        if any(call.status not in FINAL for call in self._journal.calls_of(step.step_number)):
            raise paused()

    def _require_allowed(self, step: Step) -> None:
        """:raises Ending: none of the step's calls may run; only the step itself is recorded."""
        only_step = Entry(step=step)
        if step.finish_reason == "content_filter":
            raise failed("CONTENT_FILTERED", "The provider's content filter cut the answer off.", only_step)
        self._guard.allow_tool_calls(only_step)
        repeated = self._repetition.repeated_tool(NUDGE_AT + 1)
        if repeated is not None:
            raise failed(
                "LOOP_DETECTED",
                f"The model called {repeated} with the same arguments {NUDGE_AT + 1} times in a row.",
                only_step,
                tool=repeated,
                step=step.step_number,
            )

    def _require_working_tools(self, step: Step) -> None:
        """:raises Ending: a tool of this step only fails."""
        if all(call.status != "failed" for call in self._journal.calls_of(step.step_number)):
            return
        resumed_after = self._journal.run.resumed_after_step
        failing = failing_tool([call for call in self._journal.calls if call.step_number > resumed_after])
        if failing is not None:
            raise failed(
                "TOOL_FAILED",
                f"The tool {failing.tool_name} failed three times in a row: {failing.error}",
                tool=failing.tool_name,
                step=step.step_number,
            )

    def _tell(self, step: Step) -> None:
        if self._progress is not None:
            tokens = self._journal.tokens + step.usage.input_tokens + step.usage.output_tokens
            self._progress("step", {"step": step.step_number, "tokens": tokens})


def _say(text: str) -> JsonObject:
    return {"content": text, "role": "user"}


def _not_begun(call: ToolCall) -> ToolCall:
    """``call`` as whoever claims the run next finds it, and decides whether a person must agree."""
    return call if call.status in FINAL else replace(call, status="pending", attempt=0)
