"""What calls of a run's model cost."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

from runhold.loop.ports import PriceFunction, Usage

_MILLION: Final = 1_000_000


class ModelCost:
    """The price function for one model.

    :ivar model: its name.
    """

    def __init__(self, model: str, price: PriceFunction) -> None:
        self.model = model
        self._price = price

    def of(self, usage: Usage) -> Decimal | None:
        """US dollars, or None if no price of the model is known."""
        return self._price(self.model, usage)

    def output_tokens_for(self, usd: Decimal, input_tokens: int) -> float | None:
        """How long an answer to ``input_tokens`` tokens may be for ``usd`` in all (below 0: there is not even enough to
        ask); None if no price of the model is known."""
        given = self.of(Usage(input_tokens=input_tokens, output_tokens=0))
        million = self.of(Usage(input_tokens=input_tokens, output_tokens=_MILLION))
        if given is None or million is None:
            return None
        left = usd - given
        if million > given:
            return float(left / (million - given) * _MILLION)
        return math.inf if left >= 0 else -1
