"""What leaves for the database is storable as jsonb, and can be read again."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from runhold.store.scrub import CIRCULAR, MAX_DEPTH, TOO_DEEP, encode

any_text = st.text(alphabet=st.characters())  # surrogates and NUL included
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(any_text | st.integers() | st.none(), inner),
    max_leaves=20,
)


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return []


def _nested(levels: int) -> Any:
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"next": value}
    return value


@given(any_value)
@settings(max_examples=300, deadline=None)
def test_whatever_goes_in_postgres_takes_what_comes_out(value: Any) -> None:
    read = from_json(encode(value), allow_inf_nan=False)
    for text in _strings(read):
        assert "\x00" not in text
        text.encode("utf-8")  # no lone surrogate


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner)
        ),
    )
)
@settings(deadline=None)
def test_what_is_storable_stays_as_it_is(value: Any) -> None:
    assert json.loads(encode(value)) == value


def test_nul_and_lone_surrogates_become_replacement_characters() -> None:
    assert json.loads(encode({"a\0": "b\0c\ud800d"})) == {"a\ufffd": "b\ufffdc\ufffdd"}


def test_a_backslash_before_u0000_is_left_alone() -> None:
    assert json.loads(encode("\\u0000")) == "\\u0000"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null(number: float) -> None:
    assert json.loads(encode([number, "\0"])) == [None, "\ufffd"]
    assert json.loads(encode([number])) == [None]


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1, MAX_DEPTH])
def test_depth_within_the_bound_is_kept(levels: int) -> None:
    value = _nested(levels)
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 150, 199, 250, 5000])
def test_depth_beyond_the_bound_is_cut(levels: int) -> None:
    # enough brackets elsewhere that only the depth decides
    read = encode({"deep": _nested(levels), "wide": [[]] * 200})
    assert TOO_DEEP.encode() in read
    from_json(b"[" * 90 + read + b"]" * 90)


def test_a_circle_is_named() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert json.loads(encode(circle)) == [1, CIRCULAR]


def test_a_number_too_long_for_json_readers_becomes_text() -> None:
    read = from_json(encode({"n": 10**6000, "m": 10**2000}))
    assert read["m"] == 10**2000
    assert int(read["n"], 16) == 10**6000


def test_a_number_too_long_is_found_among_many_brackets() -> None:
    assert isinstance(from_json(encode([[[]] * 200, 10**6000]))[1], str)


def test_things_that_are_not_json_become_text() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    name = UUID("6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d8e")

    class Odd:
        def __str__(self) -> str:
            return "odd\ud800"

    assert json.loads(encode([when, name, b"x"])) == ["2026-01-02T03:04:05Z", str(name), "x"]
    assert json.loads(encode([when, Odd(), b"\xff"])) == ["2026-01-02T03:04:05Z", "odd\ufffd", "\ufffd"]
