"""Pages on other origins may use every service of the stack: REST, Auth and Realtime, unknown paths and errors too."""

from __future__ import annotations

import httpx
import pytest

from runhold.local.stack import LocalStack

PAGE = "http://app.example:3000"

PATHS = [
    "/rest/v1/lt_notes",
    "/rest/v1/rpc/lt_who",
    "/rest/v1/",
    "/auth/v1/token?grant_type=password",
    "/auth/v1/signup",
    "/auth/v1/user",
    "/auth/v1/admin/users",
    "/auth/v1/nowhere",
    "/realtime/v1/api/broadcast",
    "/nowhere",
]

HEADERS = [
    *(
        "apikey",
        "authorization",
        "content-type",
        "x-client-info",
        "x-supabase-api-version",
        "prefer",
        "range",
    ),
    *("accept-profile", "content-profile"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("asked", ["", "Apikey, X-Of-The-Future"])
def test_a_preflight_is_permitted(api: LocalStack, path: str, asked: str) -> None:
    headers = {"origin": PAGE, "access-control-request-method": "PATCH"}
    if asked:
        headers["access-control-request-headers"] = asked
    answer = httpx.options(api.url + path, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers["access-control-max-age"] == "3600"
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(
        answer.headers["access-control-allow-methods"].split(",")
    )
    allowed = answer.headers["access-control-allow-headers"].split(",")
    assert {*HEADERS, *asked.lower().split(", ")} - {""} <= set(allowed)
    assert len(allowed) == len(set(allowed))


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_can_be_read(api: LocalStack, method: str, path: str, with_key: bool) -> None:
    headers = {"origin": PAGE, **({"apikey": api.publishable_key} if with_key else {})}
    answer = httpx.request(method, api.url + path, headers=headers)
    assert answer.headers.get_list("access-control-allow-origin") == ["*"], answer
    exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
    assert {"content-range", "content-location", "x-total-count", "link", "x-supabase-api-version"} <= exposed
    assert "access-control-allow-credentials" not in answer.headers
