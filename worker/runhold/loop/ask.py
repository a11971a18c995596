"""One call of the model, within its time and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from msgspec import Struct

from runhold.agents import Limits
from runhold.errors import ModelRejected, ModelTimeout, ModelUnavailable
from runhold.loop.canonical import clean, clean_text
from runhold.loop.conversation import Conversation, estimate_tokens, output_bound
from runhold.loop.cost import ModelCost
from runhold.loop.endings import Ending, failed
from runhold.loop.guard import Allowance, Guard
from runhold.loop.journal import Journal
from runhold.loop.outage import outage_ending
from runhold.loop.ports import (
    ChatModel,
    Clock,
    Definition,
    JsonObject,
    ModelReply,
    ProgressSink,
    Step,
    Usage,
)
from runhold.loop.waiting import until_any


class Injected(Struct, frozen=True, kw_only=True):
    """What the loop adds to the conversation before a step; ``delivered`` are the messages of people in it."""

    messages: list[JsonObject]
    delivered: list[UUID]


class Asker:
    """Asks the model for the next step of a run."""

    def __init__(
        self,
        *,
        definition: Definition,
        conversation: Conversation,
        model: ChatModel,
        journal: Journal,
        guard: Guard,
        limits: Limits,
        clock: Clock,
        cost: ModelCost,
        progress: ProgressSink | None,
    ) -> None:
        self._definition = definition
        self._conversation = conversation
        self._model = model
        self._journal = journal
        self._guard = guard
        self._limits = limits
        self._clock = clock
        self._cost = cost
        self._progress = progress

    def allowance(self, injected: Injected) -> Allowance:
        """What the call may use.

        :raises Ending: a limit leaves no room for it.
        """
        input_tokens = self._conversation.estimate_input_tokens(injected.messages)
        return self._guard.allow_model_call(
            input_tokens, self._definition.params.get(output_bound(self._definition))
        )

    async def ask(self, injected: Injected, allowance: Allowance) -> Step:
        """The next step, not yet in the log.

        :raises Ending: the model gives none, or the run must not wait for it any more.
        """
        on_text = self._on_text()
        body = self._conversation.request(
            injected.messages,
            max_output_tokens=allowance.max_output_tokens,
            landing=allowance.landing is not None,
        )
        self._journal.owes = allowance.is_reserved
        began = self._clock.monotonic()
        reply = await self._reply(body, allowance, on_text)
        seconds = self._clock.monotonic() - began
        message = clean(reply.message)
        usage = reply.usage or Usage(
            input_tokens=estimate_tokens(body), output_tokens=estimate_tokens(message), estimated=True
        )
        return Step(
            step_number=self._journal.step_number + 1,
            definition_id=self._definition.id,
            message=message,
            injected=injected.messages,
            max_output_tokens=allowance.max_output_tokens,
            streamed=on_text is not None,
            landing=allowance.landing,
            finish_reason=reply.finish_reason,
            usage=usage,
            cost_usd=float(self._cost.of(usage) or 0),
            latency_ms=round(seconds * 1000),
            delivered=injected.delivered,
        )

    async def _reply(
        self, body: JsonObject, allowance: Allowance, on_text: Callable[[str], None] | None
    ) -> ModelReply:
        call = asyncio.ensure_future(
            self._model.complete(body, timeout_s=allowance.timeout_s, on_text=on_text)
        )
        try:
            await until_any((call, self._journal.interrupted), allowance.timeout_s)
            if call.done():
                return call.result()
            self._journal.checkpoint()
            raise ModelTimeout("the model did not answer in time")
        except (ModelTimeout, TimeoutError) as error:
            raise self._timed_out(allowance) from error
        except ModelUnavailable as error:
            self._journal.owes = False
            since, patience_s = self._journal.run.outage_since, self._limits.model_outage_max_s
            if self._journal.steps[len(self._journal.run.steps) :]:
                since = None  # a step since then: this is a new outage
            raise outage_ending(
                error, self._definition.model, since, self._clock.now(), patience_s
            ) from error
        except ModelRejected as error:
            self._journal.owes = False
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

    def _timed_out(self, allowance: Allowance) -> Ending:
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
