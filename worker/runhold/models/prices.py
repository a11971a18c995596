"""What a model call costs, from the tokens that it used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final, NamedTuple

from runhold.loop.ports import Usage

_MILLION: Final = Decimal(1_000_000)
_MICRO_DOLLAR: Final = Decimal("0.000001")
"""``cost_usd`` is ``numeric(14,6)`` in the database, which rounds half away from zero as we do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """USD per million tokens; a row of ``model_prices``.

    :ivar cached_input_usd: of input that the provider had in its cache.
    """

    input_usd: Decimal
    cached_input_usd: Decimal
    output_usd: Decimal

    def __post_init__(self) -> None:
        for name in ("input_usd", "cached_input_usd", "output_usd"):
            value = getattr(self, name)
            if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
                raise ValueError(f"{name} must be a Decimal of zero or more, not {value!r}")


class Cost(NamedTuple):
    """What a call costs.

    :ivar usd: rounded to 6 places.
    :ivar known: false if nobody told the model's price; ``usd`` is then 0, and cost limits do not hold.
    """

    usd: Decimal
    known: bool


class Prices:
    """Prices by model name: those given, over the built-in ones of OpenAI's common models."""

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        """
        :param prices: wins over the built-in table, name by name. A dated name that is not listed, such as
            ``gpt-5-mini-2025-08-07``, costs what the name without its date does.
        """
        self._prices = BUILT_IN | dict(prices or {})

    def price(self, model: str) -> Price | None:
        """The price of ``model``, or None if it is not known."""
        return self._prices.get(model) or self._prices.get(_undated(model))

    def cost(self, model: str, usage: Usage) -> Cost:
        """What ``usage`` of ``model`` costs."""
        price = self.price(model)
        if price is None:
            return Cost(Decimal(0), known=False)
        cached = min(usage.cached_tokens, usage.input_tokens)
        usd = (
            (usage.input_tokens - cached) * price.input_usd
            + cached * price.cached_input_usd
            + usage.output_tokens * price.output_usd
        ) / _MILLION
        return Cost(usd.quantize(_MICRO_DOLLAR, ROUND_HALF_UP), known=True)


def _undated(model: str) -> str:
    """``name-2025-08-07`` → ``name``."""
    name, *date = model.rsplit("-", 3)
    is_date = [len(part) for part in date] == [4, 2, 2] and all(part.isdecimal() for part in date)
    return name if is_date else model


def _price(input_usd: str, cached_input_usd: str, output_usd: str) -> Price:
    return Price(
        input_usd=Decimal(input_usd),
        cached_input_usd=Decimal(cached_input_usd),
        output_usd=Decimal(output_usd),
    )


BUILT_IN: Final[dict[str, Price]] = {
    # List prices of the standard tier, as in genai-prices 0.2.3. The last two cost more from 272 000 input
    # tokens on, five times the default budget of a whole run.
    "gpt-4.1": _price("2", "0.5", "8"),
    "gpt-4.1-mini": _price("0.4", "0.1", "1.6"),
    "gpt-4.1-nano": _price("0.1", "0.025", "0.4"),
    "gpt-4o": _price("2.5", "1.25", "10"),
    "gpt-4o-mini": _price("0.15", "0.075", "0.6"),
    "o3": _price("2", "0.5", "8"),
    "o4-mini": _price("1.1", "0.275", "4.4"),
    "gpt-5": _price("1.25", "0.125", "10"),
    "gpt-5-mini": _price("0.25", "0.025", "2"),
    "gpt-5-nano": _price("0.05", "0.005", "0.4"),
    "gpt-5.1": _price("1.25", "0.125", "10"),
    "gpt-5.2": _price("1.75", "0.175", "14"),
    "gpt-5.4-nano": _price("0.2", "0.02", "1.25"),
    "gpt-5.4-mini": _price("0.75", "0.075", "4.5"),
    "gpt-5.4": _price("2.5", "0.25", "15"),
    "gpt-5.5": _price("5", "0.5", "30"),
}
