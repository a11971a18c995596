"""Which names tools and agent types may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

from runhold.errors import AgentDefinitionError

_TOOL_NAME: Final = re.compile(
    r"[a-zA-Z0-9_-]{1,64}"
)  # what chat-completion APIs accept as a function's name
_TYPE_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")  # it stands in topics, URLs and SQL as it is


def require_tool_name(name: str) -> str:
    """:raises AgentDefinitionError: models' APIs would refuse the name."""
    if not _TOOL_NAME.fullmatch(name):
        raise AgentDefinitionError(
            f"Tool name {name!r} is not accepted by models' APIs: use 1 to 64 letters, digits, _ or - "
            '(give one with @tool(name="…")).'
        )
    return name


def require_type_name(name: str) -> str:
    """:raises AgentDefinitionError: the name can't be an agent type's."""
    if not _TYPE_NAME.fullmatch(name):
        raise AgentDefinitionError(
            f"Agent type {name!r} is not a valid name: use 1 to 63 lower-case letters, digits, _ or -, "
            "starting with a letter."
        )
    return name


def require_field_paths(paths: object, what: str) -> tuple[str, ...]:
    """The names of fields, each a dotted path.

    :raises AgentDefinitionError: one of them can't be.
    """
    if isinstance(paths, str) or not isinstance(paths, Iterable):
        raise AgentDefinitionError(
            f'{what} has redact={paths!r}: give a list of names, such as ("card_number",).'
        )
    names = tuple(cast("Iterable[Any]", paths))
    for name in names:
        if not isinstance(name, str) or not all(part.strip() for part in name.split(".")):
            raise AgentDefinitionError(
                f"{what} redacts {name!r}: give the name of a field, or the path to it with dots between the names."
            )
    return names
