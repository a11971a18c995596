"""Filters of `postgres_changes`: how they are read, and which rows pass."""

from typing import Any

import pytest
from realtime_stack import Database
from test_realtime_changes import publish, raw_subscribe

from runhold.local.realtime.errors import FilterError
from runhold.local.realtime.filters import parse_filter


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", []),
        ("  ", []),
        ("id=eq.1", [("id", False, "eq", "1")]),
        ("a=eq.b=c.d", [("a", False, "eq", "b=c.d")]),
        ("id=not.in.(1,2),b=is.null", [("id", True, "in", "1,2"), ("b", False, "is", "null")]),
        ('a=eq."x,y"', [("a", False, "eq", "x,y")]),
        (r'a=eq."x\",\\y",b=gt.1', [("a", False, "eq", 'x",\\y'), ("b", False, "gt", "1")]),
        ('a=eq.5" pipe,b=lt.2', [("a", False, "eq", '5" pipe'), ("b", False, "lt", "2")]),
        ('a=in.("x,)",y)', [("a", False, "in", '"x,)",y')]),
        ("a=eq.", [("a", False, "eq", "")]),
    ],
)
def test_filter_is_read(text: str, conditions: list[tuple[Any, ...]]) -> None:
    parsed = parse_filter(text)
    assert [(c.column, c.negated, c.operator, c.value) for c in parsed] == conditions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=eq.1,,b=eq.2", "filter must not contain empty segments"),
        ("a=foo.hey", 'Error parsing `filter` params: ["foo", "hey"]'),
        ("nonsense", "Error parsing `filter` params"),
        ("a=not.foo.1", 'Error parsing `filter` params: ["foo", "1"]'),
        ("a=in.1,2", "parentheses"),
        ("a=is.maybe", "`is` filter"),
        (f"a=in.({','.join('1' * 101)})", "more than 100 values"),
    ],
)
def test_filter_is_refused(text: str, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert message in str(caught.value)


# Each row matches where its letter is listed.
ROWS = {"a": "(1, 10, 'apple', true)", "b": "(2, 20, 'Banana', false)", "c": "(3, null, null, null)"}
EXPECTED = {
    "n=eq.10": "a",
    "n=neq.10": "b",
    "n=lt.20": "a",
    "n=lte.20": "ab",
    "n=gt.10": "b",
    "n=gte.10": "ab",
    "n=in.(10,30)": "a",
    "n=in.()": "",
    'title=in.(apple,"Banana")': "ab",
    "title=like.app%": "a",
    "title=like.b%": "",
    "title=ilike.b%": "b",
    "title=match.^[Aa]p": "a",
    "title=imatch.^BAN": "b",
    "n=is.null": "c",
    "done=is.true": "a",
    "done=is.false": "b",
    "done=is.unknown": "c",
    "n=isdistinct.10": "bc",
    "n=not.eq.10": "b",
    "n=not.in.(10)": "b",
    "n=not.is.null": "ab",
    "n=not.isdistinct.10": "a",
    "title=not.like.app%": "b",
    "title=not.ilike.B%": "a",
    "short=eq.apple": "",  # varchar(3): the value asked for is not cut to match
    "id=gt.1,n=is.null": "c",
    "id=gt.1,n=gt.1": "b",
}


async def test_every_operator_and_its_negation(raw: Any, database: Database, name: str) -> None:
    await publish(
        database, name, "id int primary key, n int, title text, done bool, short varchar(3) default 'app'"
    )
    socket = await raw()
    bindings = [{"event": "*", "schema": "public", "table": name, "filter": text} for text in EXPECTED]
    bindings.append({"event": "*", "schema": "public", "table": name})
    ids = dict(zip([*EXPECTED, "all"], await raw_subscribe(socket, name, *bindings), strict=True))
    found = dict.fromkeys(ids.values(), "")
    for letter, values in ROWS.items():
        await database.run(f"insert into {name} (id, n, title, done) values {values}")
        for number in (await socket.receive())["payload"]["ids"]:
            found[number] += letter
    assert {text: found[ids[text]] for text in EXPECTED} == EXPECTED


async def test_update_tests_the_new_row_and_delete_only_the_identity(
    raw: Any, database: Database, name: str
) -> None:
    await publish(database, name, "id int primary key, n int")
    socket = await raw()
    by_n, by_id = await raw_subscribe(
        socket,
        name,
        {"event": "*", "schema": "public", "table": name, "filter": "n=eq.2"},
        {"event": "*", "schema": "public", "table": name, "filter": "id=eq.1"},
    )
    for statement, ids in (
        (f"insert into {name} values (1, 1)", [by_id]),
        (f"update {name} set n = 2", sorted([by_id, by_n])),
        (f"delete from {name}", [by_id]),
    ):
        await database.run(statement)
        assert (await socket.receive())["payload"]["ids"] == ids
    await socket.nothing_more()
