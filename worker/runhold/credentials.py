"""Credentials in texts that nobody wrote for others to read: messages of exceptions, lines of logs.

A driver that can't connect quotes its connection string, an HTTP client the headers that it sent. Such a text goes into
a row that the run's user reads, to the model and into logs; what lets somebody in is taken out before.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[secret]"

SECRET_KEY: Final = re.compile(r"\bsb_secret_[\w-]+")
PERSONAL_TOKEN: Final = re.compile(r"\bsbp_[\w-]{16,}")
"""Of a person, for Supabase's own API."""
JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
"""Begins with ``{"`` in base64."""
MODEL_KEY: Final = re.compile(r"\bsk-[\w-]{16,}")
"""Of OpenAI, Anthropic, OpenRouter and others."""
WEBHOOK_SECRET: Final = re.compile(r"\bwhsec_[\w+/=-]{16,}")

_CREDENTIALS: Final = (
    SECRET_KEY,
    PERSONAL_TOKEN,
    JWT,
    MODEL_KEY,
    WEBHOOK_SECRET,
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
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
