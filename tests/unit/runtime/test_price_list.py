"""The project's own prices, as a worker learns them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from runhold import Agent
from runhold.errors import StoreUnavailable
from runhold.loop.ports import Usage
from runhold.models.prices import Prices
from runhold.runtime import price_list
from runhold.runtime.price_list import PriceList
from runhold.store.records import ModelPrice
from runhold.testing.chaos.patience import eventually

MILLION = Usage(input_tokens=1_000_000, output_tokens=0)


class Table:
    """``model_prices``, as the port answers of it."""

    def __init__(self) -> None:
        self.rows: list[ModelPrice] = []
        self.asked: list[Sequence[str]] = []
        self.away = False

    def add(self, model: str, usd: int, valid_from: datetime | None = None) -> None:
        price = Decimal(usd)
        self.rows.append(
            ModelPrice(
                model=model, valid_from=valid_from, input_usd=price, cached_input_usd=price, output_usd=price
            )
        )

    async def prices(self, models: Sequence[str], *, deadline_s: float) -> list[ModelPrice]:
        self.asked.append(models)
        if self.away:
            raise StoreUnavailable("the database is away")
        return list(self.rows)


def agents(*models: str) -> list[Agent]:
    return [Agent(type=f"type-{n}", model=model, instructions="i") for n, model in enumerate(models)]


async def test_it_asks_for_the_agents_models_with_and_without_their_dates() -> None:
    table = Table()
    await PriceList(table, Prices(), agents("b", "a-2025-08-07", "b")).read()
    assert table.asked == [["a", "a-2025-08-07", "b"]]


async def test_rows_become_prices_at_their_time() -> None:
    table, clock = Table(), [datetime(2026, 6, 1, tzinfo=UTC)]
    prices = Prices(now=lambda: clock[0])
    table.add("a", 1)
    table.add("a", 2, clock[0] + timedelta(hours=1))
    await PriceList(table, prices, agents("a")).read()
    assert prices.cost("a", MILLION) == 1
    clock[0] += timedelta(hours=1)
    assert prices.cost("a", MILLION) == 2


async def test_what_was_known_stays_known_when_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    table, prices = Table(), Prices()
    table.add("a", 1)
    known = PriceList(table, prices, agents("a"))
    await known.read()
    table.away = True
    await known.read()
    assert prices.cost("a", MILLION) == 1
    assert "the database is away" in caplog.text


async def test_it_reads_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_list, "READ_EVERY_S", 0.001)
    table, prices = Table(), Prices()
    task = asyncio.create_task(PriceList(table, prices, agents("a")).run())
    await eventually(lambda: len(table.asked) >= 2)
    assert prices.cost("a", MILLION) is None
    table.add("a", 3)
    await eventually(lambda: prices.cost("a", MILLION) == 3)
    task.cancel()


async def test_it_says_once_of_a_model_that_it_has_no_price(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    table = Table()
    table.add("free", 0)
    known = PriceList(table, Prices(), agents("nobody's", "free", "gpt-5-mini", "nobody's"))
    table.away = True
    await known.read()
    assert "no price" not in caplog.text, "nobody knows yet"
    table.away = False
    await known.read()
    await known.read()
    said = [record.getMessage() for record in caplog.records if "no price" in record.getMessage()]
    assert said == [
        'no price is known of model "nobody\'s" (agent type-0, type-3), so its steps count 0 USD, and its runs fail where '
        "max_cost_usd or a budget in USD limits them: add its price to the table model_prices"
    ]
