"""What a client asks for with `postgres_changes`: its bindings, as the join sends them."""

import hashlib
from dataclasses import dataclass

from runhold.local.realtime import jsontext
from runhold.local.realtime.errors import SubscriptionError
from runhold.local.realtime.filters import Condition, parse_filter
from runhold.local.realtime.jsontext import Json, JsonObject

ANY = "*"

_ID_LIMIT = 2**27 - 1  # ids are 1..limit, as hosted


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Binding:
    """One request for changes.

    `event`: INSERT, UPDATE, DELETE or `*`. `schema`, `table`: a name or `*`. `selected`: the columns to send
    besides the key, None = all.
    """

    id: int
    event: str
    schema: str
    table: str
    conditions: tuple[Condition, ...]
    selected: frozenset[str] | None

    def describe(self) -> str:
        """The binding as error texts show it."""
        select = "nil" if self.selected is None else jsontext.dumps([*sorted(self.selected)])
        filters = ", ".join(str(condition) for condition in self.conditions)
        return (
            f"[event: {self.event}, schema: {self.schema}, table: {self.table}, filters: [{filters}],"
            f" select: {select}]"
        )


def binding_ids(requests: list[JsonObject]) -> list[int]:
    """An id for each request: stable for equal parameters, distinct for different ones."""
    taken: dict[int, str] = {}
    ids: list[int] = []
    for request in requests:
        text = jsontext.dumps(dict(sorted(request.items())))
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _ID_LIMIT + 1
        while taken.setdefault(number, text) != text:
            number = number % _ID_LIMIT + 1
        ids.append(number)
    return ids


def parse_binding(request: JsonObject, binding_id: int) -> Binding:
    """One binding. Raises SubscriptionError, whose text goes to the client."""
    schema, table = _name(request.get("schema")), _name(request.get("table"))
    if schema is None and table is None:
        raise SubscriptionError(
            "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
            + jsontext.dumps(request)
        )
    event = request.get("event")
    kind = event.upper() if isinstance(event, str) else ANY
    filter_text = request.get("filter")
    binding = Binding(
        id=binding_id,
        event=kind if kind in ("INSERT", "UPDATE", "DELETE") else ANY,
        schema=schema or "public",
        table=table or ANY,
        conditions=parse_filter(filter_text) if isinstance(filter_text, str) else (),
        selected=_selected(request.get("select")),
    )
    if binding.selected is not None and ANY in (binding.schema, binding.table):
        raise SubscriptionError("`select` needs one `schema` and one `table`, not a wildcard")
    return binding


def _name(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _selected(value: Json) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SubscriptionError("`select` must be a list of column names")
    return frozenset(name for name in value if isinstance(name, str)) or None
