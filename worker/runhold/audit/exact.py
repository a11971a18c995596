"""JSON whose numbers stay as they are written, and its two texts: the canonical one, and PostgreSQL's.

Hashes are made of texts. A number that went through a float may come out with other digits, so numbers are not
read here at all: they are kept as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias, Union, cast


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as its digits stand in the JSON."""

    digits: str


Value: TypeAlias = Union[bool, str, Number, "list[Value]", "dict[str, Value]", None]
Object: TypeAlias = dict[str, Value]


class TwiceNamed(ValueError):
    """An object has two members of one name: readers differ about which of them counts."""


def _once(pairs: list[tuple[str, Value]]) -> Object:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceNamed(next(name for name in names if names.count(name) > 1))
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder: Final = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=_no_constant, object_pairs_hook=_once
)
_quoted: Final = json.JSONEncoder(ensure_ascii=False).encode


def read(text: str) -> Value:
    """The value of a JSON text.

    :raises TwiceNamed: an object names a member twice.
    :raises ValueError: it is no JSON.
    :raises RecursionError: it is nested deeper than Python reads.
    """
    return cast("Value", _decoder.decode(text))


def canonical(value: Value) -> str:
    """Names sorted by code point, no spaces, nothing escaped but what must be, numbers as they were written."""
    return _written(value, "%s:%s", ",", sorted)


def jsonb_text(value: Value) -> str:
    """``value::text`` as PostgreSQL prints ``jsonb``: shorter names first, a space after each colon and comma."""
    return _written(value, "%s: %s", ", ", _as_jsonb_sorts)


def _as_jsonb_sorts(names: Object) -> list[str]:
    return sorted(names, key=lambda name: (len(encoded := name.encode("utf-8", "surrogatepass")), encoded))


def _written(value: Value, member: str, comma: str, order: Callable[[Object], list[str]]) -> str:
    match value:
        case Number():
            return value.digits
        case dict():
            members = (
                member % (_quoted(name), _written(value[name], member, comma, order)) for name in order(value)
            )
            return "{" + comma.join(members) + "}"
        case list():
            return "[" + comma.join(_written(item, member, comma, order) for item in value) + "]"
        case _:
            return _quoted(value)
