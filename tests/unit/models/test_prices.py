"""What a model call costs."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

from runhold.loop.ports import Usage
from runhold.models.price import Price
from runhold.models.prices import Prices, Since

MINE = Price(input_usd=Decimal("1"), cached_input_usd=Decimal("0.1"), output_usd=Decimal("2"))
YOURS = Price(input_usd=Decimal("9"), cached_input_usd=Decimal("9"), output_usd=Decimal("9"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def tokens(given: int, made: int, cached: int = 0) -> Usage:
    return Usage(input_tokens=given, output_tokens=made, cached_tokens=cached)


def always(price: Price) -> list[Since]:
    return [Since(None, price)]


def listed(model: str, usage: Usage, **more: Any) -> Decimal:
    """What the package says, when asked by the way that it documents."""
    used = ListedUsage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
    )
    return calc_price(used, model, **more).total_price


def test_counts_each_kind_of_token_at_its_price() -> None:
    # 600 000 new at 1, 400 000 cached at 0.1, 500 000 made at 2
    assert MINE.of(tokens(1_000_000, 500_000, 400_000)) == Decimal("1.640000")


def test_is_exact_to_the_micro_dollar() -> None:
    assert str(MINE.of(tokens(1, 1))) == "0.000003"
    # 5 cached tokens cost exactly half a micro-dollar, and the database rounds that up
    assert str(MINE.of(tokens(5, 0, 5))) == "0.000001"
    assert str(MINE.of(tokens(4, 0, 4))) == "0.000000"


def test_more_cached_than_given_never_pays_back() -> None:
    assert MINE.of(tokens(10, 0, 10**9)) == Decimal("0.000001")


@pytest.mark.parametrize("wrong", [Decimal(-1), Decimal("nan"), Decimal("inf"), 0.5])
def test_refuses_impossible_prices(wrong: Decimal) -> None:
    with pytest.raises(ValueError, match="output_usd must be a Decimal"):
        Price(input_usd=Decimal(1), cached_input_usd=Decimal(1), output_usd=wrong)


# ------------------------------------------------------------------------------------------- whose price


def test_own_prices_win_over_the_list() -> None:
    assert Prices({"gpt-5-mini": always(MINE)}).price("gpt-5-mini") == MINE
    assert Prices({"mine": always(MINE)}).price("gpt-5-mini") == Prices().price("gpt-5-mini") != None  # noqa: E711


def test_an_own_price_of_0_is_a_price() -> None:
    nothing = Price(input_usd=Decimal(0), cached_input_usd=Decimal(0), output_usd=Decimal(0))
    assert Prices({"mine": always(nothing)}).cost("mine", tokens(10**6, 10**6)) == 0


def test_of_own_prices_the_newest_counts_whose_time_has_come() -> None:
    clock = [NOW]
    prices = Prices(
        {"gpt-5-mini": [Since(NOW, MINE), Since(NOW + timedelta(days=1), YOURS)]}, now=lambda: clock[0]
    )
    assert prices.price("gpt-5-mini") == MINE
    clock[0] += timedelta(days=1)
    assert prices.price("gpt-5-mini") == YOURS
    clock[0] = NOW - timedelta(seconds=1)
    assert prices.price("gpt-5-mini") == Prices().price("gpt-5-mini"), "none counts yet"
    prices.take({"gpt-5-mini": [Since(NOW - timedelta(days=1), MINE), Since(None, YOURS)]})
    assert prices.price("gpt-5-mini") == MINE


def test_own_prices_that_are_gone_count_no_more() -> None:
    prices = Prices({"mine": always(MINE)})
    prices.take({})
    assert prices.price("mine") is None


@pytest.mark.parametrize(
    ("model", "priced_as"),
    [
        ("mine-2025-08-07", MINE),
        ("mine-2025-08", None),
        ("mine-9999", None),
        ("mine-turbo", None),
        ("my-mine", None),
        ("", None),
    ],
)
def test_only_a_date_may_be_left_out(model: str, priced_as: Price | None) -> None:
    assert Prices({"mine": always(MINE)}).price(model) == priced_as


def test_a_date_of_its_own_wins_over_the_name_without() -> None:
    own = {"gpt-5-2025-08-07": always(MINE), "gpt-5": always(YOURS)}
    assert Prices(own).price("gpt-5-2025-08-07") == MINE


# --------------------------------------------------------------------------------------------- the list


@pytest.mark.parametrize(
    "model", ["gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-4.1", "o3", "claude-sonnet-4-5", "gemini-2.5-pro"]
)
@pytest.mark.parametrize("usage", [tokens(1, 0), tokens(1_234, 567, 890), tokens(400_000, 9_999, 100_000)])
def test_the_lists_prices_are_those_of_the_package(model: str, usage: Usage) -> None:
    found = Prices().cost(model, usage)
    assert found is not None
    assert abs(found - listed(model, usage)) <= Decimal("0.0000005")


def test_long_inputs_may_cost_more_a_token() -> None:
    prices = Prices()
    short, long = (
        prices.price("gemini-2.5-pro", input_tokens=1000),
        prices.price("gemini-2.5-pro", input_tokens=10**6),
    )
    assert short is not None
    assert long is not None
    assert long.output_usd > short.output_usd


def test_some_ask_for_each_request() -> None:
    url = "https://api.perplexity.ai"
    found = Prices(base_url=url).cost("sonar", tokens(0, 0))
    assert found == listed("sonar", tokens(0, 0), provider_api_url=url) > 0


def test_the_provider_that_is_called_has_prices_of_its_own() -> None:
    model, usage = "openai/gpt-oss-120b", tokens(10**6, 10**6)
    at = "https://api.groq.com/openai/v1"
    assert Prices().cost(model, usage) is None
    found = Prices(base_url=at).cost(model, usage)
    assert found == listed(model, usage, provider_api_url=at) > 0


def test_at_an_address_that_nobody_knows_the_makers_price_counts() -> None:
    usage = tokens(10**6, 10**6)
    assert Prices(base_url="http://gateway.test/v1").cost("gpt-5-mini", usage) == Prices().cost(
        "gpt-5-mini", usage
    )


@pytest.mark.parametrize(
    "model", ["scripted", "llama", "gpt-5-turbo", "my-gpt-5", "text-embedding-3-small", ""]
)
def test_of_a_model_that_no_list_has_no_price_is_known(model: str) -> None:
    assert Prices().cost(model, tokens(10**6, 10**6)) is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Prices(base_url="https://api.openai.com/v1").price("gpt-5") is not None


def test_the_list_is_loaded_when_it_is_asked_for() -> None:
    """It takes longer to load than all the rest of the package's own code."""
    program = "import sys, runhold.runtime.worker; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
