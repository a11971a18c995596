"""What a model call costs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from runhold.loop.ports import Usage
from runhold.models.prices import BUILT_IN, Cost, Price, Prices

MINE = Price(input_usd=Decimal("1"), cached_input_usd=Decimal("0.1"), output_usd=Decimal("2"))


def tokens(given: int, made: int, cached: int = 0) -> Usage:
    return Usage(input_tokens=given, output_tokens=made, cached_tokens=cached)


def test_counts_each_kind_of_token_at_its_price() -> None:
    # 600 000 new at 1, 400 000 cached at 0.1, 500 000 made at 2
    cost = Prices({"mine": MINE}).cost("mine", tokens(1_000_000, 500_000, 400_000))
    assert cost == Cost(Decimal("1.640000"), known=True)


def test_is_exact_to_the_micro_dollar() -> None:
    assert str(Prices({"mine": MINE}).cost("mine", tokens(1, 1)).usd) == "0.000003"
    # 5 cached tokens cost exactly half a micro-dollar, and the database rounds that up
    assert str(Prices({"mine": MINE}).cost("mine", tokens(5, 0, 5)).usd) == "0.000001"
    assert str(Prices({"mine": MINE}).cost("mine", tokens(4, 0, 4)).usd) == "0.000000"


def test_more_cached_than_given_never_pays_back() -> None:
    assert Prices({"mine": MINE}).cost("mine", tokens(10, 0, 10**9)).usd == Decimal("0.000001")


def test_given_prices_win_over_built_in_ones() -> None:
    assert Prices({"gpt-5-mini": MINE}).price("gpt-5-mini") == MINE
    assert Prices().price("gpt-5-mini") == BUILT_IN["gpt-5-mini"]
    assert Prices({"mine": MINE}).price("gpt-5-mini") == BUILT_IN["gpt-5-mini"]


@pytest.mark.parametrize(
    ("model", "priced_as"),
    [
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("gpt-5-mini-2025-08", None),
        ("gpt-5-mini-9999", None),
        ("gpt-5-turbo", None),
        ("my-gpt-5", None),
        ("", None),
    ],
)
def test_only_a_date_may_be_left_out(model: str, priced_as: str | None) -> None:
    assert Prices().price(model) == (priced_as and BUILT_IN[priced_as])


def test_a_listed_date_wins_over_the_name_without() -> None:
    assert Prices({"gpt-5-2025-08-07": MINE}).price("gpt-5-2025-08-07") == MINE


def test_an_unknown_model_costs_nothing_and_says_so() -> None:
    assert Prices().cost("llama", tokens(10**6, 10**6)) == Cost(Decimal(0), known=False)


@pytest.mark.parametrize("wrong", [Decimal(-1), Decimal("nan"), Decimal("inf"), 0.5])
def test_refuses_impossible_prices(wrong: Decimal) -> None:
    with pytest.raises(ValueError, match="output_usd must be a Decimal"):
        Price(input_usd=Decimal(1), cached_input_usd=Decimal(1), output_usd=wrong)


def test_caching_never_costs_more_in_the_built_in_table() -> None:
    for price in BUILT_IN.values():
        assert 0 < price.cached_input_usd < price.input_usd < price.output_usd
