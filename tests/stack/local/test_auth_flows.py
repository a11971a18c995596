"""Anonymous users, what tokens say, and Auth's refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from auth_http import PASSWORD, AuthHttp, claims_of, new_email

from runhold.local.api import ApiDatabase, start_api
from runhold.local.config import ProjectConfig
from runhold.local.stack import LocalStack
from runhold.local.state import StackState


@pytest.fixture
def client(api: LocalStack) -> AuthHttp:
    return AuthHttp(api)


class ElsewhereStack:
    """What AuthHttp needs to know of another API on the stack's database."""

    def __init__(self, stack: LocalStack, url: str) -> None:
        self.url = url
        self.publishable_key = stack.publishable_key


@pytest.fixture
async def strict(api: LocalStack, tmp_path: Path) -> AsyncIterator[AuthHttp]:
    """An API whose project has allowed nothing."""
    parts = urlsplit(api.database_url)

    def url_of(role: str) -> str:
        return parts._replace(netloc=f"{role}:{parts.password}@{parts.hostname}:{parts.port}").geturl()

    child, url = await start_api(
        log=tmp_path / "api.log",
        port=0,
        database=ApiDatabase(
            rest_url=url_of("authenticator"),
            auth_url=url_of("supabase_auth_admin"),
            catalog_url=api.database_url,
        ),
        realtime_url=None,
        state=StackState(
            data="",
            jwt_secret=api.jwt_secret,
            publishable_key=api.publishable_key,
            secret_key=api.secret_key,
        ),
        config=ProjectConfig(
            auth={
                "enable_anonymous_sign_ins": False,
                "minimum_password_length": 20,
                "email": {"enable_confirmations": True},
            }
        ),
    )
    try:
        yield AuthHttp(ElsewhereStack(api, url))
    finally:
        await child.stop()


def test_a_token_says_what_supabase_auths_says(client: AuthHttp) -> None:
    session = client.sign_up(new_email())
    claims = claims_of(session)
    user = session["user"]
    assert claims.pop("exp") - claims.pop("iat") == 3600
    (method,) = claims.pop("amr")
    assert method["method"] == "password"
    assert isinstance(method["timestamp"], int)
    assert len(claims.pop("session_id")) == 36
    assert claims == {
        "iss": f"{client.stack.url}/auth/v1",
        "sub": user["id"],
        "aud": "authenticated",
        "role": "authenticated",
        "email": user["email"],
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": user["user_metadata"],
        "aal": "aal1",
        "is_anonymous": False,
    }


def test_a_refreshed_token_is_of_the_same_session(client: AuthHttp) -> None:
    first = client.sign_up(new_email())
    token = {"refresh_token": first["refresh_token"]}
    again = client.good("POST", "/token?grant_type=refresh_token", token)
    for claim in ("session_id", "amr", "sub", "is_anonymous", "app_metadata", "aal", "iss"):
        assert claims_of(again)[claim] == claims_of(first)[claim]


def test_somebody_signs_in_without_a_name(client: AuthHttp, api: LocalStack) -> None:
    session = client.good("POST", "/signup", {"data": {"theme": "dark"}})
    claims = claims_of(session)
    assert claims["is_anonymous"] is True
    assert claims["role"] == "authenticated"
    assert [entry["method"] for entry in claims["amr"]] == ["anonymous"]
    assert claims["app_metadata"] == {}
    assert claims["email"] == ""
    user = client.good("GET", "/user", token=session["access_token"])
    assert user["is_anonymous"] is True
    assert user["user_metadata"] == {"theme": "dark"}
    assert user["identities"] == []
    with psycopg.connect(api.superuser_url) as connection:
        query = "select is_anonymous, email from auth.users where id = %s"
        assert connection.execute(query, [user["id"]]).fetchone() == (True, None)
    token = {"refresh_token": session["refresh_token"]}
    refreshed = client.good("POST", "/token?grant_type=refresh_token", token)
    assert claims_of(refreshed)["is_anonymous"] is True


