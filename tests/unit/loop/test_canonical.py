"""One text for one value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_support import through_jsonb

from runhold.loop.canonical import canonical, canonical_json, clean


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ({"b": {"d": [], "c": {}}}, '{"b":{"c":{},"d":[]}}'),
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (1e300, "1" + "0" * 300),
        (123456789012345680.0, "123456789012345680"),
        (12345678901234567890, "12345678901234567890"),
        (True, "true"),
        (None, "null"),
        ('"\n\u2028é', '"\\"\\n\u2028é"'),
    ],
)
def test_text(value: Any, text: str) -> None:
    assert canonical_json(value) == text
    assert canonical_json(through_jsonb(value)) == text
    back = json.loads(text)
    assert (float(back) if isinstance(value, float) else back) == value


@settings(max_examples=100, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive(number: float) -> None:
    assert float(json.loads(canonical_json(number))) == number
    assert canonical_json(through_jsonb(number)) == canonical_json(number)
    assert json.dumps(canonical(through_jsonb(number))) == json.dumps(canonical(number))


odd = st.text() | st.floats() | st.integers()
nested = st.recursive(
    odd, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=6
)


@settings(max_examples=60, deadline=None)
@given(nested)
def test_what_is_clean_can_be_stored_and_is_left_alone(value: Any) -> None:
    cleaned = clean(value)
    canonical_json(cleaned).encode()
    assert "\x00" not in json.dumps(cleaned, allow_nan=False, ensure_ascii=False)
    assert clean(cleaned) == cleaned
    assert canonical_json(through_jsonb(cleaned)) == canonical_json(cleaned)
