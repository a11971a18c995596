"""Fixtures of the SQL tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from world import World


@pytest.fixture
def world(fresh_database_url: str) -> Iterator[World]:
    """A migrated database of this test's own."""
    made = World(fresh_database_url)
    try:
        yield made
    finally:
        made.close()
