"""Exit statuses are an interface: documented, and the same in every place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runhold.agents import InvalidData
from runhold.cli.exits import MEANINGS, CommandError, Exit, NotFound, UsageError, exit_of
from runhold.errors import ConfigError, Refused, RunholdError, StoreUnavailable
from runhold.local.errors import StackNotRunning

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_documented_table_is_the_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert {int(code): meaning for code, meaning in rows} == {
        int(code): text for code, text in MEANINGS.items()
    }
    assert set(MEANINGS) == set(Exit)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandError("no"), 1),
        (UsageError("no"), 2),
        (NotFound("no"), 3),
        (Refused("no", code="RH006"), 3),
        (Refused("no", code="RH009"), 3),
        (Refused("no", code="42501"), 3),
        (Refused("no", code="RH001"), 1),
        (Refused("no", code="RH007"), 1),
        (ConfigError("no"), 4),
        (StoreUnavailable("no"), 4),
        (StackNotRunning("no"), 4),
        (InvalidData("no"), 1),
        (RunholdError("no"), 1),
        (ValueError("no"), 1),
    ],
)
def test_every_error_has_its_status(error: Exception, status: int) -> None:
    assert exit_of(error) == status
