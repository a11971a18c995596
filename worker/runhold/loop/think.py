"""One step: what is said to the model, its answer, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from runhold.agents import Agent, Limits
from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.answers import (
    MAX_CORRECTIONS,
    FinalAnswer,
    UnusableAnswer,
    corrections_in_a_row,
    read_answer,
)
from runhold.loop.calls import CallRunner
from runhold.loop.canonical import clean, clean_text
from runhold.loop.conversation import LANDING, Conversation, estimate_tokens
from runhold.loop.endings import completed, failed, paused
from runhold.loop.guard import Allowance, Guard
from runhold.loop.journal import FINAL, Journal
from runhold.loop.outage import outage_ending
from runhold.loop.patterns import NUDGE_AT, Repetition, failing_tool
from runhold.loop.plan import Planner
from runhold.loop.ports import (
    ChatModel,
    Clock,
    Definition,
    Entry,
    JsonObject,
    ModelReply,
    PriceFunction,
    ProgressSink,
    Step,
    Usage,
)

_LAND_TEXT: Final = (
    "[Runhold] This run has nearly used up a limit. This is your last message: you can't call tools any "
    "more. Give the best answer that you can with what you have, and say what is missing."
)
_AGAIN_TEXT: Final = "[Runhold] Your last answer can't be used: {problem} Answer again."
_LOOP_TEXT: Final = (
    "[Runhold] You have called {tool} with the same arguments {times} times in a row. Calling it again gives "
    "nothing new: do something else, or answer. If you repeat the call once more, the run is ended."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """What the loop adds to the conversation before a step."""

    messages: list[JsonObject]
    delivered: list[UUID]


class Thinker:
    """Takes a run from one settled step to the next."""

    def __init__(
        self,
        *,
        agent: Agent,
        definition: Definition,
        limits: Limits,
        journal: Journal,
        conversation: Conversation,
        guard: Guard,
        planner: Planner,
        runner: CallRunner,
        model: ChatModel,
        clock: Clock,
        price: PriceFunction,
        progress: ProgressSink | None,
    ) -> None:
        self._agent = agent
        self._definition = definition
        self._limits = limits
        self._journal = journal
        self._conversation = conversation
        self._guard = guard
        self._planner = planner
        self._runner = runner
        self._model = model
        self._clock = clock
        self._price = price
        self._progress = progress
        self._repetition = Repetition(journal.steps)
        self._rendered = 0

    async def take_step(self) -> None:
        """Ask the model, record its decision, run what it asks for.

        :raises Ending: that was the last step, or there may be no other.
        :raises Fenced: the run is someone else's.
        """
        self._catch_up()
        injected = self._injections()
        input_tokens = self._conversation.estimate_input_tokens(injected.messages)
        allowance = self._guard.allow_model_call(input_tokens, self._answer_cap())
        if allowance.landing is not None:
            injected.messages.append(_say(_LAND_TEXT))
        request_params = self._request_params(allowance)
        body = self._conversation.request(injected.messages, request_params)
        began = self._clock.monotonic()
        reply = await self._ask(body, allowance)
        step = self._step(reply, body, injected, request_params, self._clock.monotonic() - began)
        await self._journal.confirm_steps()
        await self._follow(step, allowance)

    # ---------------------------------------------------------------------------------- before the call

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

    def _answer_cap(self) -> int | None:
        """The agent's own bound for one answer."""
        return self._definition.params.get(self._bound_name())

    def _bound_name(self) -> str:
        return "max_tokens" if "max_tokens" in self._definition.params else "max_completion_tokens"

    def _request_params(self, allowance: Allowance) -> JsonObject:
        params: JsonObject = {self._bound_name(): allowance.max_output_tokens}
        return params if allowance.landing is None else {**params, LANDING: allowance.landing}

    # ----------------------------------------------------------------------------------------- the call

    async def _ask(self, body: JsonObject, allowance: Allowance) -> ModelReply:
        """The model's answer.

        :raises Ending: there is none, or the run must not wait for it any more.
        """
        call = asyncio.ensure_future(
            self._model.complete(body, timeout_s=allowance.timeout_s, on_text=self._on_text())
        )
        try:
            done, _ = await asyncio.wait(
                {call, self._journal.interrupted},
                timeout=allowance.timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if call in done:
                return call.result()
            self._journal.checkpoint()
            raise ModelTimeout("the model did not answer in time")
        except (ModelTimeout, TimeoutError) as error:
            raise self._timed_out(allowance) from error
        except ModelUnavailable as error:
            raise outage_ending(
                error, self._journal.run.outage_since, self._clock.now(), self._limits.model_outage_max_s
            ) from error
        except ModelRejected as error:
            raise failed(
                "MODEL_ERROR",
                clean_text(f"The model's API refused the request: {error}"),
                model=self._definition.model,
                status=error.status,
                step=self._journal.step_number + 1,
            ) from error
        finally:
            if not call.done():
                call.cancel()

    def _timed_out(self, allowance: Allowance) -> Exception:
        if allowance.timeout_code == "TOTAL_TIMEOUT":
            return self._guard.exceeded("total_timeout_s")
        return failed(
            "STEP_TIMEOUT",
            f"The model did not answer within {allowance.timeout_s:g} s.",
            limit="step_timeout_s",
            allowed=self._limits.step_timeout_s,
            used=round(allowance.timeout_s, 3),
            step=self._journal.step_number + 1,
        )

    def _on_text(self) -> Callable[[str], None] | None:
        progress = self._progress
        if progress is None or not progress.wants_text:
            return None
        number = self._journal.step_number + 1
        return lambda text: progress("text", {"step": number, "text": text})

    def _step(
        self,
        reply: ModelReply,
        body: JsonObject,
        injected: Injected,
        request_params: JsonObject,
        seconds: float,
    ) -> Step:
        message: Any = clean(reply.message)
        usage = reply.usage or Usage(
            input_tokens=estimate_tokens(body), output_tokens=estimate_tokens(message), estimated=True
        )
        return Step(
            step_number=self._journal.step_number + 1,
            definition_id=self._definition.id,
            message=message,
            injected=injected.messages,
            request_params=request_params,
            finish_reason=reply.finish_reason,
            usage=usage,
            cost_usd=float(self._price(self._definition.model, usage)),
            latency_ms=round(seconds * 1000),
            delivered=injected.delivered,
        )

    # ----------------------------------------------------------------------------------- after the call

    async def _follow(self, step: Step, allowance: Allowance) -> None:
        """Record the step with all that follows from it."""
        self._repetition.add(step.message)
        if self._progress is not None:
            tokens = self._journal.tokens + step.usage.input_tokens + step.usage.output_tokens
            self._progress("step", {"step": step.step_number, "tokens": tokens})
        if step.message.get("tool_calls") and allowance.landing is None:
            await self._follow_calls(step)
        else:
            self._follow_answer(step, allowance)

    def _follow_answer(self, step: Step, allowance: Allowance) -> None:
        entry, answer = Entry(step=step), read_answer(self._agent, step)
        if isinstance(answer, FinalAnswer):
            if self._journal.inbox and allowance.landing is None:
                # somebody spoke meanwhile: the model shall hear it before it ends
                self._journal.append(entry)
                return
            raise completed(answer.result, entry)
        if allowance.landing is not None:
            raise self._guard.exceeded(allowance.landing, entry)
        corrections = corrections_in_a_row(self._agent, [*self._journal.steps, step])
        if answer.code != "INVALID_OUTPUT" or corrections > MAX_CORRECTIONS:
            raise failed(answer.code, answer.problem, entry, step=step.step_number)
        self._journal.append(entry)

    async def _follow_calls(self, step: Step) -> None:
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
        planned = await self._planner.plan(step.message, step.step_number)
        works = [plan.work for plan in planned if plan.work is not None]
        entry = Entry(
            step=step,
            calls=[plan.call for plan in planned],
            reviews=[plan.review for plan in planned if plan.review is not None],
        )
        if entry.reviews and not works:
            raise paused(entry)
        self._journal.append(entry)
        await self._runner.run(works)
        self._require_working_tools(step)
        if any(call.status not in FINAL for call in self._journal.calls_of(step.step_number)):
            raise paused()

    def _require_working_tools(self, step: Step) -> None:
        """:raises Ending: a tool of this step only fails."""
        if all(call.status != "failed" for call in self._journal.calls_of(step.step_number)):
            return
        broken = failing_tool(self._journal.calls)
        if broken is not None:
            last = next(c for c in reversed(self._journal.calls) if c.tool_name == broken and c.error)
            raise failed(
                "TOOL_FAILED",
                f"The tool {broken} failed three times in a row: {last.error}",
                tool=broken,
                step=step.step_number,
            )


def _say(text: str) -> JsonObject:
    return {"content": text, "role": "user"}
