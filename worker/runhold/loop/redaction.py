"""Which fields of tool calls ``redact`` names, and how they are left out of what people read.

A tool's names are paths from the root of its arguments, and of its output: ``card_number``, ``address.street``. An
agent's names are the ends of paths, so a bare name means every field of that name in any call. Lists on the way don't
count: ``items.price`` names the price of every item.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from runhold.agents import Agent
from runhold.loop.ports import Json, JsonObject

MARK: Final = "$redacted"
"""The member that stands for a value in the log. An object that brings it along is a value like any other: redacted."""

HIDDEN: Final = "[redacted]"
"""What people read in place of a value."""

HIDDEN_TEXT_MIN: Final = 3
"""Characters from which on a redacted value is also looked for in texts: shorter ones are in every text."""

Logger = logging.Logger | logging.LoggerAdapter[Any]

Path = tuple[str, ...]
Replace = Callable[[str, Json], Json]
"""(dotted path, value) → what stands in its place."""


class Redaction:
    """The redacted fields of one agent's tool calls."""

    def __init__(self, tools: Mapping[str, Iterable[str]], everywhere: Iterable[str] = ()) -> None:
        self._tools = {name: frozenset(map(_path, paths)) for name, paths in tools.items()}
        self._everywhere = frozenset(map(_path, everywhere))

    @classmethod
    def of(cls, agent: Agent) -> Redaction:
        """What the agent and its tools ask for."""
        return cls({tool.name: tool.redact for tool in agent.tools}, agent.redact)

    def __bool__(self) -> bool:
        return bool(self._everywhere) or any(self._tools.values())

    def concerns(self, tool_name: str) -> bool:
        """Whether calls of this tool may have such fields."""
        return bool(self._everywhere or self._tools.get(tool_name))

    def replaced(self, tool_name: str, value: Json, replace: Replace) -> Json:
        """``value`` with every redacted field replaced; ``value`` itself if there is none. Null is left as it is."""
        if not self.concerns(tool_name) and not _has_mark(value):
            return value
        return self._walk(self._tools.get(tool_name, frozenset()), value, (), replace)

    def masked(self, tool_name: str, value: Json) -> Json:
        """``value`` as people may read it."""
        return self.replaced(tool_name, value, lambda path, item: HIDDEN)

    def texts(self, tool_name: str, value: Json) -> list[str]:
        """The redacted values in ``value`` as they may stand in a text, longest first."""
        found: set[str] = set()

        def note(path: str, item: Json) -> Json:
            found.update(_texts(item))
            return item

        self.replaced(tool_name, value, note)
        return sorted((text for text in found if len(text) >= HIDDEN_TEXT_MIN), key=len, reverse=True)

    def _walk(self, paths: frozenset[Path], value: Json, at: Path, replace: Replace) -> Json:
        if isinstance(value, dict):
            given = cast("JsonObject", value)
            if MARK in given:
                return replace(".".join(at), given)
            made: JsonObject = {}
            for key, item in given.items():
                here = (*at, key)
                named = item is not None and (
                    here in paths or any(here[-len(end) :] == end for end in self._everywhere)
                )
                made[key] = replace(".".join(here), item) if named else self._walk(paths, item, here, replace)
            return made if any(made[key] is not given[key] for key in given) else given
        if isinstance(value, list):
            items = cast("list[Json]", value)
            walked = [self._walk(paths, item, at, replace) for item in items]
            return walked if any(new is not old for new, old in zip(walked, items, strict=True)) else items
        return value


def _has_mark(value: Json) -> bool:
    """Whether any object in ``value`` brings the mark along."""
    if isinstance(value, dict):
        given = cast("JsonObject", value)
        return MARK in given or any(map(_has_mark, given.values()))
    return isinstance(value, list) and any(map(_has_mark, cast("list[Json]", value)))


def hide(text: str, texts: Sequence[str]) -> str:
    """``text`` without any of ``texts``."""
    for each in texts:
        text = text.replace(each, HIDDEN)
    return text


def hide_everywhere(value: Json, texts: Sequence[str]) -> Json:
    """``value`` without any of ``texts`` in its strings."""
    if isinstance(value, str):
        return hide(value, texts)
    if isinstance(value, dict):
        return {key: hide_everywhere(item, texts) for key, item in cast("JsonObject", value).items()}
    if isinstance(value, list):
        return [hide_everywhere(item, texts) for item in cast("list[Json]", value)]
    return value


def log_failure(log: Logger, level: int, said: str, error: BaseException, texts: Sequence[str]) -> None:
    """Log ``said`` and the traceback of ``error``, which may quote what it was given."""
    if not texts:
        log.log(level, said, exc_info=error)
        return
    trace = "".join(traceback.format_exception(error)).rstrip()
    log.log(level, "%s\n%s", said, hide(trace, texts))


def _path(name: str) -> Path:
    return tuple(name.split("."))


def _texts(value: Json) -> Iterable[str]:
    if isinstance(value, str):
        yield value
        yield repr(value)[1:-1]  # as a traceback quotes it
        yield json.dumps(value)[1:-1]
    elif isinstance(value, dict):
        for item in cast("JsonObject", value).values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Json]", value):
            yield from _texts(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield json.dumps(value)


NOTHING: Final = Redaction({})
"""No field of no tool."""
