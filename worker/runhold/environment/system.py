"""On which systems Runhold runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

from runhold.errors import ConfigError

NEEDED: Final = ("fcntl", "pwd")
"""Modules of Python that only exist on Unix."""


def require_unix() -> None:
    """Refuse a system that lacks what workers, the local stack and the commands are built on.

    :raises ConfigError: one sentence.
    """
    if sys.platform == "win32" or not all(_exists(name) for name in NEEDED):
        raise ConfigError(
            "Runhold's worker, commands and local stack need Linux or macOS: on Windows, use WSL "
            "(https://learn.microsoft.com/windows/wsl)."
        )


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # somebody keeps it from being imported
        return False
