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

from runhold.loop.ports import Json, JsonObject

_quote = encode_basestring

MAX_DEPTH: Final = 64
"""Levels of nesting that are kept. Nothing that people write is deeper; parsers everywhere have their
limits."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")  # NUL, lone surrogates: no text for Postgres
_REPLACEMENT: Final = "\ufffd"
_MAX_INT_BITS: Final = 4096  # beyond this, reading a number back takes other parsers too long or fails


def clean_text(text: str) -> str:
    """``text`` without the characters that can't be stored; they become U+FFFD."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def clean(value: Json, *, depth: int = 0) -> Json:
    """``value`` as it can be stored and read back unchanged: no NUL, lone surrogate, NaN, bottomless nesting.

    Applied where values enter the loop (answers of models, output of tools), so that what the loop goes on
    with is what the log will hold.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if value - value == 0 else None  # NaN and the infinities have no JSON
    if isinstance(value, int):
        return value if isinstance(value, bool) or value.bit_length() <= _MAX_INT_BITS else hex(value)
    if value is None:
        return None
    if depth >= MAX_DEPTH:
        return "(nested too deep to be kept)"
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Json]", value).items()
        return {clean_text(str(key)): clean(item, depth=depth + 1) for key, item in items}
    return [clean(item, depth=depth + 1) for item in cast("Sequence[Json]", value)]


def canonical(value: Json) -> Json:
    """``value`` with the keys of all its objects sorted and whole numbers as integers."""
    if isinstance(value, float):
        return _whole(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Json]", value)
        return {key: canonical(mapping[key]) for key in sorted(mapping)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [canonical(item) for item in cast("Sequence[Json]", value)]
    return value


def canonical_schema(schema: Json) -> Json:
    """A JSON schema in canonical form, its properties in the order of ``required``.

    Models fill structured output in the order of the schema's properties, so that order is part of a prompt.
    An object in ``jsonb`` forgets it; the array ``required`` keeps it.
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


def canonical_json(value: Json) -> str:
    """``value`` as text: sorted keys, no spaces, numbers in plain decimal notation as Postgres prints
    them."""
    pieces: list[str] = []
    _write(value, pieces.append)
    return "".join(pieces)


def _write(value: Json, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(_quote(value))
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
            put(f"{mark}{_quote(key)}:")
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
    whole = _whole(number)
    return str(whole) if isinstance(whole, int) else format(Decimal(repr(number)), "f")


def _whole(number: float) -> float | int:
    """The integer that Postgres prints for a whole float: from its shortest digits, not from its binary
    value."""
    return int(Decimal(repr(number))) if number.is_integer() else number
