"""The plans of a call and of every statement in the functions that it calls, as PostgreSQL runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg

_NUMBER: Final = re.compile(r"\d+")
_HAS_TEXT: Final = re.compile(r"Query Text:\s*\S")

_ON: Final[tuple[LiteralString, ...]] = (
    "load 'auto_explain'",
    "set auto_explain.log_nested_statements = on",
    "set auto_explain.log_min_duration = 0",
    "set auto_explain.log_analyze = on",
    "set auto_explain.log_timing = off",
    "set auto_explain.log_buffers = on",
    "set client_min_messages = log",
)
_OFF: Final[tuple[LiteralString, ...]] = (
    "set auto_explain.log_min_duration = -1",
    "reset client_min_messages",
)


@contextmanager
def explaining(connection: psycopg.Connection[Any]) -> Iterator[list[str]]:
    """The plans of all that runs on ``connection`` in this block, in its order. For superusers."""
    told: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        told.append(diagnostic.message_primary or "")

    for statement in _ON:
        connection.execute(statement)
    connection.add_notice_handler(note)
    try:
        yield told
    finally:
        connection.remove_notice_handler(note)
        for statement in _OFF:
            connection.execute(statement)


def once_each(told: list[str]) -> list[str]:
    """One plan of each statement: of those that ran several times the first."""
    first: dict[str, str] = {}
    for plan in told:
        _, found, text = plan.partition("plan:\n")
        if found:
            query = text.partition("\nQuery Parameters:")[0].partition("  (cost=")[0]
            # functions with a body that was parsed when they were made have no text: their plans tell them apart
            first.setdefault(query if _HAS_TEXT.match(query) else _NUMBER.sub("", text), text)
    return [text.rstrip() for text in first.values()]
