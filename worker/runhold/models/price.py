"""The price of a model, and what a call costs by it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from runhold.loop.ports import Usage

_MILLION: Final = Decimal(1_000_000)
_MICRO_DOLLAR: Final = Decimal("0.000001")
"""``cost_usd`` is ``numeric(14,6)`` in the database, which rounds half away from zero as we do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """USD per million tokens; a row of ``model_prices``.

    :ivar cached_input_usd: of input that the provider had in its cache.
    :ivar request_usd: USD of each call beside its tokens. Few providers ask for that, and rows can't say it.
    """

    input_usd: Decimal
    cached_input_usd: Decimal
    output_usd: Decimal
    request_usd: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in ("input_usd", "cached_input_usd", "output_usd", "request_usd"):
            value = getattr(self, name)
            if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
                raise ValueError(f"{name} must be a Decimal of zero or more, not {value!r}")

    def of(self, usage: Usage) -> Decimal:
        """What ``usage`` costs in USD, rounded to 6 places."""
        cached = min(usage.cached_tokens, usage.input_tokens)
        usd = (
            (usage.input_tokens - cached) * self.input_usd
            + cached * self.cached_input_usd
            + usage.output_tokens * self.output_usd
        ) / _MILLION + self.request_usd
        return usd.quantize(_MICRO_DOLLAR, ROUND_HALF_UP)
