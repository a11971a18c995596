"""Filters of `postgres_changes`: `column=[not.]op.value`, several joined by commas."""

from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from runhold.local.realtime import jsontext
from runhold.local.realtime.catalog import TypeInfo
from runhold.local.realtime.database import trusted
from runhold.local.realtime.errors import FilterError

IN_LIMIT = 100  # values of one `in`, as hosted

_COMPARISONS: dict[str, LiteralString] = {
    "eq": "=",
    "neq": "<>",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "isdistinct": "is distinct from",
}
# These compare with a text pattern, whatever the type of the column.
_PATTERNS: dict[str, LiteralString] = {"like": "like", "ilike": "ilike", "match": "~", "imatch": "~*"}
_IS: dict[str, LiteralString] = {
    "null": "is null",
    "true": "is true",
    "false": "is false",
    "unknown": "is unknown",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition of a filter. `value` is unquoted; for `in` it is the text between the parentheses."""

    column: str
    operator: str
    value: str
    negated: bool

    def expression(self, type_info: TypeInfo, current: str | None) -> sql.Composed:
        """SQL that is true, false or null for the column's value `current`, given as text of its type."""
        subject = sql.SQL("{}::{}").format(sql.Literal(current), trusted(type_info.cast))
        # Without the column's length or scale: 'abcd' must not become 'abc' only because the column is
        # varchar(3).
        value_type = trusted(type_info.plain_cast)
        if self.operator == "in":
            value = sql.SQL("{}::{}[]").format(sql.Literal(f"{{{self.value}}}"), value_type)
            test = sql.SQL("{} = any ({})").format(subject, value)
        elif self.operator == "is":
            test = sql.SQL("{} {}").format(subject, sql.SQL(_IS[self.value.lower()]))
        elif self.operator in _PATTERNS:
            test = sql.SQL("{} {} {}::text").format(
                subject, sql.SQL(_PATTERNS[self.operator]), sql.Literal(self.value)
            )
        else:
            test = sql.SQL("{} {} {}::{}").format(
                subject, sql.SQL(_COMPARISONS[self.operator]), sql.Literal(self.value), value_type
            )
        return sql.SQL("not ({})" if self.negated else "({})").format(test)

    def __str__(self) -> str:
        operator = f"not.{self.operator}" if self.negated else self.operator
        return "{" + ", ".join(jsontext.dumps(part) for part in (self.column, operator, self.value)) + "}"


def parse_filter(text: str) -> tuple[Condition, ...]:
    """Conditions of a filter, () for a blank one. Raises FilterError, whose text goes to the client."""
    if not text.strip():
        return ()
    return tuple(_parse_condition(segment) for segment in _split(text))


def _parse_condition(segment: str) -> Condition:
    if not segment.strip():
        raise FilterError("filter must not contain empty segments (check for extra commas)")
    column, equals, test = segment.partition("=")
    operator, dot, value = test.partition(".")
    negated = operator == "not" and bool(dot)
    if negated:
        operator, dot, value = value.partition(".")
    known = operator in _COMPARISONS or operator in _PATTERNS or operator in ("in", "is")
    if not column.strip() or not equals or not dot or not known:
        parts = [operator, value] if equals and dot else [segment]
        raise FilterError(
            f"Error parsing `filter` params: [{', '.join(jsontext.dumps(part) for part in parts)}]"
        )
    if operator == "in":
        value = _in_values(value)
    elif operator == "is" and value.lower() not in _IS:
        raise FilterError("`is` filter must be one of null, true, false, unknown")
    else:
        value = _unquoted(value)
    return Condition(column=column.strip(), operator=operator, value=value, negated=negated)


def _in_values(value: str) -> str:
    if not (value.startswith("(") and value.endswith(")")):
        raise FilterError("`in` filter value must be wrapped by parentheses")
    values = value[1:-1]
    if len(_split(values)) > IN_LIMIT:
        raise FilterError(f"`in` filter must not have more than {IN_LIMIT} values")
    return values


def _split(text: str) -> list[str]:
    """Split at commas outside of parentheses and quotes."""
    depth, quoted, escaped, previous = 0, False, False, ","
    parts = [""]
    for char in text:
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            # Elsewhere a quote is just a character of the value, as in 5" pipe.
            quoted = previous in ".(,"
        elif char == "(":
            depth += 1
        elif char == ")":
            depth = max(depth - 1, 0)
        elif char == "," and depth == 0:
            parts.append("")
            previous = char
            continue
        parts[-1] += char
        previous = char
    return parts


def _unquoted(value: str) -> str:
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    plain: list[str] = []
    characters = iter(value[1:-1])
    for char in characters:
        plain.append(next(characters, "") if char == "\\" else char)
    return "".join(plain)
