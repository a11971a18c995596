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
from typing import Final, TextIO

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

HIDDEN: Final = "[secret]"


def configure_logging(
    *,
    level: int = logging.INFO,
    as_json: bool = False,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send all logs of the process to ``stream`` (standard error), replacing what was set up before.

    :param as_json: one JSON object per line.
    :param secrets: texts that must not be logged, whoever tries to.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    secret = tuple(text for text in secrets if text)
    handler.setFormatter(_JsonFormatter(secret) if as_json else _TextFormatter(secret))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = self.render(record, fields)
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line

    def render(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        raise NotImplementedError

    def trace(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class _TextFormatter(_Formatter):
    def render(self, record: logging.LogRecord, fields: dict[str, object]) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        told = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
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
        return json.dumps(said, default=str, ensure_ascii=False)
