"""Strict JSON in and out.

Python's `json` reads and writes NaN and Infinity, which no other JSON parser accepts; a frame holding one
would break the clients it is relayed to.
"""

import json
import math
from typing import TypeAlias, cast

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"


def loads(text: str | bytes) -> Json:
    """Parse one JSON document.

    Raises `ValueError` for anything that is not standard JSON: NaN, Infinity, numbers beyond a double, bad
    UTF-8, nesting too deep to parse.
    """
    try:
        return cast("Json", json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float))
    except RecursionError as exc:
        raise ValueError("JSON is nested too deeply") from exc


def dumps(value: Json) -> str:
    """Compact JSON text. Raises `ValueError` for NaN and Infinity."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number out of range: {text[:40]}")
    return number
