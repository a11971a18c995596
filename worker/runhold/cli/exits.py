"""With which status the command ends, and why. ``docs/reference/cli.md`` has the same table; a test says so."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from runhold.agents import InvalidData
from runhold.errors import ConfigError, Refused, RunholdError, StoreUnavailable
from runhold.local.errors import StackError


class Exit(IntEnum):
    """Exit statuses that scripts can rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    RUN_FAILED = 5
    RUN_CANCELLED = 6
    RUN_WAITS = 7
    DEGRADED = 8
    NOT_AN_EXPORT = 9
    CHANGED = 10
    TRUNCATED = 11
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.OK: "done; with `--watch` or `watch`: the run completed",
    Exit.FAILED: "refused or failed; the message says why",
    Exit.USAGE: "the command line, or a variable that stands for an option, can't be understood",
    Exit.NOT_FOUND: "not found, not yours, not allowed, or not signed in",
    Exit.UNREACHABLE: "no project configured, a wrong URL, key or variable, or nothing answers there",
    Exit.RUN_FAILED: "the run that was watched failed",
    Exit.RUN_CANCELLED: "the run that was watched was cancelled",
    Exit.RUN_WAITS: "the run that was watched waits for a person (only with `--until-review`)",
    Exit.DEGRADED: "`doctor`: workers work, but slower than they could",
    Exit.NOT_AN_EXPORT: "`verify`: the file is no export: not JSON, or another format",
    Exit.CHANGED: "`verify`: the export was changed",
    Exit.TRUNCATED: "`verify`: the export was cut short",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}

RUN_EXITS: Final[dict[str, Exit]] = {
    "completed": Exit.OK,
    "failed": Exit.RUN_FAILED,
    "cancelled": Exit.RUN_CANCELLED,
    "awaiting_review": Exit.RUN_WAITS,
}

_NOT_ALLOWED: Final = frozenset(
    {"RH006", "RH009", "RH010", "RH015", "RH021", "42501", "PGRST301", "PGRST302", "PGRST303"}
)


class CommandError(RunholdError):
    """A command can't do what was asked. The text is one sentence for the person at the terminal."""

    def __init__(self, message: str, *, exit_with: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_with = exit_with


class UsageError(CommandError):
    """An argument makes no sense."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_with=Exit.USAGE)


class NotFound(CommandError):
    """Nothing by that name, or nothing that this person may see."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_with=Exit.NOT_FOUND)


def exit_of(error: BaseException) -> Exit:
    """The status that an error ends the command with."""
    match error:
        case CommandError():
            return error.exit_with
        case Refused() if error.code in _NOT_ALLOWED:
            return Exit.NOT_FOUND
        case InvalidData():
            return Exit.FAILED
        case ConfigError() | StoreUnavailable() | StackError():
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED
