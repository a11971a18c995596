"""Values of Postgres, from the text the change feed carries to the JSON text clients get.

The rule is `to_jsonb(<text>::<type>)`. Postgres itself applies it to types not listed here; for the common
ones the result is known from the text alone, which saves a query per change. JSON text is never parsed into
Python numbers: bigint and numeric keep every digit.
"""

from collections.abc import Callable, Mapping

from psycopg import sql

from runhold.local.realtime import jsontext
from runhold.local.realtime.catalog import TypeInfo
from runhold.local.realtime.database import Session, trusted

_BOOL, _BYTEA, _NAME, _INT8, _INT2, _INT4, _TEXT = 16, 17, 19, 20, 21, 23, 25
_FLOAT4, _FLOAT8, _VARCHAR, _DATE, _TIMESTAMP, _TIMESTAMPTZ = 700, 701, 1043, 1082, 1114, 1184
_NUMERIC, _UUID, _JSONB = 1700, 2950, 3802


async def render_values(
    session: Session, values: Mapping[str, str | None], types: Mapping[str, TypeInfo]
) -> dict[str, str]:
    """JSON text of each value, by column. Raises `psycopg.Error`, e.g. when a type was dropped meanwhile."""
    rendered: dict[str, str] = {}
    remaining: list[str] = []
    for name, value in values.items():
        text = "null" if value is None else _known_json(value, types[name])
        if text is None:
            remaining.append(name)
        else:
            rendered[name] = text
    if remaining:
        casts = [
            sql.SQL("to_jsonb({}::{})::text").format(sql.Literal(values[name]), trusted(types[name].cast))
            for name in remaining
        ]
        rows = await session.run(sql.SQL("select {}").format(sql.SQL(", ").join(casts)))
        rendered.update({name: text or "null" for name, text in zip(remaining, rows[0][0], strict=True)})
    return {name: rendered[name] for name in values}


def _known_json(value: str, type_info: TypeInfo) -> str | None:
    """JSON text if it is known without asking Postgres."""
    if type_info.is_enum:
        return jsontext.dumps(value)
    render = _RENDERERS.get(type_info.base_oid)
    return None if render is None else render(value)


def _number(value: str) -> str | None:
    return value


def _text(value: str) -> str | None:
    return jsontext.dumps(value)


def _boolean(value: str) -> str | None:
    return "true" if value == "t" else "false"


def _bytes(value: str) -> str | None:
    # Hosted sends lower-case hex without the `\x` that to_jsonb would leave.
    return jsontext.dumps(value.removeprefix("\\x"))


def _finite(value: str) -> str | None:
    return "null" if value in ("NaN", "Infinity", "-Infinity") else value


def _float(value: str) -> str | None:
    # Exponents are written out by to_jsonb.
    return None if "e" in value else _finite(value)


def _timestamp(value: str) -> str | None:
    # Years beyond 9999 or BC, and infinity: let Postgres do it.
    return (
        jsontext.dumps(value.replace(" ", "T"))
        if value[:4].isdigit() and value[4:5] == "-" and "B" not in value
        else None
    )


def _timestamp_with_zone(value: str) -> str | None:
    # Sessions of this server run in UTC, so the offset is always +00.
    return _timestamp(f"{value}:00") if value.endswith("+00") else None


_RENDERERS: dict[int, Callable[[str], str | None]] = {
    _BOOL: _boolean,
    _BYTEA: _bytes,
    _NAME: _text,
    _INT8: _number,
    _INT2: _number,
    _INT4: _number,
    _TEXT: _text,
    _FLOAT4: _float,
    _FLOAT8: _float,
    _VARCHAR: _text,
    _DATE: _text,
    _TIMESTAMP: _timestamp,
    _TIMESTAMPTZ: _timestamp_with_zone,
    _NUMERIC: _finite,
    _UUID: _text,
    _JSONB: _number,  # its text is its JSON
}
