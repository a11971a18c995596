"""Before the model is called, what it may use is reserved in the run's budgets: then no number of runs, on any number
of workers, spends what is not there.

Only a run that a budget matches pays for this, with one round trip a step. What becomes of a reservation:

    reserve ──granted──► the model is called ──answered──► the step is recorded: charged by what it used
       │                     │    └──outage, refusal─────► given back: nothing was served
       │                     └──never answered, or the answer is not recorded: charged as estimated
       ├──granted, and the run ends before the call──────► given back
       └──not granted: the run fails, or waits in the queue
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from runhold.agents import Limits
from runhold.loop.cost import ModelCost
from runhold.loop.endings import Ending, failed, released
from runhold.loop.guard import Allowance
from runhold.loop.journal import Journal
from runhold.loop.ports import Entry, JsonObject, Reserve, Reserved, Usage

_WHOSE: Final = {
    "user": " of the run's user",
    "type": " of the agent type",
    "tenant": " of the tenant",
    "all": " of all runs",
}
_WHEN: Final = {"day": " for today", "month": " for this month"}


class Reserver:
    """Reserves for the calls of one run."""

    def __init__(self, journal: Journal, limits: Limits, cost: ModelCost) -> None:
        self._journal = journal
        self._limits = limits
        self._cost = cost

    async def reserve(self, allowance: Allowance) -> Allowance:
        """``allowance`` within what the run's budgets grant; at once and as it is if none matches the run.

        :raises Ending: they have no room for the call; or the database says stop, or a cancel was requested.
        :raises Fenced: the run is someone else's.
        """
        while self._journal.budgeted:
            verdict = await self._journal.commit(Entry(reserve=self._request(allowance)))
            self._journal.checkpoint()
            reserved = verdict.reserved
            if reserved is None:
                continue  # the last budget that matched is gone; or what was written with it came to nothing
            if not reserved.granted:
                raise self._refused(reserved)
            return replace(allowance, max_output_tokens=self._bound(allowance, reserved), is_reserved=True)
        return allowance

    def _request(self, allowance: Allowance) -> Reserve:
        given, most = allowance.input_tokens, allowance.max_output_tokens
        least = min(self._limits.min_output_tokens, most)
        return Reserve(
            min_tokens=given + least,
            max_tokens=given + most,
            min_usd=self._usd(given, least),
            max_usd=self._usd(given, most),
        )

    def _usd(self, input_tokens: int, output_tokens: int) -> float | None:
        usd = self._cost.of(Usage(input_tokens=input_tokens, output_tokens=output_tokens))
        return None if usd is None else float(usd)

    def _bound(self, allowance: Allowance, reserved: Reserved) -> int:
        """How long the answer may be."""
        bound = min(allowance.max_output_tokens, reserved.tokens - allowance.input_tokens)
        if reserved.usd is not None:
            paid_for = self._cost.output_tokens_for(Decimal(str(reserved.usd)), allowance.input_tokens)
            if paid_for is not None and paid_for < bound:
                bound = int(paid_for)
        return max(bound, 1)  # what was granted covers the least that was asked for, but for its rounding

    def _refused(self, reserved: Reserved) -> Ending:
        sentence = self._sentence(reserved)
        if reserved.then == "fail":
            return failed("BUDGET_EXCEEDED", sentence, **reserved.detail)
        waiting: JsonObject = {"waiting_for": "budget", "message": sentence, **reserved.detail}
        return released("budget", delay_s=reserved.delay_ms / 1000, detail=waiting)

    def _sentence(self, reserved: Reserved) -> str:
        """Why there is no room, for people. Numbers stand in the detail, of those budgets that are the owner's."""
        detail, step = reserved.detail, self._journal.step_number + 1
        whose, when = _WHOSE.get(detail.get("scope", ""), ""), _WHEN.get(detail.get("period", ""), "")
        budget = f"budget{whose}{when}"
        match detail.get("reason"):
            case "no_price":
                return f"The {budget} is in USD, and no price of the model {self._cost.model} is known."
            case "reserved_by_others":
                return f"Other runs have reserved what is left of the {budget}; step {step} waits for what they leave."
            case "answer_lost":
                return f"The answer to what step {step} reserved was lost; it will reserve anew."
            case _:
                return f"Step {step} does not fit into what is left of the {budget}."
