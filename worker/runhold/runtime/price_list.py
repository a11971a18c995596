"""The project's own prices: read when a worker registers, and now and then."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from runhold.agents import Agent
from runhold.errors import RunholdError
from runhold.models.price import Price
from runhold.models.prices import Prices, Since, names_of
from runhold.store.records import ModelPrice

logger = logging.getLogger(__name__)

READ_EVERY_S: Final = 180.0
"""A new price takes hold after that at most, unless it was entered before its time."""

READ_DEADLINE_S: Final = 3.0
"""The first claim waits for it."""


class PricePort(Protocol):
    """The one call that prices need."""

    async def prices(self, models: Sequence[str], *, deadline_s: float) -> list[ModelPrice]: ...


class PriceList:
    """Keeps ``prices`` as the table ``model_prices`` has them for the models of ``agents``."""

    def __init__(self, port: PricePort, prices: Prices, agents: Iterable[Agent]) -> None:
        self._port = port
        self._prices = prices
        self._agents: dict[str, list[str]] = defaultdict(list)
        for agent in agents:
            self._agents[agent.model].append(agent.type)
        self._warned: set[str] = set()

    async def run(self) -> None:
        """Read again and again, until cancelled."""
        while True:
            await asyncio.sleep(READ_EVERY_S * random.uniform(0.75, 1.25))
            await self.read()

    async def read(self) -> None:
        """Read once. What was known stays known if that fails."""
        names = sorted({name for model in self._agents for name in names_of(model)})
        try:
            rows = await self._port.prices(names, deadline_s=READ_DEADLINE_S)
        except RunholdError as error:
            logger.warning("model_prices can't be read, what was known of prices stays in use: %s", error)
            return
        own: dict[str, list[Since]] = defaultdict(list)
        for row in rows:
            price = Price(
                input_usd=row.input_usd, cached_input_usd=row.cached_input_usd, output_usd=row.output_usd
            )
            own[row.model].append(Since(row.valid_from, price))
        self._prices.take(own)
        self._warn()

    def _warn(self) -> None:
        """Say once of each model that it has no price: limits in USD can't hold for it."""
        for model, types in self._agents.items():
            if model not in self._warned and self._prices.price(model) is None:
                self._warned.add(model)
                logger.warning(
                    "no price is known of model %r (agent %s), so its steps count 0 USD, and its runs fail where "
                    "max_cost_usd or a budget in USD limits them: add its price to the table model_prices",
                    model,
                    ", ".join(sorted(types)),
                    extra={"action": "no_price", "model": model},
                )
