"""One table of refusals: in the documentation, in Python, and in what the SQL raises."""

from __future__ import annotations

import re
from pathlib import Path

from runhold.errors import REFUSALS

ROOT = Path(__file__).parents[2]


def test_page_and_python_say_the_same() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(RH\d{3})` \| (.+) \|$", page, re.MULTILINE))
    assert table == REFUSALS


def test_every_refusal_is_raised_and_every_raised_one_is_listed() -> None:
    raised: set[str] = set()
    for path in (ROOT / "supabase" / "migrations").glob("*.sql"):
        raised |= set(re.findall(r"refuse\(\s*'(RH\d{3})'", path.read_text("utf-8")))
    assert raised == set(REFUSALS)


def test_every_refusal_is_met_by_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    met = set(re.findall(r'refused\(\s*"(RH\d{3})"', tests))
    assert met == set(REFUSALS)
