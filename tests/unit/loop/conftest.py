"""After every test of the loop: the log gives every request again."""

from __future__ import annotations

from collections.abc import Iterator

import loop_support
import pytest


@pytest.fixture(autouse=True)
def _the_log_rebuilds_the_requests() -> Iterator[None]:
    loop_support.ROWS.clear()
    yield
    for row in loop_support.ROWS:
        row.require_rebuildable()
