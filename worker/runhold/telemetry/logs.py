"""Structured logs: a line for people, or a JSON object for machines, with the same fields.

Fields of a line, where they apply: ``run_id``, ``step``, ``attempt``, ``agent_type``, ``worker_id``, ``code`` and
``action`` (what happened, one word: ``ready``, ``completed``, ``failed``, ``dropped``, ``stuck``, …).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TextIO, cast

from runhold.credentials import HIDDEN, hide_credentials

_STANDARD: Final = frozenset(
    (*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName")
)
_QUIET: Final = {
    "httpx": logging.WARNING,  # a line per request, at INFO
    "httpcore": logging.WARNING,
    "hpack": logging.WARNING,
    "websockets": logging.WARNING,  # the handshake, with the key in its URL, at DEBUG
    "realtime": logging.CRITICAL,  # an error per failed attempt; our listener says it once
}

_TOLD: Final = frozenset({"action", "reason"})
"""Words for machines: the message says the same to people."""


def configure_logging(
    *,
    level: int = logging.INFO,
    as_json: bool = False,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send all logs of the process to ``stream`` (standard error), replacing what was set up before.

    :param level: of what Runhold says; others are heard from WARNING on, or above.
    :param as_json: one JSON object per line.
    :param secrets: texts that must not be logged, whoever tries to.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    secret = tuple(sorted((text for text in secrets if text), key=len, reverse=True))
    handler.setFormatter(_JsonFormatter(secret) if as_json else _TextFormatter(secret))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("runhold").setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return self.hide(self.render(record, fields))

    def hide(self, text: str) -> str:
        """``text`` without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return hide_credentials(text)

    def render(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        raise NotImplementedError

    def trace(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class _TextFormatter(_Formatter):
    def render(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        when = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds")
        told = " ".join(
            f"{name}={value}" for name, value in fields.items() if value is not None and name not in _TOLD
        )
        line = f"{when} {record.levelname:<7} {record.getMessage()}{'  ' if told else ''}{told}"
        trace = self.trace(record)
        return f"{line}\n{trace}" if trace else line


class _JsonFormatter(_Formatter):
    def render(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        said: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if trace := self.trace(record):
            said["trace"] = trace
        # hidden before it is written as JSON, too: quotes and line breaks of a secret look different there
        return json.dumps(self._hidden(said), ensure_ascii=False)

    def _hidden(self, value: object) -> object:
        match value:
            case dict():
                items = cast("dict[object, object]", value).items()
                return {self.hide(str(key)): self._hidden(item) for key, item in items}
            case list() | tuple():
                return [self._hidden(item) for item in cast("list[object]", value)]
            case None | bool() | int() | float():
                return value
            case _:
                return self.hide(str(value))
