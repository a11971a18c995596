"""Credentials in texts that nobody wrote for others to read: messages of exceptions, lines of logs.

A driver that can't connect quotes its connection string, an HTTP client the headers that it sent. Such a text goes into
a row that the run's user reads, to the model and into logs; what lets somebody in is taken out before.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[secret]"

_CREDENTIALS: Final = (
    re.compile(r"\bsb_secret_[\w-]+"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JWT: begins with {" in base64
    re.compile(r"\bsk-[\w-]{16,}"),  # keys of OpenAI, Anthropic, OpenRouter and others
    re.compile(r"(?i)(?<=\bbearer )[\w.~+/=-]{8,}"),
    re.compile(r"(?i)(?<=\bbasic )[\w+/=-]{8,}"),
    re.compile(r"(?<=://)(?P<user>[^\s/:@'\"]*):(?P<secret>[^\s/@'\"]+)(?=@)"),
    re.compile(
        r"(?i)(?P<name>\b(?:password|passwd|pwd|secret|api[_-]?key|(?:access_|refresh_)?token)=)"
        r"(?P<quoted>'[^']*'|\"[^\"]*\"|[^\s'\"&;,)]+)"
    ),
)


def hide_credentials(text: str) -> str:
    """``text`` with ``[secret]`` in place of what is recognisably a key, a token or a password in a URL or DSN."""
    for pattern in _CREDENTIALS:
        text = pattern.sub(_hidden, text)
    return text


def _hidden(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if "user" in groups:
        return f"{groups['user']}:{HIDDEN}"
    return f"{groups.get('name', '')}{HIDDEN}"
