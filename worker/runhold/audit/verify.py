"""Is the file what was exported? And if not, what happened to it?"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from runhold.audit.approvals import check_approvals
from runhold.audit.chain import FORMAT, START, link
from runhold.audit.exact import Number, Object, TwiceNamed, Value, read
from runhold.audit.findings import Finding, Harm, NotAnExport, Report, changed, ranges, truncated

_FAMILY: Final = FORMAT.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One record as the file has it. ``number`` is None where it has none."""

    number: int | None
    record: Object
    hash: str | None

    @property
    def kind(self) -> str:
        kind = self.record.get("kind")
        return kind if isinstance(kind, str) else "?"


def verify(content: bytes, *, head: str | None = None) -> Report:
    """Check an export.

    :param head: the head that was kept elsewhere. Without it, a file whose records were changed and whose hashes
        were all made anew looks whole.
    :raises NotAnExport: this is none, or of a format that this version does not read.
    """
    loaded = _load(content)
    if isinstance(loaded, Finding):
        return Report(findings=(loaded,))
    entries, shape = _entries(loaded)
    findings = [*shape, *_broken_links(entries)]
    last = entries[-1].hash if entries else None
    if loaded.get("head") != last and not any(finding.harm is Harm.TRUNCATED for finding in findings):
        findings.append(changed("The head that the file names is not its last record's hash."))
    if head is not None and head != last and not findings:
        findings.append(
            changed(
                "The head is not the one that was kept: this is another export, or it was changed and sealed anew."
            )
        )
    report = Report(
        execution_id=_execution_id(entries), records=len(entries), head=last, findings=tuple(findings)
    )
    if findings:
        return report
    approvals = check_approvals([entry.record for entry in entries])
    return replace(
        report,
        findings=approvals.findings,
        hashes_checked=approvals.hashes_checked,
        hashes_unchecked=approvals.hashes_unchecked,
        approvals_checked=approvals.used_checked,
    )


# --------------------------------------------------------------------------------------------- reading


def _load(content: bytes) -> Object | Finding:
    """The file's object, or what happened to a file that began as one."""
    is_ours = content.lstrip().startswith(f'{{"format":"{_FAMILY}'.encode())
    try:
        value = read(content.decode("utf-8"))
    except RecursionError:
        raise NotAnExport("It is nested too deep to be read.") from None
    except TwiceNamed as error:
        if not is_ours:
            raise NotAnExport(
                f"It is no export of Runhold: {str(error)!r} stands twice in one object."
            ) from None
        return changed(f"An object names {str(error)!r} twice.")
    except UnicodeDecodeError as error:
        if is_ours and error.end < len(content):
            return changed("It is not UTF-8 any more.")
        if is_ours:
            return truncated("The file ends in the middle of a character.")
        raise NotAnExport("It is not JSON: it is not UTF-8 text.") from None
    except ValueError as error:
        if is_ours and not content.rstrip().endswith(b"\n]}"):
            return truncated("The file ends in the middle of its records.")
        where = (
            f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        if is_ours:
            return changed(f"It is not JSON any more{where}.")
        raise NotAnExport(f"It is not JSON{where}.") from None
    named = value.get("format") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(named, str) or named.split("/")[0] != _FAMILY:
        raise NotAnExport("It is no export of Runhold.")
    if named != FORMAT:
        raise NotAnExport(f"It is an export of the format {named}; this version reads {FORMAT}.")
    return value


def _entries(file: Object) -> tuple[list[_Entry], list[Finding]]:
    findings: list[Finding] = []
    records = file.get("records")
    if set(file) != {"format", "head", "records"} or not isinstance(records, list):
        findings.append(changed("The file has members that no export has, or lacks some."))
    entries: list[_Entry] = []
    for position, item in enumerate(records if isinstance(records, list) else [], 1):
        members = item if isinstance(item, dict) else {}
        record = members.get("record")
        if set(members) != {"record", "sha256"} or not isinstance(record, dict):
            findings.append(changed(f"What stands at place {position} is no record."))
            continue
        given = members["sha256"]
        entries.append(
            _Entry(
                number=_number(record.get("n")), record=record, hash=given if isinstance(given, str) else None
            )
        )
    return entries, findings


def _number(value: Value) -> int | None:
    if (
        isinstance(value, Number)
        and value.digits.isascii()
        and value.digits.isdigit()
        and len(value.digits) < 10
    ):
        return int(value.digits)
    return None


def _header(entries: Sequence[_Entry]) -> Mapping[str, Value]:
    row = next((entry.record.get("row") for entry in entries if entry.kind == "export"), None)
    return row if isinstance(row, dict) else {}


def _execution_id(entries: Sequence[_Entry]) -> str | None:
    found = _header(entries).get("execution_id")
    return found if isinstance(found, str) else None


# ------------------------------------------------------------------------------------------- the chain


def _broken_links(entries: Sequence[_Entry]) -> list[Finding]:
    """Records know their number, so that what is missing, strange or out of place can be named."""
    count = _number(_header(entries).get("count"))
    first: dict[int, _Entry] = {}
    strange: list[int] = []
    for position, entry in enumerate(entries, 1):
        if entry.number is None or entry.number in first or not 1 <= entry.number <= (count or len(entries)):
            strange.append(position)
        else:
            first[entry.number] = entry
    findings = [*_missing(set(first), count), *_misplaced(list(first))]
    if strange:
        findings.append(changed(f"What stands at {ranges(strange, 'place').lower()} was added."))
    wrong: dict[int, str] = {}
    for number, entry in first.items():
        before = START if number == 1 else first[number - 1].hash if number - 1 in first else None
        if before is not None and link(before, entry.record) != entry.hash:
            wrong[number] = f" ({entry.kind})"
    if wrong:
        kind = next(iter(wrong.values())) if len(wrong) == 1 else ""
        findings.append(changed(f"{ranges(wrong)}{kind} {'was' if len(wrong) == 1 else 'were'} changed."))
    return findings


def _missing(present: set[int], count: int | None) -> list[Finding]:
    if count is None:
        return [changed("The first record, which says how many there are, is missing or was changed.")]
    last = max(present, default=0)
    findings: list[Finding] = []
    if inner := set(range(1, last)) - present:
        findings.append(changed(f"{ranges(inner)} {'was' if len(inner) == 1 else 'were'} removed."))
    if last < count:
        tail = range(last + 1, count + 1)
        verb = "is" if len(tail) == 1 else "are"
        findings.append(truncated(f"{ranges(tail)} of {count} {verb} missing at the end."))
    return findings


def _misplaced(numbers: Sequence[int]) -> list[Finding]:
    """The fewest records that would have to move: those outside of the longest sequence that rises."""
    ends: list[int] = []  # the lowest number that a rising sequence of this length ends with
    before: dict[int, int | None] = {}
    for number in numbers:
        length = bisect_left(ends, number)
        before[number] = ends[length - 1] if length else None
        ends[length : length + 1] = [number]
    in_place: set[int] = set()
    at = ends[-1] if ends else None
    while at is not None:
        in_place.add(at)
        at = before[at]
    moved = set(numbers) - in_place
    if not moved:
        return []
    return [
        changed(f"{ranges(moved)} {'stands' if len(moved) == 1 else 'stand'} in another place than before.")
    ]