def test_an_anonymous_user_becomes_permanent(client: AuthHttp) -> None:
    session = client.good("POST", "/signup", {})
    token = session["access_token"]
    password = {"password": PASSWORD}
    assert client.refused("PUT", "/user", password, token) == (422, "validation_failed")
    taken = client.sign_up(new_email())["user"]["email"]
    refusal = client.refused("PUT", "/user", {**password, "email": taken}, token)
    assert refusal == (422, "email_exists")
    email = new_email()
    weak = {"email": email, "password": "short"}
    assert client.refused("PUT", "/user", weak, token) == (422, "weak_password")
    assert client.good("GET", "/user", token=token)["is_anonymous"] is True
    user = client.good(
        "PUT", "/user", {"email": email.upper(), "password": PASSWORD, "data": {"a": 1}}, token
    )
    assert user["is_anonymous"] is False
    assert (user["id"], user["email"]) == (session["user"]["id"], email)
    assert user["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert user["user_metadata"] == {"a": 1, "email_verified": True}
    claims = claims_of(client.sign_in(email))
    assert (claims["sub"], claims["is_anonymous"]) == (user["id"], False)


async def test_settings_of_the_project_are_respected(strict: AuthHttp) -> None:
    assert strict.refused("POST", "/signup", {}) == (422, "anonymous_provider_disabled")
    weak = {"email": new_email(), "password": "nineteen characters"}
    assert strict.refused("POST", "/signup", weak) == (422, "weak_password")
    given = {"email": new_email(), "password": "more than twenty characters"}
    assert "access_token" not in strict.good("POST", "/signup", given)
    refusal = strict.refused("POST", "/token?grant_type=password", given)
    assert refusal == (400, "email_not_confirmed")
    assert strict.good("GET", "/settings")["external"]["anonymous_users"] is False


def test_a_new_password_ends_the_other_sessions(client: AuthHttp) -> None:
    email = new_email()
    first, second = client.sign_up(email), client.sign_in(email)
    client.good("PUT", "/user", {"password": "another horse"}, first["access_token"])
    client.good("GET", "/user", token=first["access_token"])
    refusal = client.refused("GET", "/user", token=second["access_token"])
    assert refusal == (403, "session_not_found")


@pytest.mark.parametrize(
    ("scope", "ended"), [("local", "first"), ("others", "second"), ("global", "both"), (None, "both")]
)
def test_sign_out_ends_sessions_by_scope(client: AuthHttp, scope: str | None, ended: str) -> None:
    email = new_email()
    sessions = {"first": client.sign_up(email), "second": client.sign_in(email)}
    query = f"?scope={scope}" if scope else ""
    client.good("POST", f"/logout{query}", token=sessions["first"]["access_token"])
    for name, session in sessions.items():
        status = client.send("GET", "/user", token=session["access_token"]).status_code
        assert status == (403 if ended in (name, "both") else 200), name


@pytest.mark.parametrize(
    ("method", "path", "body", "refusal"),
    [
        ("GET", "/nowhere", None, (404, "not_found")),
        ("POST", "/admin-of-sorts", {}, (404, "not_found")),
        ("GET", "/signup", None, (405, "not_found")),
        ("GET", "/otp", None, (405, "not_found")),
        ("GET", "/logout", None, (405, "not_found")),
        ("PATCH", "/user", {}, (405, "not_found")),
        ("PUT", "/settings", {}, (405, "not_found")),
        ("POST", "/verify", {"type": "email", "email": "a@example.com"}, (400, "validation_failed")),
        ("GET", "/user", None, (403, "bad_jwt")),
        ("PUT", "/user", {}, (403, "bad_jwt")),
        ("POST", "/factors", {"factor_type": "totp"}, (422, "mfa_totp_enroll_not_enabled")),
        ("POST", "/factors/1/verify", {}, (404, "mfa_factor_not_found")),
        ("GET", "/user/identities/authorize?provider=x", None, (404, "manual_linking_disabled")),
        ("POST", "/sso", {"domain": "x"}, (404, "saml_provider_disabled")),
        ("GET", "/authorize?provider=github", None, (400, "validation_failed")),
        (
            "POST",
            "/signup",
            {"phone": "+15550001111", "password": PASSWORD},
            (400, "phone_provider_disabled"),
        ),
        ("POST", "/otp", {"phone": "+15550001111"}, (400, "phone_provider_disabled")),
        (
            "POST",
            "/token?grant_type=password",
            {"phone": "1", "password": "x"},
            (422, "phone_provider_disabled"),
        ),
        ("POST", "/token?grant_type=id_token", {"id_token": "x"}, (400, "provider_disabled")),
        ("POST", "/token?grant_type=web3", {"chain": "x"}, (422, "web3_provider_disabled")),
        ("POST", "/token?grant_type=nothing", {}, (400, "invalid_credentials")),
        (
            "POST",
            "/token?grant_type=password",
            {"email": "a@example.com", "password": "x"},
            (400, "invalid_credentials"),
        ),
        ("POST", "/signup", {"email": "a@example.com", "password": "x"}, (422, "weak_password")),
        ("POST", "/signup", {"email": "xx:;x@x.x", "password": PASSWORD}, (400, "validation_failed")),
        ("POST", "/signup", {"email": 1}, (400, "bad_json")),
        ("POST", "/verify", {"type": "email", "email": "a@example.com", "token": "1"}, (403, "otp_expired")),
    ],
)
def test_refusals_have_one_format(
    client: AuthHttp, method: str, path: str, body: object, refusal: tuple[int, str]
) -> None:
    assert client.refused(method, path, body) == refusal


def test_routes_that_are_not_served_say_so_to_users_too(client: AuthHttp) -> None:
    token = client.sign_up(new_email())["access_token"]
    assert client.refused("GET", "/nowhere", token=token) == (404, "not_found")
    assert client.refused("DELETE", "/user", token=token) == (405, "not_found")
    taken = client.sign_up(new_email())["user"]["email"]
    given = {"email": taken, "password": PASSWORD}
    assert client.refused("POST", "/signup", given) == (422, "user_already_exists")


def test_a_body_that_is_no_json_is_refused(client: AuthHttp) -> None:
    headers = {"apikey": client.key, "content-type": "application/json"}
    answer = httpx.post(f"{client.stack.url}/auth/v1/signup", content=b"{", headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "bad_json")


def test_a_trigger_that_fails_is_told_as_supabase_tells_it(client: AuthHttp, api: LocalStack) -> None:
    with psycopg.connect(api.superuser_url, autocommit=True) as connection:
        connection.execute(
            "create function lt_refuse() returns trigger language plpgsql as"
            " $$ begin raise exception 'no room'; end $$;"
            " create trigger lt_refuse before insert on auth.users for each row"
            " when (new.email = 'unwanted@example.com') execute function lt_refuse()"
        )
        try:
            given = {"email": "unwanted@example.com", "password": PASSWORD}
            answer = client.send("POST", "/signup", given)
        finally:
            connection.execute("drop function lt_refuse() cascade")
    error = {"code": 500, "error_code": "unexpected_failure", "msg": "Database error saving new user"}
    assert (answer.status_code, answer.json()) == (500, error)
