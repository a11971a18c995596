"""What a database lacks of the release: what ``agent_installation()`` answers, in words and as SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from runhold.errors import ConfigError, Refused
from runhold.local.project import own_backend
from runhold.store.answers import MISSING_FUNCTION
from runhold.store.client import Access, FixedAccess, Rpc, connect

CALL: Final = "agent_installation"
TIMEOUT_S: Final = 10.0

NO_SUCH_FUNCTION: Final = "42883"
"""SQLSTATE of PostgreSQL: here, a function is missing that the comparison itself calls."""

COMPARING: Final = ("20261122001900_describe.sql", "20261122001910_installation.sql")
"""The migrations that make the comparison's own functions. They may be applied again."""

PREAMBLE: Final = """\
set local lock_timeout = '10s';
set local statement_timeout = 0;
set local check_function_bodies = off;"""
"""Locks that workers hold end the repair instead of queueing behind them; an index may take its time; bodies may name
what comes later."""

_SHOWN_CHARS: Final = 120
"""A definition up to so long is shown in a line; a longer one is left to the SQL."""

_STATES: Final = {"missing": "missing", "changed": "differs", "extra": "too many"}

State = Literal["missing", "changed", "extra"]


class NotComparable(ConfigError):
    """The database can't be compared with its release."""


class RowsMissing(NotComparable):
    """There is nothing to compare with."""

    def __init__(self) -> None:
        super().__init__(
            "The rows of runhold.release_objects are missing, so nothing can be compared: restore the data of the "
            "backup, too, or this table alone."
        )


class FunctionsMissing(NotComparable):
    """The functions that compare are missing themselves. A repair begins with them."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"A function that compares the database with the release is missing ({detail.rstrip('.')})."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An object that is missing, that differs from the release, or rights that the release does not give.

    :ivar optional: workers do without it.
    :ivar implied: it is missing because another object is, which is a fault, too.
    :ivar here: how it is, if that is short enough to be compared by eye.
    :ivar sql: brings it back.
    """

    kind: str
    identity: str
    state: State
    optional: bool
    implied: bool
    here: str | None
    release: str | None
    sql: str

    @property
    def name(self) -> str:
        """In words: ``rights of anon on table public.agent_usage``."""
        return f"{self.kind} of {self.identity}" if self.kind in _OF else f"{self.kind} {self.identity}"

    @property
    def line(self) -> str:
        """State, name, and what is here and in the release where that fits into a line."""
        given = {"here": self.here, "release": self.release}
        pairs = [f"{place}: {text}" for place, text in given.items() if text is not None]
        is_short = all(len(text or "") <= _SHOWN_CHARS for text in given.values())
        shown = f" ({'; '.join(pairs)})" if pairs and is_short and self.state != "missing" else ""
        return f"{_STATES[self.state]:<9}{self.name}{shown}"


_OF: Final = frozenset({"rights", "role membership", "not-null rule", "default", "row level security"})


@dataclass(frozen=True, slots=True)
class Installation:
    """The answer: every fault, in the order in which the SQL has to run."""

    faults: Sequence[Fault]

    @property
    def named(self) -> list[Fault]:
        """The faults to show: first what is missing, then what differs, then rights that should not be there."""
        return sorted((each for each in self.faults if not each.implied), key=lambda each: _ORDER[each.state])

    @property
    def is_optional(self) -> bool:
        """Whether workers do without all that is missing."""
        return all(fault.optional for fault in self.named)

    @property
    def script(self) -> str:
        """All the SQL as one transaction, for the SQL editor or psql."""
        return "".join(_script(self.faults))


_ORDER: Final = {"missing": 0, "changed": 1, "extra": 2}


def _script(faults: Sequence[Fault]) -> Iterator[str]:
    yield "-- Brings back what this database lacks of Runhold's release: all of it, or nothing if a statement fails.\n"
    yield f"begin;\n{PREAMBLE}\n"
    for fault in faults:
        yield f"\n-- {' '.join(fault.line.split())}\n{fault.sql}\n"
    yield "\nnotify pgrst, 'reload schema';\ncommit;\n"


def comparing_sql() -> str:
    """The SQL that makes the comparison's own functions, as one transaction."""
    files = "\n".join(path.read_text(encoding="utf-8") for path in comparing_files())
    return f"begin;\n{PREAMBLE}\n{files}\nnotify pgrst, 'reload schema';\ncommit;\n"


def comparing_files() -> list[Path]:
    """The files of :data:`COMPARING`."""
    return [own_backend() / "migrations" / name for name in COMPARING]


def read_installation(answer: Any) -> Installation:
    """The answer of the database.

    :raises RowsMissing: there is nothing to compare with.
    """
    given = cast("dict[str, Any]", answer)
    if not given["objects"]:
        raise RowsMissing
    return Installation([Fault(**{name: fault[name] for name in _FIELDS}) for fault in given["faults"]])


_FIELDS: Final = ("kind", "identity", "state", "optional", "implied", "here", "release", "sql")


async def ask_api(url: str, access: Access) -> Installation:
    """Compare through the API.

    :raises NotComparable: a function or the rows of the release are missing.
    :raises StoreError: it was refused or not answered.
    """
    client = await connect(url, access, timeout_s=TIMEOUT_S, connections=1)
    rpc = Rpc(client, FixedAccess(access))
    try:
        return await rpc.call(CALL, {}, deadline_s=2.0, read=read_installation)
    except Refused as error:
        if error.code in (MISSING_FUNCTION, NO_SUCH_FUNCTION):
            raise FunctionsMissing(str(error)) from error
        raise
    finally:
        await rpc.aclose()
