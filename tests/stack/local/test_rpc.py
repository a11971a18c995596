"""Function calls answer what PostgREST answers: PostgreSQL reads the arguments and prints the result."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from postgrest.types import CountMethod

from runhold.local.stack import LocalStack

# A query string makes the API leave the call to @supabase/lite, so both ways are held to the same answers.
WAYS = pytest.mark.parametrize("query", ["", "?limit=1000"], ids=["direct", "by lite"])


def call(client: httpx.Client, name: str, arguments: str | dict[str, Any], query: str = "") -> httpx.Response:
    content = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return client.post(f"/rpc/{name}{query}", content=content, headers={"content-type": "application/json"})


@WAYS
@pytest.mark.parametrize(
    "value",
    [
        '{"a": 1, "b": [1, 2, {"c": null}]}',
        '[1, "two", null]',
        '"text"',
        '"42"',
        '"true"',
        '"{\\"a\\": 1}"',
        "42",
        "true",
        "9007199254740993",
        "1.50",
        "0.000000",
        '{"n": 12345678901234567890, "m": 1.0}',
        '"\\u00e9\\ud83d\\ude00 \\" \\\\ \\n"',
        "{}",
        "[]",
        '""',
    ],
)
def test_a_jsonb_argument_comes_back_as_it_went(service: httpx.Client, value: str, query: str) -> None:
    answer = call(service, "lt_echo_jsonb", f'{{"value": {value}}}', query)
    assert answer.status_code == 200, answer.text
    # Compared as decimal text: a number that went through JavaScript would differ.
    same = json.loads(value, parse_float=str, parse_int=str)
    assert json.loads(answer.text, parse_float=str, parse_int=str) == same


@WAYS
def test_a_jsonb_string_is_a_string_and_no_document(service: httpx.Client, query: str) -> None:
    assert call(service, "lt_type_jsonb", {"value": "[1]"}, query).json() == "string"
    assert call(service, "lt_type_jsonb", {"value": [1]}, query).json() == "array"


@WAYS
def test_null_arguments_and_results(service: httpx.Client, query: str) -> None:
    for name in ("lt_echo_jsonb", "lt_echo_text", "lt_echo_bigint", "lt_echo_texts"):
        answer = call(service, name, {"value": None}, query)
        assert (answer.status_code, answer.text) == (200, "null"), name


@WAYS
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lt_echo_text", '"x"', '"x"'),
        ("lt_echo_texts", '["a", "b,c", null]', '["a","b,c",null]'),
        (
            "lt_echo_uuids",
            '["00000000-0000-0000-0000-000000000001"]',
            '["00000000-0000-0000-0000-000000000001"]',
        ),
        ("lt_echo_bigint", "9007199254740993", "9007199254740993"),
        ("lt_echo_bigint", '"9007199254740993"', "9007199254740993"),
        ("lt_echo_numeric", "1.500", "1.500"),
        ("lt_echo_numeric", '"0.10"', "0.10"),
        ("lt_echo_time", '"2026-11-22T10:00:00.5Z"', '"2026-11-22T10:00:00.5+00:00"'),
    ],
)
def test_scalars_come_back_as_postgres_prints_them(
    service: httpx.Client, name: str, value: str, expected: str, query: str
) -> None:
    answer = call(service, name, f'{{"value": {value}}}', query)
    assert (answer.status_code, answer.text) == (200, expected)


@WAYS
def test_default_arguments(service: httpx.Client, query: str) -> None:
    assert call(service, "lt_defaults", {}, query).json() == "1x"
    assert call(service, "lt_defaults", {"b": "y"}, query).json() == "1y"
    assert call(service, "lt_defaults", {"a": 2, "b": None}, query).json() == "2null"


@WAYS
def test_forms_of_results(service: httpx.Client, query: str) -> None:
    assert call(service, "lt_set", {"n": 3}, query).json() == [1, 2, 3]
    assert call(service, "lt_set", {"n": 0}, query).json() == []
    assert call(service, "lt_table", {"n": 1}, query).json() == [{"id": 1, "name": "name 1"}]
    assert call(service, "lt_one_column", {"n": 2}, query).json() == [{"id": 1}, {"id": 2}]
    assert call(service, "lt_out", {"a": 2}, query).json() == {"doubled": 4, "tripled": 6}
    void = call(service, "lt_void", {}, query)
    assert (void.status_code, void.text) == (204, "")


def test_an_empty_body_means_no_arguments(service: httpx.Client) -> None:
    assert service.post("/rpc/lt_last").json() == "here"


def test_overloads_and_single_unnamed_arguments(service: httpx.Client) -> None:
    assert call(service, "lt_overloaded", {"a": 1}).json() == "integer"
    assert call(service, "lt_overloaded", {"b": "1"}).json() == "text"
    assert call(service, "lt_unnamed", {"anything": 1}).json() == "object"


def test_sets_are_cut_at_a_thousand_rows(service: httpx.Client) -> None:
    assert len(call(service, "lt_set", {"n": 1500}).json()) == 1000


def test_a_get_call_and_filters_on_the_result(service: httpx.Client) -> None:
    assert service.get("/rpc/lt_table?n=3&id=gt.1&order=id.desc&select=id").json() == [{"id": 3}, {"id": 2}]


def test_stable_functions_run_read_only(service: httpx.Client) -> None:
    answer = call(service, "lt_stable_writes", {})
    assert (answer.status_code, answer.json()["code"]) == (405, "25006")


@pytest.mark.parametrize("kibibytes", [256, 1024, 8 * 1024])
def test_large_bodies_pass_both_ways(service: httpx.Client, kibibytes: int) -> None:
    value = {"text": "x" * (kibibytes * 1024), "n": 1}
    assert call(service, "lt_echo_jsonb", {"value": value}).json() == value


def test_the_function_sees_the_request(service: httpx.Client) -> None:
    for query in ("", "?limit=1"):
        who = service.post(f"/rpc/lt_who{query}", json={}, headers={"x-test": "seen"}).json()
        assert (who["header"], who["path"]) == ("seen", "/rpc/lt_who")


def test_the_function_sets_status_and_headers(service: httpx.Client) -> None:
    for query in ("", "?limit=1"):
        answer = call(service, "lt_respond", {}, query)
        assert (answer.status_code, answer.headers["x-answer"]) == (202, "yes")
        assert answer.json() == "accepted"


@WAYS
@pytest.mark.parametrize(
    ("state", "status"),
    [
        *(("P0001", 400), ("P0002", 500), ("RH001", 400), ("22023", 400), ("22P02", 400), ("23514", 400)),
        *(("23502", 400), ("23505", 409), ("23503", 409), ("21000", 500), ("08006", 503), ("09000", 500)),
        *(("0L000", 403), ("0P000", 403), ("25006", 405), ("25001", 500), ("28000", 403), ("2D000", 500)),
        *(("38000", 500), ("39000", 500), ("3B000", 500), ("40001", 500), ("40P01", 500), ("42501", 403)),
        *(("42883", 404), ("42P01", 404), ("42P17", 500), ("42601", 400), ("53300", 503), ("53400", 500)),
        *(("54001", 500), ("55P03", 500), ("57014", 500), ("58000", 500), ("F0000", 500), ("HV000", 500)),
        *(("XX000", 500), ("PT418", 418), ("PTABC", 500)),
    ],
)
def test_errors_have_postgrests_form_and_status(
    service: httpx.Client, state: str, status: int, query: str
) -> None:
    arguments = {"state": state, "says": "No.", "detail": "Because.", "hint": "Do not."}
    answer = call(service, "lt_raise", arguments, query)
    assert answer.status_code == status
    assert answer.json() == {"code": state, "message": "No.", "details": "Because.", "hint": "Do not."}


def test_a_refused_right_is_401_for_anon(anonymous: httpx.Client) -> None:
    for query in ("", "?limit=1"):
        answer = call(anonymous, "lt_raise", {"state": "42501"}, query)
        assert (answer.status_code, answer.json()["code"]) == (401, "42501")


def test_postgrests_own_refusals(service: httpx.Client) -> None:
    missing = call(service, "lt_nowhere", {"a": 1})
    assert (missing.status_code, missing.json()["code"]) == (404, "PGRST202")
    wrong_argument = call(service, "lt_echo_text", {"valeu": "x"})
    assert (wrong_argument.status_code, wrong_argument.json()["code"]) == (404, "PGRST202")
    no_json = call(service, "lt_echo_text", '{"value": ')
    assert (no_json.status_code, no_json.json()["code"]) == (400, "PGRST102")
    bad_value = call(service, "lt_echo_bigint", {"value": "many"})
    assert (bad_value.status_code, bad_value.json()["code"]) == (400, "22P02")
    nul = call(service, "lt_echo_jsonb", '{"value": "\\u0000"}')
    assert (nul.status_code, nul.json()["code"]) == (400, "22P05")


def test_a_functions_own_time_out_holds(service: httpx.Client) -> None:
    answer = call(service, "lt_sleep", {"seconds": 60})
    assert (answer.status_code, answer.json()["code"]) == (500, "57014")


def test_a_failed_call_leaves_the_connection_usable(service: httpx.Client) -> None:
    for _ in range(50):
        assert call(service, "lt_raise", {"state": "RH001"}).status_code == 400
        assert call(service, "lt_last", {}).json() == "here"


async def test_supabase_py_calls(service_client: Any, api: LocalStack) -> None:
    assert (await service_client.rpc("lt_echo_jsonb", {"value": {"a": [1]}}).execute()).data == {"a": [1]}
    assert (await service_client.rpc("lt_table", {"n": 2}).execute()).data[1]["name"] == "name 2"
    await service_client.rpc("lt_void").execute()
    counted = await service_client.rpc("lt_table", {"n": 2}, count=CountMethod.exact).execute()
    assert counted.count == 2
