"""Options that several commands share."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from runhold.cli.exits import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on standard output.")]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="EMAIL", help="Act as this person, if several are signed in.", show_default=False
    ),
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id, or how it begins.", show_default=False)
]
ReviewId = Annotated[
    str,
    typer.Argument(
        metavar="REVIEW",
        help="The review's id, or how it begins; the run's does, too, if it has one open review.",
        show_default=False,
    ),
]
ReviewIds = Annotated[
    list[str],
    typer.Argument(
        metavar="REVIEW...",
        help="One or more reviews: the id, or how it begins; the run's does, too, if it has one open review.",
        show_default=False,
    ),
]

USUAL_PORT: Final = 54321
"""The API's, as in Supabase's own local stack (``runhold.local.stack.DEFAULT_PORT``)."""

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_json(text: str, option: str) -> Any:
    """The JSON of an option: itself, ``@file``, or ``-`` for standard input.

    :raises UsageError: it is none.
    """
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{option}: {text[1:]} can't be read: {reason}.") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(
            f'{option} is no JSON ({error}): give it in quotes, like \'{{"name": "value"}}\', or as @file.'
        ) from error


def read_object(text: str, option: str) -> dict[str, Any]:
    """Likewise, a JSON object."""
    value = read_json(text, option)
    if not isinstance(value, dict):
        raise UsageError(f'{option} must be a JSON object, like \'{{"name": "value"}}\'.')
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


def read_since(text: str) -> datetime:
    """A point in time: a span back from now (``30m``, ``24h``, ``7d``, ``2w``) or a date, as ISO 8601 writes it."""
    span, at = _span(text), _time(text)
    if span is not None:
        return _from_now(-span, text)
    if at is None:
        raise UsageError(f"{text!r} is no time: give 30m, 24h, 7d, 2w or a date like 2026-01-31.")
    return at


def read_span(text: str, option: str) -> timedelta:
    """A length of time: ``90s``, ``30m``, ``24h``, ``7d``, ``2w``.

    :raises UsageError: it is none.
    """
    span = _span(text)
    if span is None:
        raise UsageError(f"{option} {text!r} is no span: give 90s, 30m, 24h, 7d or 2w.")
    return span


def read_start(at: str | None, within: str | None) -> datetime | None:
    """When a run may start: a time (``--at``) or a span from now on (``--in``); None: at once.

    :raises UsageError: it is neither, or both were given.
    """
    if at is not None and within is not None:
        raise UsageError("Give either --at or --in.")
    if within is not None:
        return _from_now(read_span(within, "--in"), within)
    if at is None:
        return None
    time = _time(at)
    if time is None:
        raise UsageError(f"--at {at!r} is no time: give one like 2026-01-31T09:00, or with a zone ...+01:00.")
    if time <= datetime.now(UTC):
        raise UsageError(f"--at {at} has passed: leave it out to start at once.")
    return time


def _span(text: str) -> timedelta | None:
    match = _SPAN.fullmatch(text.strip())
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None
    except OverflowError as error:
        raise UsageError(f"{text} is too long.") from error


def _time(text: str) -> datetime | None:
    """ISO 8601; without a zone it is the time here."""
    try:
        at = datetime.fromisoformat(text.strip())
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        return None


def _from_now(span: timedelta, text: str) -> datetime:
    try:
        return datetime.now(UTC) + span
    except OverflowError as error:
        raise UsageError(f"{text} is too long.") from error
