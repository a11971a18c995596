"""``ctx.state``: a small dict that a run keeps, stored only when it changed."""

from __future__ import annotations

from typing import Any, cast

from pydantic_core import PydanticSerializationError, to_jsonable_python

from runhold.agents.context import STATE_MAX_BYTES
from runhold.loop.canonical import canonical_json, clean
from runhold.loop.endings import failed
from runhold.loop.ports import JsonObject


class RunState:
    """The run's state, shared by all of its tool calls.

    :ivar values: what tools see and change in place.
    """

    def __init__(self, stored: JsonObject) -> None:
        self.values: dict[str, Any] = dict(stored)
        self._stored = canonical_json(stored)
        self._problem: str | None = None

    def take_changed(self) -> JsonObject | None:
        """The state as it is to be stored, or None if it need not (or can't) be stored."""
        if not self.values and self._stored == "{}":
            return None
        try:
            state = cast("JsonObject", clean(to_jsonable_python(dict(self.values))))
        except (PydanticSerializationError, ValueError, TypeError) as error:
            self._problem = f"ctx.state holds something that is not JSON: {error}."
            return None
        text = canonical_json(state)
        if text == self._stored:
            return None
        size = len(text.encode())
        if size > STATE_MAX_BYTES:
            self._problem = (
                f"ctx.state has {size} bytes of the {STATE_MAX_BYTES} allowed: keep large values in a table."
            )
            return None
        self._stored, self._problem = text, None
        return state

    def require_storable(self) -> None:
        """:raises Ending: a tool left a state that can't be stored. Going on would lose it silently."""
        if self._problem is not None:
            raise failed("INTERNAL_ERROR", self._problem)
