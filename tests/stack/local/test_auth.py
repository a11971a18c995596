"""Signing up and in, and whom a request runs as, by every kind of key and token."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from auth_http import legacy_key
from supabase import create_async_client
from supabase_auth.errors import AuthApiError

from runhold.local.stack import LocalStack

USER = "00000000-0000-0000-0000-00000000000a"
WAYS = pytest.mark.parametrize("query", ["", "?limit=1"], ids=["direct", "by lite"])


def mint(stack: LocalStack, *, secret: str | None = None, **claims: Any) -> str:
    """A token as our worker mints it."""
    now = int(time.time())
    payload = {"sub": USER, "role": "authenticated", "aud": "authenticated", "exp": now + 60, **claims}
    return jwt.encode(payload, secret or stack.jwt_secret, algorithm="HS256")


def who(stack: LocalStack, query: str, key: str | None, bearer: str | None = None) -> httpx.Response:
    headers = {"apikey": key} if key else {}
    if bearer:
        headers["authorization"] = f"Bearer {bearer}"
    return httpx.post(f"{stack.url}/rest/v1/rpc/lt_who{query}", json={}, headers=headers)


@WAYS
def test_the_key_decides_the_role_without_a_token(api: LocalStack, query: str) -> None:
    for key, role in ((api.publishable_key, "anon"), (api.secret_key, "service_role")):
        for bearer in (None, key):
            answer = who(api, query, key, bearer).json()
            assert (answer["role"], answer["auth_role"], answer["uid"]) == (role, role, None)


@WAYS
def test_legacy_keys_are_keys(api: LocalStack, query: str) -> None:
    far = int(time.time()) + 3600
    for role in ("anon", "service_role"):
        key = legacy_key(api, role)
        for bearer in (None, key):
            answer = who(api, query, key, bearer).json()
            assert (answer["role"], answer["auth_role"], answer["uid"]) == (role, role, None)
        assert who(api, query, key, mint(api)).json()["uid"] == USER
    for claims in (
        {"role": "authenticated", "exp": far},
        {"role": "anon", "sub": USER, "exp": far},
        {"role": "service_role", "exp": 1},
    ):
        wrong = jwt.encode(claims, api.jwt_secret, algorithm="HS256")
        assert who(api, query, wrong).status_code == 401, claims
    forged = jwt.encode({"role": "service_role", "exp": far}, "x" * 32, algorithm="HS256")
    assert who(api, query, forged, forged).status_code == 401


def test_auth_takes_legacy_keys(api: LocalStack) -> None:
    headers = {"apikey": legacy_key(api, "anon")}
    assert httpx.get(f"{api.url}/auth/v1/settings", headers=headers).status_code == 200
    assert httpx.get(f"{api.url}/auth/v1/settings", headers={"apikey": mint(api)}).status_code == 401


@WAYS
def test_a_users_token_decides_with_either_key(api: LocalStack, query: str) -> None:
    for key in (api.publishable_key, api.secret_key):
        answer = who(api, query, key, mint(api, app_metadata={"tenant": "t1"})).json()
        assert (answer["role"], answer["uid"]) == ("authenticated", USER)
        assert answer["claims"]["app_metadata"] == {"tenant": "t1"}


@WAYS
def test_requests_have_their_roles_time_out(api: LocalStack, query: str) -> None:
    assert who(api, query, api.publishable_key).json()["timeout"] == "3s"
    assert who(api, query, api.publishable_key, mint(api)).json()["timeout"] == "8s"


@WAYS
def test_tokens_that_are_not_valid_are_401(api: LocalStack, query: str) -> None:
    expired = who(api, query, api.publishable_key, mint(api, exp=int(time.time()) - 100))
    assert (expired.status_code, expired.json()["code"]) == (401, "PGRST303")
    forged = who(api, query, api.publishable_key, mint(api, secret="x" * 32))
    assert (forged.status_code, forged.json()["code"]) == (401, "PGRST301")
    none = jwt.encode({"sub": USER, "role": "service_role"}, "", algorithm="none")
    assert who(api, query, api.publishable_key, none).status_code == 401


@WAYS
def test_a_role_that_requests_may_not_have_is_refused(api: LocalStack, query: str) -> None:
    for role in ("postgres", "supabase_admin", "nobody_knows"):
        answer = who(api, query, api.publishable_key, mint(api, role=role))
        assert answer.status_code in (400, 401, 403), (role, answer.text)
        assert "uid" not in answer.json()


@WAYS
def test_a_request_without_a_good_key_is_401(api: LocalStack, query: str) -> None:
    assert who(api, query, None).status_code == 401
    assert who(api, query, None, mint(api)).status_code == 401
    assert who(api, query, "sb_secret_wrong").status_code == 401


def test_the_secret_key_is_refused_in_a_browser(api: LocalStack) -> None:
    headers = {"apikey": api.secret_key, "user-agent": "Mozilla/5.0 (X11)"}
    assert httpx.post(f"{api.url}/rest/v1/rpc/lt_who", json={}, headers=headers).status_code == 401


def test_a_token_stops_being_good_when_it_expires(api: LocalStack) -> None:
    token = mint(api, exp=int(time.time()) + 2)
    assert who(api, "", api.publishable_key, token).status_code == 200
    while time.time() < jwt.decode(token, options={"verify_signature": False})["exp"] + 0.1:
        time.sleep(0.05)
    assert who(api, "", api.publishable_key, token).status_code == 401


async def test_a_user_signs_up_in_and_out(user_client: tuple[Any, Any], api: LocalStack) -> None:
    client, user = user_client
    session = await client.auth.get_session()
    assert session is not None
    assert (await client.rpc("lt_who").execute()).data["uid"] == user.id
    known = await client.auth.get_user()
    assert known is not None
    assert known.user.email == user.email
    refreshed = await client.auth.refresh_session()
    assert refreshed.session is not None
    assert refreshed.session.refresh_token != session.refresh_token
    await client.auth.sign_out()
    with pytest.raises(AuthApiError):
        await client.auth.sign_in_with_password({"email": user.email, "password": "wrong password"})
    again = await client.auth.sign_in_with_password({"email": user.email, "password": "correct horse"})
    assert again.user is not None
    assert again.user.id == user.id
    with pytest.raises(AuthApiError):
        await client.auth.sign_up({"email": user.email, "password": "correct horse"})


async def test_app_metadata_reaches_the_token(user_client: tuple[Any, Any], api: LocalStack) -> None:
    client, user = user_client
    with psycopg.connect(api.database_url) as connection:
        connection.execute(
            'update auth.users set raw_app_meta_data = raw_app_meta_data || \'{"tenant_id": "t7"}\' where id = %s',
            [user.id],
        )
    await client.auth.refresh_session()
    claims = (await client.rpc("lt_who").execute()).data["claims"]
    assert claims["app_metadata"]["tenant_id"] == "t7"
    assert claims["app_metadata"]["provider"] == "email"


async def test_user_metadata_comes_back(api: LocalStack) -> None:
    client = await create_async_client(api.url, api.publishable_key)
    email = f"{uuid.uuid4()}@example.com"
    answer = await client.auth.sign_up(
        {"email": email, "password": "correct horse", "options": {"data": {"name": "Ada"}}}
    )
    assert answer.user is not None
    assert answer.user.user_metadata["name"] == "Ada"
    await client.auth.sign_out()
    with psycopg.connect(api.superuser_url) as connection:
        connection.execute("delete from auth.users where email = %s", [email])
