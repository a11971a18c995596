"""REST answers as PostgREST does where @supabase/lite alone would not: writes, filters, embedding, schemas, settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from runhold.local.stack import LocalStack

SCHEMA = Path(__file__).with_name("postgrest.sql")
PROFILES = {"accept-profile": "lt", "content-profile": "lt"}
ROWS = "return=representation"


@pytest.fixture(scope="module")
def exposed(api: LocalStack) -> Iterator[LocalStack]:
    """The shared stack with schema lt exposed, by the settings that a project can make in a migration."""
    with psycopg.connect(api.database_url, autocommit=True) as connection:
        connection.execute(SCHEMA.read_bytes())
        headers = {"apikey": api.secret_key, **PROFILES}
        with httpx.Client(base_url=api.url, headers=headers) as client:
            while client.get("/rest/v1/users?select=name").status_code != 200:
                pass
        yield api
        connection.execute("drop schema lt cascade; alter role authenticator reset all")
        connection.execute("alter role authenticator set search_path = public, extensions")
        connection.execute("alter role authenticator set statement_timeout = '8s'")
        connection.execute("alter role authenticator set lock_timeout = '8s'; notify pgrst, 'reload config'")


@pytest.fixture
def lt(exposed: LocalStack) -> Iterator[httpx.Client]:
    headers = {"apikey": exposed.secret_key, **PROFILES}
    with httpx.Client(base_url=f"{exposed.url}/rest/v1", headers=headers, timeout=60) as client:
        yield client


def ask(client: httpx.Client, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """Send a request whose changes are rolled back, unless its own `prefer` says otherwise."""
    prefer = ", ".join(filter(None, [headers.pop("prefer", ""), "tx=rollback"]))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, str):
        return client.request(method, path, content=body, headers={"prefer": prefer, **named})
    return client.request(method, path, json=body, headers={"prefer": prefer, **named})


READS = [
    # Tables of the same names in schema auth are not met.
    (
        "/sessions?select=n,users(name,data)&n=eq.1",
        [{"n": 1, "users": {"name": "ada", "data": {"a": {"b": 1}}}}],
    ),
    ("/users?select=name,sessions(n)&name=eq.bob", [{"name": "bob", "sessions": [{"n": 3}]}]),
    ("/users?select=name,sessions!inner(n)&sessions.n=gt.2", [{"name": "bob", "sessions": [{"n": 3}]}]),
    ("/sessions?select=n,...users(name)&n=eq.3", [{"n": 3, "name": "bob"}]),
    ("/users?select=name,label&name=eq.cy", [{"name": "cy", "label": "CY"}]),
    ("/users?select=name&name=like(any).{a*,*y}&order=name", [{"name": "ada"}, {"name": "cy"}]),
    ("/users?select=name&name=ilike(all).{A*,*DA}", [{"name": "ada"}]),
    ("/users?select=name&name=not.like(any).{a*,b*}", [{"name": "cy"}]),
    (
        "/users?select=name&or=(name.like(any).{b*},name.ilike.C*)&order=name",
        [{"name": "bob"}, {"name": "cy"}],
    ),
    ("/users?select=name&name=match.^a.a$", [{"name": "ada"}]),
    ("/users?select=name&name=imatch.^B", [{"name": "bob"}]),
    ("/users?select=name&data->a->>b=eq.1", [{"name": "ada"}]),
    ("/users?select=b:data->a->b&name=eq.ada", [{"b": 1}]),
    ("/sessions?select=user,n.sum()&order=user", [{"user": "ada", "sum": 3}, {"user": "bob", "sum": 3}]),
    ("/users?select=name,sessions(count)&name=eq.ada", [{"name": "ada", "sessions": [{"count": 2}]}]),
    ("/rpc/find?part=d&select=name", [{"name": "ada"}]),
    ("/rpc/find?part=&select=state,many:name.count(),name.max()", [{"state": "new", "many": 3, "max": "cy"}]),
]


@pytest.mark.parametrize(("path", "rows"), READS)
def test_reads(lt: httpx.Client, path: str, rows: list[Any]) -> None:
    answer = ask(lt, "GET", path)
    assert (answer.status_code, answer.json()) == (200, rows)


S = "/sessions?select=user,kind,n"
WRITES = [
    ("POST", f"{S}&columns=kind,n", [{"kind": "a"}, {"n": 2}], "", [("a", None), (None, 2)]),
    (
        "POST",
        f"{S}&columns=kind,n",
        [{"kind": None}, {"n": 2}],
        "missing=default",
        [(None, None), ("plain", 2)],
    ),
    ("POST", f"{S}&columns=n", {"n": 4, "kind": "ignored"}, "", [("plain", 4)]),
    ("POST", S, {}, "", [("plain", None)]),
    ("POST", S, [{}, {}], "", [("plain", None), ("plain", None)]),
    ("POST", S, [], "", []),
    ("PATCH", f"{S}&n=eq.3&columns=kind,n", {"n": 4}, "", [(None, 4)]),
    ("POST", f"{S}&on_conflict=id", [{"id": 1, "n": 9}], "resolution=merge-duplicates", [("plain", 9)]),
]


@pytest.mark.parametrize(("method", "path", "body", "prefer", "rows"), WRITES)
def test_writes(
    lt: httpx.Client, method: str, path: str, body: Any, prefer: str, rows: list[tuple[Any, Any]]
) -> None:
    answer = ask(lt, method, path, body, prefer=f"{ROWS},{prefer}".strip(","))
    assert answer.status_code in (200, 201), answer.text
    assert [(row["kind"], row["n"]) for row in answer.json()] == rows


def test_identities_are_given_where_rows_miss_them(lt: httpx.Client) -> None:
    rows = [{"id": 900, "n": 1}, {"n": 2}]
    answer = ask(lt, "POST", "/sessions?columns=id,n", rows, prefer=f"missing=default,{ROWS}")
    first, second = answer.json()
    assert first["id"] == 900
    assert 0 < second["id"] < 900
    refused = ask(lt, "POST", "/sessions?columns=id,n", rows, prefer=ROWS)
    assert (refused.status_code, refused.json()["code"]) == (400, "23502")


def test_null_in_csv(lt: httpx.Client) -> None:
    answer = ask(lt, "POST", S, "kind,n\na,1\nb,NULL\n", prefer=ROWS, content_type="text/csv")
    assert [(row["kind"], row["n"]) for row in answer.json()] == [("a", 1), ("b", None)]


def test_csv_has_the_values_as_text(lt: httpx.Client) -> None:
    answer = ask(lt, "GET", "/users?order=name&limit=2", accept="text/csv")
    assert answer.text == 'name,state,data\nada,new,"{""a"": {""b"": 1}}"\nbob,new,'


def test_an_estimated_count_of_few_rows_is_exact(lt: httpx.Client) -> None:
    answer = ask(lt, "GET", "/users?select=name", prefer="count=estimated")
    assert (answer.status_code, answer.headers["content-range"]) == (200, "0-2/3")
    assert "count=estimated" in answer.headers["preference-applied"]


@pytest.mark.parametrize("path", ["/storage/v1/bucket", "/functions/v1/hello", "/graphql/v1", "/"])
def test_services_that_are_not_here_are_refused_in_json(exposed: LocalStack, path: str) -> None:
    answer = httpx.get(exposed.url + path, headers={"apikey": exposed.secret_key})
    assert (answer.status_code, answer.json()) == (404, {"message": "no Route matched with those values"})


def test_plans(lt: httpx.Client) -> None:
    plan = "application/vnd.pgrst.plan"
    answer = ask(lt, "GET", "/users?name=eq.ada", accept=f"{plan}+json; options=verbose|settings")
    assert answer.headers["content-type"].startswith(f"{plan}+json;")
    [found] = answer.json()
    assert found["Plan"]["Node Type"] == "Aggregate"
    assert found["Settings"]["search_path"] == '"lt", "public", "extensions"'
    assert ask(lt, "GET", "/users?name=eq.ada", accept=plan).text.startswith("Aggregate  (cost=")
    update = ask(lt, "PATCH", "/users?name=eq.ada", {"state": "x"}, accept=f"{plan}+text")
    assert update.text.startswith("Update on users")


REFUSALS = [
    ("DELETE", "/sessions", None, "", 400, "21000", "DELETE requires a WHERE clause"),
    ("DELETE", "/sessions?select=n&limit=1", None, "", 400, "21000", "DELETE requires a WHERE clause"),
    ("PATCH", "/sessions", {"n": 5}, "", 400, "21000", "UPDATE requires a WHERE clause"),
    ("PATCH", "/sessions?order=n&limit=1", {"n": 5}, "", 400, "21000", "UPDATE requires a WHERE clause"),
    (
        "POST",
        "/rpc/two_rows",
        {},
        "",
        500,
        "21000",
        "more than one row returned by a subquery used as an expression",
    ),
    ("PATCH", "/users?name=neq.x", {"state": "x"}, "handling=strict,max-affected=2", 400, "PGRST124", None),
    (
        "POST",
        "/rpc/rename",
        {"part": "", "state": "x"},
        "handling=strict,max-affected=2",
        400,
        "PGRST124",
        None,
    ),
    ("POST", "/rpc/reset", {}, "handling=strict,max-affected=2", 400, "PGRST128", None),
    ("GET", "/rpc/rename?part=a&state=b", None, "", 405, "25006", None),
    ("TRACE", "/users", None, "", 405, "PGRST117", "Unsupported HTTP method: TRACE"),
    ("PURGE", "/users", None, "", 405, "PGRST117", "Unsupported HTTP method: PURGE"),
    ("PUT", "/users?name=eq.eve", {"name": "dan"}, "", 400, "PGRST115", None),
    ("POST", "/sessions", {"length": 3}, "", 400, "428C9", None),
    ("POST", "/sessions", {"user": "nobody"}, "", 409, "23503", None),
    ("POST", "/users", {"name": "ada"}, "", 409, "23505", None),
    ("GET", "/sessions?select=*,owner(*)", None, "", 400, "PGRST200", None),
    ("GET", "/schema_migrations", None, "", 404, "PGRST205", None),
]


@pytest.mark.parametrize(("method", "path", "body", "prefer", "status", "code", "message"), REFUSALS)
def test_refusals(
    lt: httpx.Client,
    method: str,
    path: str,
    body: Any,
    prefer: str,
    status: int,
    code: str,
    message: str | None,
) -> None:
    answer = ask(lt, method, path, body, prefer=prefer)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert message is None or answer.json()["message"] == message


OBJECT = "application/vnd.pgrst.object+json"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("PATCH", "/users?state=eq.new", {"state": "kept"}, {"accept": OBJECT, "prefer": ROWS}),
        ("DELETE", "/sessions?n=gt.0", None, {"accept": OBJECT, "prefer": ROWS}),
        (
            "POST",
            "/rpc/rename",
            {"part": "", "state": "kept"},
            {"prefer": "handling=strict,max-affected=1"},
        ),
        ("POST", "/rpc/rename", {"part": "", "state": "kept"}, {"accept": OBJECT}),
        ("POST", "/rpc/rename?limit=9", {"part": "", "state": "kept"}, {"prefer": "tx=rollback"}),
        ("POST", "/rpc/rename", {"part": "", "state": "kept"}, {"prefer": "return=minimal, tx=rollback"}),
        ("POST", "/rpc/reset?limit=9", {}, {"x-refused": "yes"}),
        ("POST", "/rpc/reset", {}, {"x-refused": "yes"}),
    ],
)
def test_what_is_refused_or_undone_changes_nothing(
    lt: httpx.Client, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    def stored() -> list[Any]:
        return [*ask(lt, "GET", "/users?order=name").json(), *ask(lt, "GET", "/sessions?order=id").json()]

    before = stored()
    assert len(before) == 6
    answer = lt.request(method, path, json=body, headers=headers)
    assert answer.status_code in (200, 400, 402, 406), answer.text
    assert stored() == before


def test_updated_rows_are_returned_although_the_filter_matches_them_no_more(lt: httpx.Client) -> None:
    answer = ask(
        lt, "PATCH", "/sessions?n=eq.3&select=n,users(name,label)", {"n": 33}, prefer="return=representation"
    )
    assert (answer.status_code, answer.json()) == (200, [{"n": 33, "users": {"name": "bob", "label": "BOB"}}])


@pytest.mark.parametrize("path", ["/rpc/find?part=a", "/rpc/find?part=a&select=name", "/users?name=eq.ada"])
def test_head_answers_as_get_without_a_body(lt: httpx.Client, path: str) -> None:
    head, get = (ask(lt, method, path, prefer="count=exact") for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (200, b"")
    same = ("content-range", "content-type", "content-length")
    assert [head.headers[name] for name in same] == [get.headers[name] for name in same]


@pytest.mark.parametrize("query", ["", "?select=id,n", "?select=id,n,users(name)"])
def test_functions_take_rows(lt: httpx.Client, query: str) -> None:
    given = {"of": {"name": "bob", "data": {"a": ["x,y", 1]}}}
    answer = ask(lt, "POST", f"/rpc/sessions_of{query}", given)
    assert [row["n"] for row in answer.json()] == [3]
    refused = ask(
        lt, "POST", f"/rpc/sessions_of{query}", {"of": {"name": ["no", "text"], "data": "{"}, "to": {}}
    )
    assert (refused.status_code, refused.json()["code"]) == (404, "PGRST202")
    refused = ask(lt, "POST", f"/rpc/numbered{query and '?limit=1'}", {"of": {"id": "x"}})
    assert (refused.status_code, refused.json()["code"]) == (400, "22P02")


def test_schemas_are_chosen_by_profile(exposed: LocalStack, lt: httpx.Client) -> None:
    with httpx.Client(base_url=f"{exposed.url}/rest/v1", headers={"apikey": exposed.secret_key}) as public:
        assert public.get("/sessions").json()["code"] == "PGRST205"
        assert public.post("/rpc/find", json={"part": "a"}).json()["code"] == "PGRST202"
        hidden = public.get("/users", headers={"accept-profile": "auth"})
    assert (hidden.status_code, hidden.json()["code"]) == (406, "PGRST106")
    assert [row["name"] for row in lt.post("/rpc/find", json={"part": "d"}).json()] == ["ada"]


def test_a_token_of_an_unknown_role_is_refused(exposed: LocalStack, lt: httpx.Client) -> None:
    token = jwt.encode({"role": "nobody_at_all"}, exposed.jwt_secret, algorithm="HS256")
    for path in ("/rpc/find", "/rpc/find?limit=1"):
        answer = lt.post(path, json={"part": "a"}, headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "22023")


def test_roles_of_the_api_inherit(exposed: LocalStack) -> None:
    with psycopg.connect(exposed.superuser_url) as connection:
        inherits = dict(connection.execute("select rolname, rolinherit from pg_roles").fetchall())
    roles = ["anon", "authenticated", "service_role", "authenticator"]
    assert [inherits[role] for role in roles] == [True, True, True, False]


@pytest.mark.parametrize(
    ("setting", "path", "before", "after"),
    [
        ("pgrst.db_max_rows = '2'", "/users?select=name&order=name", ["ada", "bob", "cy"], ["ada", "bob"]),
        # a function without a path of its own finds a table of another schema by its name
        ("pgrst.db_extra_search_path = 'public, extensions, elsewhere'", "/rpc/far", "42P01", [1]),
    ],
)
def test_a_migration_can_change_it_by_the_role_of_the_api(
    exposed: LocalStack, lt: httpx.Client, setting: str, path: str, before: Any, after: Any
) -> None:
    def said() -> Any:
        answer = lt.get(path).json()
        return answer["code"] if isinstance(answer, dict) else [next(iter(row.values())) for row in answer]

    with psycopg.connect(exposed.database_url, autocommit=True) as connection:
        connection.execute("create schema elsewhere; grant usage on schema elsewhere to service_role")
        connection.execute(
            "create table elsewhere.far_away as select 1 as n; grant select on elsewhere.far_away to service_role"
        )
        connection.execute(
            "create function lt.far() returns table (n integer) language plpgsql stable"
            " as $$ begin return query select f.n from far_away f; end $$"
        )
        try:
            while (first := said()) == "PGRST202":
                pass  # the API learns of new functions by a notification
            assert first == before
            connection.execute(
                f"alter role authenticator set {setting}; notify pgrst, 'reload config'".encode()
            )
            while said() == before:
                pass
            assert said() == after
        finally:
            connection.execute(
                f"alter role authenticator reset {setting.partition(' ')[0]}; notify pgrst, 'reload config'".encode()
            )
            connection.execute("drop schema elsewhere cascade; drop function lt.far()")
            while said() == after:
                pass
