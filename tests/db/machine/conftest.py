"""Fixtures of the meetings of two connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from invariants import assert_everything_ends
from world import World

LONG_AFTER_S = 100_000


@pytest.fixture
def arena(world: World) -> Iterator[World]:
    """A world in which, after the meeting, everything still comes to its end."""
    yield world
    world.close_others()
    clock = [float(LONG_AFTER_S)]

    def advance(seconds: float) -> None:
        clock[0] += seconds
        world.at(clock[0])

    advance(0)
    assert_everything_ends(world, advance)
