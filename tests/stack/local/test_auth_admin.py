"""The admin API of Auth: users made, listed, changed, banned and deleted with a secret key."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import psycopg
import pytest
from auth_http import PASSWORD, AuthHttp, claims_of, legacy_key, new_email
from supabase import create_async_client

from runhold.local.stack import LocalStack


@pytest.fixture
def admin(api: LocalStack) -> Iterator[AuthHttp]:
    yield AuthHttp(api, api.secret_key)
    with psycopg.connect(api.superuser_url) as connection:
        connection.execute("delete from auth.users where email not like '%%@example.org'")


@pytest.fixture
def client(api: LocalStack) -> AuthHttp:
    return AuthHttp(api)


def make(admin: AuthHttp, **fields: Any) -> Any:
    given = {"email": new_email(), "password": PASSWORD, "email_confirm": True, **fields}
    return admin.good("POST", "/admin/users", given)


def row_of(api: LocalStack, user: Any, columns: str) -> Any:
    with psycopg.connect(api.superuser_url) as connection:
        return connection.execute(
            f"select {columns} from auth.users where id = %s",  # pyright: ignore[reportArgumentType] (a constant)
            [user["id"]],
        ).fetchone()


def test_a_made_user_signs_in_with_all_that_was_given(admin: AuthHttp, client: AuthHttp) -> None:
    user = make(
        admin,
        id="00000000-0000-4000-8000-00000000abcd",
        phone="+1 555 000 1234",
        phone_confirm=True,
        user_metadata={"name": "Ada"},
        app_metadata={"tenant": "t1"},
    )
    assert user["id"] == "00000000-0000-4000-8000-00000000abcd"
    assert user["email_confirmed_at"]
    assert user["phone_confirmed_at"]
    assert {identity["provider"] for identity in user["identities"]} == {"email", "phone"}
    claims = claims_of(client.sign_in(user["email"]))
    assert claims["app_metadata"] == {"tenant": "t1", "provider": "email", "providers": ["email", "phone"]}
    assert claims["user_metadata"] == {"name": "Ada", "email_verified": True}
    assert claims["phone"] == "15550001234"
    assert admin.good("GET", f"/admin/users/{user['id']}")["email"] == user["email"]


def test_an_unconfirmed_user_signs_in_once_confirmed(admin: AuthHttp, client: AuthHttp) -> None:
    user = make(admin, email_confirm=False)
    given = {"email": user["email"], "password": PASSWORD}
    assert client.refused("POST", "/token?grant_type=password", given) == (400, "email_not_confirmed")
    admin.good("PUT", f"/admin/users/{user['id']}", {"email_confirm": True})
    assert client.sign_in(user["email"])["user"]["id"] == user["id"]


def test_what_cannot_be_a_user_is_refused(admin: AuthHttp) -> None:
    taken = make(admin, phone="15550009999")
    for fields, refusal in (
        ({}, (400, "validation_failed")),
        ({"email": taken["email"].upper()}, (422, "email_exists")),
        ({"phone": "+15550009999"}, (422, "phone_exists")),
        ({"email": "xx:;x@x.x"}, (400, "validation_failed")),
        ({"phone": "call me"}, (400, "validation_failed")),
        ({"email": new_email(), "id": "7"}, (400, "validation_failed")),
        ({"email": new_email(), "id": str(uuid.UUID(int=0))}, (400, "validation_failed")),
        ({"email": new_email(), "ban_duration": "tomorrow"}, (400, "validation_failed")),
        ({"email": new_email(), "ban_duration": "1.2.3h"}, (400, "validation_failed")),
        ({"email": new_email(), "password": "x" * 73}, (400, "validation_failed")),
        ({"email": 7}, (400, "bad_json")),
        ({"email": new_email(), "user_metadata": []}, (400, "bad_json")),
        ([], (400, "bad_json")),
    ):
        assert admin.refused("POST", "/admin/users", fields) == refusal, fields
    same_id = {"email": new_email(), "id": taken["id"]}
    assert admin.refused("POST", "/admin/users", same_id) == (500, "unexpected_failure")


def test_users_are_listed_in_pages_the_newest_first(admin: AuthHttp) -> None:
    made = [make(admin)["id"] for _ in range(3)]
    answer = admin.send("GET", "/admin/users?per_page=2")
    assert [user["id"] for user in answer.json()["users"]] == made[:0:-1]
    total = int(answer.headers["x-total-count"])
    assert total >= 3
    last = -(-total // 2)
    assert answer.headers["link"] == (
        f'</admin/users?page=2&per_page=2>; rel="next", </admin/users?page={last}&per_page=2>; rel="last"'
    )
    end = admin.send("GET", f"/admin/users?page={last}&per_page=2")
    assert "next" not in end.headers["link"]
    for query in ("page=-1", "per_page=0", "per_page=x"):
        assert admin.refused("GET", f"/admin/users?{query}") == (400, "validation_failed")


def test_metadata_is_merged_and_null_removes(admin: AuthHttp) -> None:
    user = make(admin, app_metadata={"a": 1, "b": 2}, user_metadata={"c": 3, "d": 4})
    changes = {"app_metadata": {"a": None, "e": 5}, "user_metadata": {"c": None, "f": 6}}
    updated = admin.good("PUT", f"/admin/users/{user['id']}", changes)
    assert updated["app_metadata"] == {"b": 2, "e": 5, "provider": "email", "providers": ["email"]}
    assert updated["user_metadata"] == {"d": 4, "f": 6, "email_verified": True}


def test_a_new_password_ends_sessions_and_must_be_strong(admin: AuthHttp, client: AuthHttp) -> None:
    user = make(admin)
    session = client.sign_in(user["email"])
    path = f"/admin/users/{user['id']}"
    assert admin.refused("PUT", path, {"password": "short"}) == (422, "weak_password")
    admin.good("PUT", path, {"password": "another horse"})
    token = {"refresh_token": session["refresh_token"]}
    refusal = client.refused("POST", "/token?grant_type=refresh_token", token)
    assert refusal == (400, "refresh_token_not_found")
    assert client.refused("GET", "/user", token=session["access_token"]) == (403, "session_not_found")
    given = {"email": user["email"], "password": PASSWORD}
    assert client.refused("POST", "/token?grant_type=password", given) == (400, "invalid_credentials")
    client.sign_in(user["email"], "another horse")


def test_a_new_address_is_the_one_that_signs_in(admin: AuthHttp, client: AuthHttp) -> None:
    user, other = make(admin), make(admin)
    path = f"/admin/users/{user['id']}"
    assert admin.refused("PUT", path, {"email": other["email"]}) == (422, "email_exists")
    email = new_email()
    updated = admin.good("PUT", path, {"email": email, "role": "editor"})
    assert updated["identities"][0]["identity_data"]["email"] == email
    assert claims_of(client.sign_in(email))["role"] == "editor"


def test_banned_users_sign_in_refresh_and_ask_no_more(
    admin: AuthHttp, client: AuthHttp, api: LocalStack
) -> None:
    user = make(admin)
    session = client.sign_in(user["email"])
    path = f"/admin/users/{user['id']}"
    banned = admin.good("PUT", path, {"ban_duration": "1h30m"})
    assert banned["banned_until"]
    assert row_of(api, user, "banned_until - now() between '89 min' and '91 min'") == (True,)
    wrong = {"email": user["email"], "password": "wrong"}
    assert client.refused("POST", "/token?grant_type=password", wrong) == (400, "user_banned")
    token = {"refresh_token": session["refresh_token"]}
    assert client.refused("POST", "/token?grant_type=refresh_token", token) == (400, "user_banned")
    for method, route, body in (
        ("GET", "/user", None),
        ("PUT", "/user", {"data": {}}),
        ("POST", "/logout", {}),
    ):
        assert client.refused(method, route, body, session["access_token"]) == (403, "user_banned")
    link = admin.good("POST", "/admin/generate_link", {"type": "magiclink", "email": user["email"]})
    verify = {"type": "magiclink", "token_hash": link["hashed_token"]}
    assert client.refused("POST", "/verify", verify) == (403, "user_banned")
    lifted = admin.good("PUT", path, {"ban_duration": "none"})
    assert "banned_until" not in lifted
    client.good("POST", "/token?grant_type=refresh_token", token)
    client.sign_in(user["email"])


def test_a_user_may_be_banned_from_the_start(admin: AuthHttp, client: AuthHttp) -> None:
    user = make(admin, ban_duration="876000h")
    given = {"email": user["email"], "password": PASSWORD}
    assert client.refused("POST", "/token?grant_type=password", given) == (400, "user_banned")


def test_deletion_removes_the_row(admin: AuthHttp, client: AuthHttp, api: LocalStack) -> None:
    user = make(admin)
    session = client.sign_in(user["email"])
    assert admin.good("DELETE", f"/admin/users/{user['id']}") == {}
    assert row_of(api, user, "id") is None
    assert admin.refused("GET", f"/admin/users/{user['id']}") == (404, "user_not_found")
    assert admin.refused("DELETE", f"/admin/users/{user['id']}") == (404, "user_not_found")
    assert admin.refused("GET", "/admin/users/me") == (404, "validation_failed")
    assert client.refused("GET", "/user", token=session["access_token"]) == (403, "user_not_found")


def test_soft_deletion_keeps_the_row_and_nothing_of_the_person(
    admin: AuthHttp, client: AuthHttp, api: LocalStack
) -> None:
    user = make(admin, phone="15550002222", user_metadata={"name": "Ada"}, app_metadata={"tenant": "t1"})
    session = client.sign_in(user["email"])
    path = f"/admin/users/{user['id']}"
    for _ in range(2):
        assert admin.good("DELETE", path, {"should_soft_delete": True}) == {}
    columns = (
        "email, phone, encrypted_password, raw_app_meta_data, raw_user_meta_data, deleted_at is not null"
    )
    email, phone, *rest = row_of(api, user, columns)
    assert re.fullmatch(r"[\w-]{43}", email)
    assert re.fullmatch(r"[\w-]{15}", phone)
    assert rest == [None, {}, {}, True]
    deleted = admin.good("GET", path)
    assert deleted["deleted_at"]
    assert [identity["identity_data"] for identity in deleted["identities"]] == [{}, {}]
    given = {"email": user["email"], "password": PASSWORD}
    assert client.refused("POST", "/token?grant_type=password", given) == (400, "invalid_credentials")
    assert client.refused("GET", "/user", token=session["access_token"])[0] == 403
    make(admin, email=user["email"])  # the address is free again


def test_only_administrators_are_let_in(admin: AuthHttp, client: AuthHttp, api: LocalStack) -> None:
    user = make(admin)
    token = client.sign_in(user["email"])["access_token"]
    assert client.refused("GET", "/admin/users") == (403, "not_admin")
    assert client.refused("GET", "/admin/users", token=token) == (403, "not_admin")
    assert admin.refused("GET", "/admin/users", token=token) == (403, "not_admin")
    forged = jwt.encode({"role": "service_role"}, "x" * 32, algorithm="HS256")
    assert client.refused("GET", "/admin/users", token=forged) == (403, "bad_jwt")
    assert client.refused("POST", "/invite", {"email": new_email()}) == (403, "not_admin")
    assert AuthHttp(api, legacy_key(api, "anon")).refused("GET", "/admin/users") == (403, "not_admin")
    service = legacy_key(api, "service_role")
    AuthHttp(api, service).good("GET", "/admin/users")
    client.good("GET", "/admin/users", token=service)
    url = f"{api.url}/auth/v1/admin/users"
    assert httpx.get(url, headers={"apikey": api.secret_key}).status_code == 200
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"apikey": "sb_secret_wrong"}).status_code == 401
    browser = {"apikey": api.secret_key, "user-agent": "Mozilla/5.0 (X11)"}
    assert httpx.get(url, headers=browser).status_code == 401


def test_links_sign_in(admin: AuthHttp, client: AuthHttp) -> None:
    user = make(admin)
    link = admin.good("POST", "/admin/generate_link", {"type": "magiclink", "email": user["email"]})
    assert link["verification_type"] == "magiclink"
    by_code = {"type": "email", "email": user["email"], "token": link["email_otp"]}
    session = client.good("POST", "/verify", by_code)
    assert session["user"]["id"] == user["id"]
    assert [entry["method"] for entry in claims_of(session)["amr"]] == ["otp"]
    assert client.refused("POST", "/verify", by_code) == (403, "otp_expired")

    recovery = admin.good("POST", "/admin/generate_link", {"type": "recovery", "email": user["email"]})
    followed = httpx.get(recovery["action_link"])
    assert followed.status_code == 303
    assert parse_qs(urlsplit(followed.headers["location"]).fragment)["type"] == ["recovery"]


def test_links_make_users(admin: AuthHttp, client: AuthHttp) -> None:
    email = new_email()
    given = {"type": "signup", "email": email, "password": PASSWORD, "data": {"name": "Ada"}}
    link = admin.good("POST", "/admin/generate_link", given)
    assert link["user_metadata"] == {"name": "Ada"}
    client.good("POST", "/verify", {"type": "signup", "token_hash": link["hashed_token"]})
    client.sign_in(email)
    assert admin.refused("POST", "/admin/generate_link", given) == (422, "email_exists")
    unknown = {"type": "recovery", "email": new_email()}
    assert admin.refused("POST", "/admin/generate_link", unknown) == (404, "user_not_found")
    strange = {"type": "toString", "email": new_email()}
    assert admin.refused("POST", "/admin/generate_link", strange) == (400, "validation_failed")


def test_an_invitation_is_accepted_by_its_link(admin: AuthHttp, client: AuthHttp) -> None:
    email = new_email()
    invited = admin.good("POST", "/invite", {"email": email, "data": {"team": "red"}})
    assert invited["invited_at"]
    link = admin.good("POST", "/admin/generate_link", {"type": "invite", "email": email})
    followed = httpx.get(link["action_link"])
    fragment = parse_qs(urlsplit(followed.headers["location"]).fragment)
    assert fragment["type"] == ["invite"]
    user = client.good("GET", "/user", token=fragment["access_token"][0])
    assert (user["id"], user["user_metadata"]["team"]) == (invited["id"], "red")
    again = httpx.get(link["action_link"])
    assert parse_qs(urlsplit(again.headers["location"]).fragment)["error_code"] == ["otp_expired"]
    assert admin.refused("POST", "/invite", {"email": email}) == (422, "email_exists")


async def test_the_python_client_administers_users(admin: AuthHttp, api: LocalStack) -> None:
    client = await create_async_client(api.url, api.secret_key)
    made = await client.auth.admin.create_user({"email": new_email(), "email_confirm": True})
    found = await client.auth.admin.get_user_by_id(made.user.id)
    assert found.user.email == made.user.email
    assert made.user.id in [user.id for user in await client.auth.admin.list_users()]
    await client.auth.admin.update_user_by_id(made.user.id, {"ban_duration": "24h"})
    await client.auth.admin.delete_user(made.user.id)
    assert row_of(api, {"id": made.user.id}, "id") is None
