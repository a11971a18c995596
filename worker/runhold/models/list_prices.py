"""List prices of models, from the maintained package ``genai-prices``.

Only what is in the installed package is used; it fetches nothing. It is imported when a price is first asked for:
its data take 0.1 s to load.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from runhold.models.price import Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

_THOUSAND: Final = 1000


class ListPrices:
    """What providers ask for their models."""

    def __init__(self, base_url: str | None = None) -> None:
        """
        :param base_url: of the API that is called. If it is a provider's that the package knows, that one's prices
            count, else those of the model's maker.
        """
        self._base_url = base_url
        self._models: dict[str, ModelInfo | None] = {}

    def price(self, model: str, *, input_tokens: int, at: datetime) -> Price | None:
        """The price at the time ``at`` of a call with ``input_tokens`` tokens of input, None if it is not known.

        The number matters where long inputs cost more a token.
        """
        found = self._find(model)
        if found is None:
            return None
        listed = vars(found.get_prices(at))
        given, made = _rate(listed, "input_mtok", input_tokens), _rate(listed, "output_mtok", input_tokens)
        if given is None or made is None:
            return None  # of another kind: embeddings, images
        cached = _rate(listed, "cache_read_mtok", input_tokens)
        requests = _rate(listed, "requests_kcount", input_tokens)
        return Price(
            input_usd=given,
            cached_input_usd=given if cached is None else cached,
            output_usd=made,
            request_usd=Decimal(0) if requests is None else requests / _THOUSAND,
        )

    def _find(self, model: str) -> ModelInfo | None:
        if model not in self._models:
            self._models[model] = _lookup(model, self._base_url)
        return self._models[model]


def _lookup(model: str, base_url: str | None) -> ModelInfo | None:
    from genai_prices import Usage, calc_price

    probe = Usage(input_tokens=1, output_tokens=1)
    for url in (base_url, None) if base_url else (None,):
        try:
            return calc_price(probe, model, provider_api_url=url).model
        except (LookupError, ValueError):  # no such provider or model; or no model that takes and makes text
            continue
    return None


def _rate(listed: dict[str, Any], unit: str, input_tokens: int) -> Decimal | None:
    """The rate of ``unit``: a number, or one for each size of the whole input."""
    from genai_prices.types import TieredPrices

    rate: Decimal | TieredPrices | None = listed.get(unit)
    if not isinstance(rate, TieredPrices):
        return rate
    reached = [tier.price for tier in rate.tiers if input_tokens > tier.start]
    return reached[-1] if reached else rate.base
