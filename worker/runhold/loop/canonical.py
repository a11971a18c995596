"""One text for one JSON value, also after the value went through a ``jsonb`` column.

``jsonb`` forgets the order of keys and how a number was written. Requests to the model are therefore built
from canonical values only: what is rebuilt from the log years later is the same, byte for byte, as what was
sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final, cast

import msgspec
from pydantic_core import PydanticSerializationError, to_json

from runhold.loop.ports import Json, JsonObject

MAX_DEPTH: Final = 64
"""Levels of nesting that are kept. Nothing that people write is deeper; parsers everywhere have their limits."""

MAX_INT_BITS: Final = 4096
"""Larger integers become hexadecimal text: many a parser takes too long over them, or gives up."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # NUL, lone surrogates: no text for Postgres
_REPLACEMENT: Final = "\ufffd"

_to_sorted: Final = msgspec.json.Encoder(order="sorted").encode

# What decides between C and Python looks at JSON text without reading it: a match inside a string costs time, not
# correctness. The first pattern of a pair is the one that is searched fast.
_LONG_DIGITS: Final = 1000
_MAYBE_HUGE: Final = re.compile(rb"[0-9]{%d}" % _LONG_DIGITS)
_DIGIT_AND_POINT: Final = re.compile(rb"[0-9][.eE]")
_MAYBE_FLOAT: Final = re.compile(rb"(?:^|[\[:,])-?[0-9]+[.eE]")


def clean_text(text: str) -> str:
    """``text`` without the characters that can't be stored; they become U+FFFD."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def clean(value: Json) -> Json:
    """``value`` as it can be stored and read back unchanged: no NUL, lone surrogate, NaN, bottomless nesting.

    Applied where values enter the loop (answers of models, output of tools), so that what the loop goes on with is
    what the log will hold.
    """
    try:
        text = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError):
        return _cleaned(value, 0)
    return _cleaned(value, 0) if _is_maybe_unclean(text) else value


def canonical(value: Json) -> Json:
    """``value`` with the keys of all its objects sorted and whole numbers as integers."""
    return json_value(canonical_bytes(value))


def canonical_json(value: Json) -> str:
    """``value`` as text: sorted keys, no spaces, numbers in plain decimal notation as Postgres prints them."""
    return canonical_bytes(value).decode()


def canonical_bytes(value: Json) -> bytes:
    """:func:`canonical_json` in UTF-8."""
    text = _to_sorted(value)
    if not _DIGIT_AND_POINT.search(text) or not _MAYBE_FLOAT.search(text):
        return text
    pieces: list[str] = []
    _write(value, pieces.append)
    return "".join(pieces).encode()


def json_value(text: bytes) -> Any:
    """What JSON ``text`` means, objects in the order of their keys."""
    return msgspec.json.decode(text)


def canonical_schema(schema: Json) -> Json:
    """A JSON schema in canonical form, its properties in the order of ``required``.

    Models fill structured output in the order of the schema's properties, so that order is part of a prompt. An
    object in ``jsonb`` forgets it; the array ``required`` keeps it.
    """
    if isinstance(schema, Mapping):
        mapping = cast("Mapping[str, Json]", schema)
        result: JsonObject = {key: canonical_schema(mapping[key]) for key in sorted(mapping)}
        properties, required = result.get("properties"), result.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            named = cast("JsonObject", properties)
            first = [name for name in cast("list[Json]", required) if name in named]
            result["properties"] = {name: named[name] for name in dict.fromkeys([*first, *named])}
        return result
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [canonical_schema(item) for item in cast("Sequence[Json]", schema)]
    return canonical(schema)


# ------------------------------------------------------------------------------------------------ details


def _is_maybe_unclean(text: bytes) -> bool:
    return (
        text.count(b"[") + text.count(b"{") > MAX_DEPTH
        or b"\\u0000" in text
        or b"NaN" in text
        or b"Infinity" in text
        or (len(text) >= _LONG_DIGITS and _MAYBE_HUGE.search(text) is not None)
    )


def _cleaned(value: Json, depth: int) -> Json:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if value - value == 0 else None  # NaN and the infinities have no JSON
    if isinstance(value, int):
        return value if isinstance(value, bool) or value.bit_length() <= MAX_INT_BITS else hex(value)
    if value is None:
        return None
    if depth >= MAX_DEPTH:
        return "(nested too deep to be kept)"
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Json]", value).items()
        return {clean_text(str(key)): _cleaned(item, depth + 1) for key, item in items}
    return [_cleaned(item, depth + 1) for item in cast("Sequence[Json]", value)]


def _write(value: Json, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(encode_basestring(value))
    elif value is None:
        put("null")
    elif isinstance(value, bool):
        put("true" if value else "false")
    elif isinstance(value, int):
        put(str(value))
    elif isinstance(value, float):
        put(_plain(value))
    elif isinstance(value, Mapping):
        mapping = cast("Mapping[str, Json]", value)
        mark = "{"
        for key in sorted(mapping):
            put(f"{mark}{encode_basestring(key)}:")
            _write(mapping[key], put)
            mark = ","
        put("{}" if mark == "{" else "}")
    else:
        mark = "["
        for item in cast("Sequence[Json]", value):
            put(mark)
            _write(item, put)
            mark = ","
        put("[]" if mark == "[" else "]")


def _plain(number: float) -> str:
    """The shortest digits that mean ``number``, which is what Postgres keeps, without an exponent."""
    digits = Decimal(repr(number))
    return format(digits.to_integral_value() + 0 if number.is_integer() else digits, "f")
