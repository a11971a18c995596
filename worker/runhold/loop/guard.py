"""The limits, looked at before anything is spent."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

from msgspec import Struct

from runhold.agents import Limits
from runhold.loop.cost import ModelCost
from runhold.loop.endings import Ending, ErrorCode, failed
from runhold.loop.journal import Journal
from runhold.loop.ports import Entry, Usage

LANDING_AT: Final = 0.9
"""The share of a limit after which a run with ``on_limit="land"`` makes its last call."""

_CODES: Final[dict[str, ErrorCode]] = {
    "max_steps": "MAX_STEPS_EXCEEDED",
    "max_tokens": "MAX_TOKENS_EXCEEDED",
    "max_cost_usd": "MAX_COST_EXCEEDED",
    "max_tool_calls": "MAX_TOOL_CALLS_EXCEEDED",
    "total_timeout_s": "TOTAL_TIMEOUT",
}
_NOTHING: Final = Entry()


class Allowance(Struct, frozen=True, kw_only=True):
    """What the next model call may use.

    :ivar input_tokens: estimated.
    :ivar max_output_tokens: bound of the answer.
    :ivar timeout_s: seconds for the answer.
    :ivar timeout_code: what it means if they pass.
    :ivar landing: the limit that is nearly used up: this call is the last, without tools.
    :ivar is_reserved: budgets granted it, and hold it until it is settled.
    """

    input_tokens: int
    max_output_tokens: int
    timeout_s: float
    timeout_code: ErrorCode
    landing: str | None = None
    is_reserved: bool = False


class Guard:
    """Measures a run's log against its limits."""

    def __init__(self, limits: Limits, journal: Journal, cost: ModelCost) -> None:
        self._limits = limits
        self._journal = journal
        self._cost = cost

    @property
    def seconds_left(self) -> float:
        """Active time left, 0 at least."""
        return max(0.0, self._limits.total_timeout_s - self._journal.active_s)

    def exceeded(self, limit: str, entry: Entry = _NOTHING) -> Ending:
        """The run failed because of ``limit``; ``entry`` holds what it did last and is written with it."""
        allowed, used = getattr(self._limits, limit), self._used(entry)[limit]
        step = self._journal.step_number + 1
        return failed(
            _CODES[limit],
            f"Step {step} does not fit into the limit {limit} = {allowed}: {used} used.",
            entry,
            limit=limit,
            allowed=allowed,
            used=used,
            step=step,
        )

    def allow_model_call(self, input_tokens: int, answer_cap: int | None) -> Allowance:
        """What the next call may use, whose input is estimated at ``input_tokens``.

        :raises Ending: a limit leaves no room for it.
        """
        limits, journal = self._limits, self._journal
        if journal.step_number >= limits.max_steps:
            raise self.exceeded("max_steps")
        if self.seconds_left <= 0:
            raise self.exceeded("total_timeout_s")
        room = limits.max_tokens - journal.tokens - input_tokens
        if room < limits.min_output_tokens:
            raise self.exceeded("max_tokens")
        affordable = self._affordable_output_tokens(input_tokens)
        if affordable < limits.min_output_tokens:
            raise self.exceeded("max_cost_usd")
        landing = self._nearly_used_up(input_tokens) if limits.on_limit == "land" else None
        if limits.on_limit == "land" and landing is None:
            # what this call says is part of the landing's input: leave room for both
            room = (room - input_tokens - limits.min_output_tokens) // 2
            if room < limits.min_output_tokens:
                room, landing = limits.max_tokens - journal.tokens - input_tokens, "max_tokens"
        total_is_nearer = self.seconds_left < limits.step_timeout_s
        return Allowance(
            input_tokens=input_tokens,
            max_output_tokens=math.floor(min(room, affordable, answer_cap or room)),
            timeout_s=min(limits.step_timeout_s, self.seconds_left),
            timeout_code="TOTAL_TIMEOUT" if total_is_nearer else "STEP_TIMEOUT",
            landing=landing,
        )

    def allow_tool_calls(self, entry: Entry) -> None:
        """Whether the step in ``entry``, not in the log yet, may call the tools it asks for.

        :raises Ending: it spent more than there was, or the calls are too many. ``entry`` is written with it.
        """
        used = self._used(entry)
        for limit in ("max_tokens", "max_cost_usd", "max_tool_calls"):
            allowed = getattr(self._limits, limit)
            if allowed is not None and used[limit] > allowed:
                raise self.exceeded(limit, entry)

    def _used(self, entry: Entry = _NOTHING) -> dict[str, float]:
        """What the log and ``entry`` have used, by the name of the limit."""
        journal, step = self._journal, entry.step
        usage = Usage(input_tokens=0, output_tokens=0) if step is None else step.usage
        asked = () if step is None else step.message.get("tool_calls") or ()
        return {
            "max_steps": journal.step_number + (step is not None),
            "max_tokens": journal.tokens + usage.input_tokens + usage.output_tokens,
            "max_cost_usd": round(journal.cost_usd + (0 if step is None else step.cost_usd), 6),
            "max_tool_calls": journal.call_count + len(asked),
            "total_timeout_s": round(journal.active_s, 3),
        }

    def _affordable_output_tokens(self, input_tokens: int) -> float:
        """:raises Ending: no price of the model is known: a limit that can't hold lets nothing pass."""
        limit = self._limits.max_cost_usd
        if limit is None:
            return math.inf
        left = Decimal(str(limit)) - Decimal(str(self._journal.cost_usd))
        tokens = self._cost.output_tokens_for(left, input_tokens)
        if tokens is None:
            model, step = self._cost.model, self._journal.step_number + 1
            raise failed(
                "MAX_COST_EXCEEDED",
                f"The limit max_cost_usd = {limit} can't hold: no price of the model {model} is known.",
                limit="max_cost_usd",
                allowed=limit,
                used=self._used()["max_cost_usd"],
                reason="no_price",
                model=model,
                step=step,
            )
        return tokens

    def _nearly_used_up(self, input_tokens: int) -> str | None:
        """The first limit of which the next call would be the last that is safe to make."""
        used = self._used()
        used["max_tokens"] += input_tokens
        if used["max_steps"] == self._limits.max_steps - 1:
            return "max_steps"  # however few steps there are, the last one is for landing
        for limit, amount in used.items():
            allowed = getattr(self._limits, limit)
            if allowed and amount >= LANDING_AT * allowed:
                return limit
        return None
