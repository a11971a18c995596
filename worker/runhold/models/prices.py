"""What a model call costs: by the project's own prices, else by the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from runhold.loop.ports import Usage
from runhold.models.list_prices import ListPrices
from runhold.models.price import Price


class Since(NamedTuple):
    """A price from a time on (None: always); a row of ``model_prices``."""

    valid_from: datetime | None
    price: Price


OwnPrices = Mapping[str, Sequence[Since]]
"""Model → its prices, in any order."""


class Prices:
    """Prices by model name: the project's own where it has any, else the list's."""

    def __init__(
        self,
        own: OwnPrices | None = None,
        *,
        base_url: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        :param own: see :meth:`take`.
        :param base_url: of the API that is called: which provider's list counts.
        """
        self._own: OwnPrices = {}
        self._list = ListPrices(base_url)
        self._now = now
        self.take(own or {})

    def take(self, own: OwnPrices) -> None:
        """Take ``own`` instead of the own prices that were known. Of those whose time has come the newest counts;
        a model of which none counts (yet) has the list's price."""
        self._own = {model: sorted(prices, key=_starts_last) for model, prices in own.items()}

    def cost(self, model: str, usage: Usage) -> Decimal | None:
        """What ``usage`` of ``model`` costs in USD, rounded to 6 places; None if nobody told its price."""
        price = self.price(model, input_tokens=usage.input_tokens)
        return None if price is None else price.of(usage)

    def price(self, model: str, *, input_tokens: int = 0) -> Price | None:
        """The price now of a call of ``model`` with ``input_tokens`` tokens of input, or None if it is not known."""
        now = self._now()
        for name in names_of(model):
            for since in self._own.get(name, ()):
                if since.valid_from is None or since.valid_from <= now:
                    return since.price
        return self._list.price(model, input_tokens=input_tokens, at=now)


def names_of(model: str) -> tuple[str, ...]:
    """The names under which a price of ``model`` may stand: its own and, of ``name-2025-08-07``, ``name``."""
    name, *date = model.rsplit("-", 3)
    is_date = [len(part) for part in date] == [4, 2, 2] and all(part.isdecimal() for part in date)
    return (model, name) if is_date else (model,)


def _starts_last(since: Since) -> float:
    return float("inf") if since.valid_from is None else -since.valid_from.timestamp()
