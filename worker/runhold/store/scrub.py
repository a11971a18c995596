"""Make any Python value storable as ``jsonb``.

Postgres refuses a whole RPC, with the entries of all other runs in it, for one NUL or lone surrogate in one
string; JSON knows no NaN; and what is nested too deeply can be stored but not be read again. Values come from
models and from users' tools, so all of that happens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

READER_DEPTH: Final = 200
"""Levels of nesting at which our JSON reader gives up."""

MAX_DEPTH: Final = 100
"""Levels of nesting kept: far from :data:`READER_DEPTH`, because records nest values within their own."""

TOO_DEEP: Final = f"[nested deeper than {MAX_DEPTH} levels]"
CIRCULAR: Final = "[circular reference]"
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

MAX_INT_BITS: Final = 8192
"""Larger integers (2467 digits) become hexadecimal text: our JSON reader refuses more than 4300 digits, and
a claim that holds such a number could never be read."""

_PLAIN: Final = (str, int, float, list, dict, type(None))
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_NUL_ESCAPE: Final = b"\\u0000"
_HUGE_NUMBER: Final = re.compile(rb"[0-9]{2468}")


def encode(value: Any) -> bytes:
    """``value`` as JSON text in UTF-8 that Postgres accepts as ``jsonb``.

    Strings: NUL and lone surrogates become U+FFFD. NaN and infinities become null. Keys become strings. What
    is nested deeper than :data:`MAX_DEPTH` becomes a string that says so; what is not JSON its ``str()``.
    """
    try:
        raw = to_json(value, inf_nan_mode="null", fallback=str)
    except (PydanticSerializationError, RecursionError, ValueError):
        return to_json(_scrubbed(value, ()))
    # The escape may also be a backslash followed by "u0000" in a harmless string: then we clean for nothing.
    if _NUL_ESCAPE in raw or not _readable(raw):
        return to_json(_scrubbed(value, ()))
    return raw


def _readable(raw: bytes) -> bool:
    """Whether a reader will take it: tried, if there are enough brackets or digits to doubt it."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return len(raw) <= MAX_INT_BITS // 4 or not _HUGE_NUMBER.search(raw)
    padding = READER_DEPTH - MAX_DEPTH
    try:
        from_json(b"[" * padding + raw + b"]" * padding)
    except ValueError:
        return False
    return True


def _scrubbed(value: Any, above: tuple[int, ...]) -> Any:
    """A storable copy of ``value``; ``above`` holds the ids of the containers around it."""
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_INT_BITS else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return _UNSTORABLE.sub(REPLACEMENT, bytes(value).decode("utf-8", "replace"))
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        plain = to_jsonable_python(value, inf_nan_mode="constants", fallback=str)
        return _scrubbed(plain if isinstance(plain, _PLAIN) else str(value), above)
    if id(cast("object", value)) in above:
        return CIRCULAR
    if len(above) >= MAX_DEPTH:
        return TOO_DEEP
    above = (*above, id(cast("object", value)))
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {_key(key): _scrubbed(item, above) for key, item in mapping.items()}
    return [_scrubbed(item, above) for item in cast("list[Any]", value)]


def _key(key: Any) -> str:
    return _UNSTORABLE.sub(REPLACEMENT, key if isinstance(key, str) else str(key))
