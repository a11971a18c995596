"""The file: records in their order, each with the hash of its predecessor's hash and itself.

Whoever keeps the last hash, the head, elsewhere can tell years later whether anything in the file was changed,
removed, added or moved. ``docs/reference/export.md`` describes it for those who write their own check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from runhold.audit.exact import Number, Object, Value, canonical, read

FORMAT: Final = "runhold-export/1"

START: Final = "0" * 64
"""Stands in for the hash before the first record's."""


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """An export.

    :ivar content: the file's bytes.
    :ivar head: the hash of the last record: keep it where the file can't be changed with it.
    :ivar records: how many there are.
    """

    content: bytes
    head: str
    records: int


def link(previous: str, record: Value) -> str:
    """The hash of a record that follows the one with the hash ``previous``. Hexadecimal, as all hashes here."""
    text = previous + canonical(record)
    # a file may hold half a surrogate pair, though no export does: then this is not the hash that stands there
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seal(about: Object, records: Sequence[str]) -> Sealed:
    """The file of these records: JSON texts of objects with ``kind`` and ``row``.

    :param about: what the first record says of the export itself.
    :raises ValueError: a record is no JSON.
    :raises RecursionError: a record is nested deeper than Python reads.
    """
    count = len(records) + 1
    first: Object = {"kind": "export", "row": {**about, "count": Number(str(count))}}
    head, lines = START, list[str]()
    for number, record in enumerate([first, *map(read, records)], 1):
        assert isinstance(record, dict)
        numbered: Object = {**record, "n": Number(str(number))}
        head = link(head, numbered)
        lines.append(canonical({"record": numbered, "sha256": head}))
    opening = f'{{"format":"{FORMAT}","head":"{head}","records":[\n'
    text = opening + ",\n".join(lines) + "\n]}\n"
    return Sealed(content=text.encode("utf-8"), head=head, records=count)
