"""Tables over REST: values unchanged in both directions, rights on columns, and supabase-py's ways to ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from postgrest.exceptions import APIError
from postgrest.types import CountMethod

from runhold.local.stack import LocalStack

REPRESENTATION = {"prefer": "return=representation"}


@pytest.fixture(autouse=True)
def empty(api: LocalStack) -> Iterator[None]:
    yield
    with psycopg.connect(api.superuser_url) as connection:
        connection.execute("truncate public.lt_values, public.lt_children, public.lt_notes restart identity")


def exact(text: str) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_float=str, parse_int=str)


def insert(client: httpx.Client, body: str) -> httpx.Response:
    headers = {"content-type": "application/json", **REPRESENTATION}
    return client.post("/lt_values", content=body, headers=headers)


VALUES = [
    ("big", "9007199254740993", None),
    ("big", '"9007199254740993"', "9007199254740993"),
    ("big", "-5", None),
    ("exact", "1.500", None),
    ("exact", "12345678901234567890.123456789", None),
    ("exact", '"1.10"', "1.10"),
    ("exact", "0.000000", None),
    ("money", "2.5", "2.500000"),
    ("real8", "0.1", None),
    ("real8", "1e300", "1e+300"),
    ("real8", '"Infinity"', None),
    ("label", '"42"', None),
    ("label", '"1.50"', None),
    ("label", "null", None),
    ("data", '"42"', None),
    ("data", '"true"', None),
    ("data", '"[1]"', None),
    ("data", '"plain"', None),
    ("data", '{"n": 9007199254740993, "m": 1.50, "s": "7"}', None),
    ("data", "[1, null, 2.0]", None),
    ("data", "3.0", None),
    ("data", "false", None),
    ("plain", '{"b": 1, "a": 1.0}', None),
    ("tags", '["a", "b,c", "d\\"e", null, ""]', None),
    ("tags", "[]", None),
    ("ids", '["00000000-0000-0000-0000-000000000001"]', None),
    ("bigs", "[1, 9007199254740993, null]", None),
    ("moment", '"2026-11-22T10:00:00Z"', '"2026-11-22T10:00:00+00:00"'),
    ("local_moment", '"2026-11-22T10:00:00.123456"', None),
    ("day", '"2026-11-22"', None),
    ("bytes", '"\\\\x00ff"', None),
    ("flag", "true", None),
]


@pytest.mark.parametrize(("column", "value", "expected"), VALUES)
def test_values_are_stored_and_returned_exactly(
    service: httpx.Client, column: str, value: str, expected: str | None
) -> None:
    same = exact(expected or value)
    inserted = insert(service, f'{{"{column}": {value}}}')
    assert inserted.status_code == 201, inserted.text
    assert exact(inserted.text)[0][column] == same
    assert exact(service.get(f"/lt_values?select={column}").text) == [{column: same}]
    updated = service.patch(
        "/lt_values?id=gt.0",
        content=f'{{"{column}": {value}}}',
        headers={"content-type": "application/json", **REPRESENTATION},
    )
    assert exact(updated.text)[0][column] == same
    called = service.post("/rpc/lt_rows", json={})
    assert exact(called.text)[0][column] == same


def test_values_are_exact_inside_embedded_rows(service: httpx.Client) -> None:
    insert(service, '{"id": 1, "exact": 1.50}')
    service.post(
        "/lt_children",
        content='{"id": 1, "parent": 1, "exact": 2.50}',
        headers={"content-type": "application/json"},
    )
    answer = service.get("/lt_values?select=exact,lt_children(exact)")
    assert exact(answer.text) == [{"exact": "1.50", "lt_children": [{"exact": "2.50"}]}]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"label": "a text that is far too long"}', 400, "23514"),
        ('[{"big": 7}, {"big": 7}]', 409, "23505"),
        ('{"id": null}', 400, "23502"),
        ('{"moment": "soon"}', 400, "22007"),
        ('{"nowhere": 1}', 400, "PGRST204"),
    ],
)
def test_errors_have_postgrests_form(service: httpx.Client, body: str, status: int, code: str) -> None:
    answer = insert(service, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"code", "message", "details", "hint"}


def test_a_broken_foreign_key_is_409(service: httpx.Client) -> None:
    answer = service.post("/lt_children", json={"id": 1, "parent": 99})
    assert (answer.status_code, answer.json()["code"]) == (409, "23503")


def test_an_unknown_table_is_404(service: httpx.Client) -> None:
    answer = service.get("/lt_nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "PGRST205")


async def test_supabase_py_reads(service_client: Any) -> None:
    table = service_client.table("lt_values")
    await table.insert([{"id": n, "big": n, "label": f"row {n}"} for n in range(1, 11)]).execute()
    ordered = await table.select("id").order("id", desc=True).limit(3).execute()
    assert [row["id"] for row in ordered.data] == [10, 9, 8]
    ranged = await table.select("id", count=CountMethod.exact).order("id").range(2, 4).execute()
    assert ([row["id"] for row in ranged.data], ranged.count) == ([3, 4, 5], 10)
    head = await table.select("id", count=CountMethod.exact, head=True).execute()
    assert (head.data, head.count) == ([], 10)
    chosen = await table.select("id").in_("id", [1, 2]).neq("label", "row 2").execute()
    assert chosen.data == [{"id": 1}]
    either = await table.select("id").or_("id.eq.1,label.like.*9").order("id").execute()
    assert either.data == [{"id": 1}, {"id": 9}]
    single = await table.select("label").eq("id", 1).single().execute()
    assert single.data == {"label": "row 1"}
    nothing = await table.select("label").eq("id", 99).maybe_single().execute()
    assert nothing is None or nothing.data is None


async def test_supabase_py_writes(service_client: Any) -> None:
    table = service_client.table("lt_values")
    minimal = await table.insert({"id": 1, "label": "a"}, returning="minimal").execute()
    assert minimal.data == []
    upserted = await table.upsert({"id": 1, "label": "b"}).execute()
    assert upserted.data[0]["label"] == "b"
    upserted = await table.upsert([{"id": 7, "big": 5, "label": "x"}], on_conflict="big").execute()
    again = await table.upsert([{"id": 7, "big": 5, "label": "y"}], on_conflict="big").execute()
    assert (again.data[0]["id"], again.data[0]["label"]) == (upserted.data[0]["id"], "y")
    ignored = await table.upsert({"id": 1, "label": "c"}, ignore_duplicates=True).execute()
    assert ignored.data == []
    updated = await table.update({"data": {"a": [1]}}).eq("id", 1).execute()
    assert updated.data[0]["data"] == {"a": [1]}
    contained = await table.select("id").contains("data", {"a": [1]}).execute()
    assert contained.data == [{"id": 1}]
    by_path = await table.select("id").eq("data->a->>0", "1").execute()
    assert by_path.data == [{"id": 1}]
    deleted = await table.delete().eq("id", 1).execute()
    assert [row["id"] for row in deleted.data] == [1]


async def test_rights_on_columns_and_rows(
    user_client: tuple[Any, Any], service_client: Any, anonymous: httpx.Client
) -> None:
    client, user = user_client
    notes = client.table("lt_notes")
    created = await notes.insert({"body": "mine"}, returning="minimal").execute()
    assert created.data == []
    mine = await notes.select("user_id, body, state").execute()
    assert mine.data == [{"user_id": user.id, "body": "mine", "state": "new"}]
    with pytest.raises(APIError) as refused:
        await notes.insert({"body": "x", "state": "done"}, returning="minimal").execute()
    assert refused.value.code == "42501"
    with pytest.raises(APIError) as refused:
        await notes.select("hidden").execute()
    assert refused.value.code == "42501"
    await service_client.table("lt_notes").update({"hidden": "secret"}).eq("body", "mine").execute()
    everything = await service_client.table("lt_notes").select("*").execute()
    assert everything.data[0]["hidden"] == "secret"
    nobody = anonymous.get("/lt_notes?select=id")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "42501")
