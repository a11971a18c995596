"""What a check of an export finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from runhold.errors import RunholdError


class NotAnExport(RunholdError):
    """The file is no export, or none that this version reads. The text says why, in one sentence."""


class Harm(StrEnum):
    """What happened to a file."""

    CHANGED = "changed"
    """Something in it is not as it was: changed, added, removed or moved."""

    TRUNCATED = "truncated"
    """Its end is missing; what is left may be as it was."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it was, told in a sentence."""

    harm: Harm
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check found.

    :ivar execution_id: the run, as the file says.
    :ivar records: how many records the file has.
    :ivar head: the hash of the last of them.
    :ivar findings: empty if all is as it was.
    :ivar hashes_checked: reviews whose ``input_hash`` was made anew from the exported rows, and is the same.
    :ivar hashes_unchecked: reviews of which that is impossible, because the tools were withheld from whoever
        exported.
    :ivar approvals_checked: approvals that were used, for exactly what was approved.
    """

    execution_id: str | None = None
    records: int = 0
    head: str | None = None
    findings: tuple[Finding, ...] = ()
    hashes_checked: int = 0
    hashes_unchecked: int = 0
    approvals_checked: int = 0

    @property
    def harm(self) -> Harm | None:
        """The worst of the findings; None: all is as it was."""
        harms = {finding.harm for finding in self.findings}
        return Harm.CHANGED if Harm.CHANGED in harms else Harm.TRUNCATED if harms else None


def changed(text: str) -> Finding:
    """Something is not as it was."""
    return Finding(harm=Harm.CHANGED, text=text)


def truncated(text: str) -> Finding:
    """The end is missing."""
    return Finding(harm=Harm.TRUNCATED, text=text)


def ranges(numbers: Iterable[int], name: str = "Record") -> str:
    """``Record 3``, ``Records 3 to 5 and 9``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    parts = [" to ".join(map(str, run)) for run in runs]
    several = len(runs) > 1 or len(runs[0]) > 1
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{name}{'s' if several else ''} {text}"
