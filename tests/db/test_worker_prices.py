"""agent_worker_prices: what a worker is told of the prices that operators entered."""

from __future__ import annotations

from typing import Any

from world import World


def told(world: World, *models: str) -> list[tuple[str, str | None, Any]]:
    rows = world.service("select agent_worker_prices(%s)", list(models))
    return [
        (row["model"], row["valid_from"] and row["valid_from"][:19], row["input_usd"])
        for row in rows
        if row["cached_input_usd"] == row["input_usd"] / 10 and row["output_usd"] == row["input_usd"] * 2
    ]


def enter(world: World, model: str, usd: int, valid_from: str = "-infinity") -> None:
    world.service(
        "insert into model_prices values (%s, %s, %s, %s, %s) returning 1",
        model, valid_from, usd, usd / 10, usd * 2,
    )  # fmt: skip


def test_the_price_in_force_and_those_ahead(world: World) -> None:
    enter(world, "a", 10)
    enter(world, "a", 20, "2020-01-01T00:00:00Z")
    enter(world, "a", 30, "2021-01-01T00:00:00Z")
    enter(world, "a", 40, "2300-01-01T00:00:00Z")
    enter(world, "a", 50, "2301-01-01T00:00:00Z")
    enter(world, "never", 10, "infinity")
    enter(world, "always", 10)
    enter(world, "later", 10, "2300-01-01T00:00:00Z")
    enter(world, "not asked for", 10)
    assert told(world, "a", "always", "later", "never", "unknown") == [
        ("a", "2021-01-01T00:00:00", 30),
        ("a", "2300-01-01T00:00:00", 40),
        ("a", "2301-01-01T00:00:00", 50),
        ("always", None, 10),
        ("later", "2300-01-01T00:00:00", 10),
    ]


def test_nothing_was_entered(world: World) -> None:
    assert told(world, "a") == []
    assert told(world) == []
