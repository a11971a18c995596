"""Decoder of the `pgoutput` plugin's messages, protocol version 1, values in text form."""

import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from runhold.local.realtime.errors import FeedEnded

ChangeKind: TypeAlias = Literal["INSERT", "UPDATE", "DELETE"]


class Unchanged(Enum):
    """Marks a large (TOASTed) value that an UPDATE left alone and Postgres therefore did not send."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
Value: TypeAlias = str | Unchanged | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column as it was when the change was written. `in_identity`: part of the table's replica identity."""

    name: str
    type_oid: int
    type_modifier: int
    in_identity: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Relation:
    """A table as it was when the change was written. `identity`: d(efault), n(othing), f(ull), i(ndex).

    Postgres sends a new one after every DDL on the table, so identity of the object marks one shape of the
    table.
    """

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One row change.

    `new`: the row after it, None for DELETE; unchanged large values are missing unless the old row had them.
    `old`: what Postgres knows of the row before it: the replica-identity columns, {} for INSERT.
    """

    relation: Relation
    kind: ChangeKind
    new: dict[str, str | None] | None
    old: dict[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Transaction:
    """One committed transaction. `xid`: 32 bits, without epoch. `committed_us`: microseconds since 2000-01-01
    UTC.
    """

    xid: int
    committed_us: int
    end_lsn: int
    changes: list[Change] = field(default_factory=list[Change])


class Decoder:
    """Turns messages into transactions. One per connection: relations are announced once per connection."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._xid = 0
        self._changes: list[Change] = []

    def feed(self, message: memoryview) -> Transaction | None:
        """Take one message; answers the whole transaction at its commit. Raises FeedEnded for what it cannot
        read.
        """
        reader = _Reader(message)
        kind = reader.char()
        match kind:
            case "B":
                _lsn, _time, self._xid = reader.unpack("!qqI")
                self._changes = []
            case "R":
                relation = _relation(reader)
                self._relations[relation.oid] = relation
            case "I" | "U" | "D":
                self._changes.append(self._change(kind, reader))
            case "C":
                _flags, _lsn, end_lsn, committed_us = reader.unpack("!bqqq")
                changes, self._changes = self._changes, []
                return Transaction(xid=self._xid, committed_us=committed_us, end_lsn=end_lsn, changes=changes)
            case "T" | "Y" | "O" | "M":
                pass  # truncate, type, origin, message: nothing a client is told about
            case _:
                raise FeedEnded(f"unknown pgoutput message {kind!r}")
        return None

    def _change(self, kind: str, reader: "_Reader") -> Change:
        (oid,) = reader.unpack("!I")
        relation = self._relations.get(oid)
        if relation is None:
            raise FeedEnded(f"change of a table never announced (oid {oid})")
        old: dict[str, Value] = {}
        marker = reader.char()
        if marker in "KO":
            old = reader.row(relation.columns)
            if marker == "K":
                # The other columns of a key tuple are placeholders, not values.
                old = {column.name: old[column.name] for column in relation.columns if column.in_identity}
            if kind == "D":
                return Change(relation=relation, kind="DELETE", new=None, old=_known(old))
            marker = reader.char()
        if marker != "N":
            raise FeedEnded(f"unexpected tuple {marker!r} in pgoutput message {kind!r}")
        row = reader.row(relation.columns)
        if kind == "I":
            return Change(relation=relation, kind="INSERT", new=_known(row), old={})
        new = _known(
            {name: old.get(name, UNCHANGED) if value is UNCHANGED else value for name, value in row.items()}
        )
        if not old and relation.identity != "n":
            # No old tuple means the key did not change, so the new row has it.
            keys = [column.name for column in relation.columns if column.in_identity]
            return Change(
                relation=relation,
                kind="UPDATE",
                new=new,
                old={name: new[name] for name in keys if name in new},
            )
        return Change(relation=relation, kind="UPDATE", new=new, old=_known(old))


class _Reader:
    """A cursor over one message: big-endian numbers, NUL-terminated strings."""

    def __init__(self, message: memoryview) -> None:
        self._data = bytes(message)
        self._offset = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return values

    def char(self) -> str:
        self._offset += 1
        return chr(self._data[self._offset - 1])

    def string(self) -> str:
        end = self._data.index(0, self._offset)
        text = self._data[self._offset : end].decode()
        self._offset = end + 1
        return text

    def row(self, columns: tuple[Column, ...]) -> dict[str, Value]:
        (count,) = self.unpack("!h")
        if count != len(columns):
            raise FeedEnded(f"row of {count} values for a table of {len(columns)} columns")
        return {column.name: self._value() for column in columns}

    def _value(self) -> Value:
        kind = self.char()
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        if kind != "t":
            raise FeedEnded(f"unexpected value kind {kind!r}")
        (length,) = self.unpack("!i")
        self._offset += length
        return self._data[self._offset - length : self._offset].decode()


def _relation(reader: _Reader) -> Relation:
    (oid,) = reader.unpack("!I")
    schema, table, identity = reader.string() or "pg_catalog", reader.string(), reader.char()
    (count,) = reader.unpack("!h")
    columns: list[Column] = []
    for _ in range(count):
        (flags,) = reader.unpack("!b")
        name = reader.string()
        type_oid, type_modifier = reader.unpack("!Ii")
        columns.append(
            Column(name=name, type_oid=type_oid, type_modifier=type_modifier, in_identity=bool(flags & 1))
        )
    return Relation(oid=oid, schema=schema, table=table, identity=identity, columns=tuple(columns))


def _known(row: dict[str, Value]) -> dict[str, str | None]:
    return {name: value for name, value in row.items() if value is not UNCHANGED}
