"""Fixtures of the tests that kill workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runhold.testing.chaos import ForkServer


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Starts worker processes in milliseconds."""
    with ForkServer() as server:
        yield server
