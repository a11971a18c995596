"""``ctx.supabase``: whose token it presents, for how long, and what becomes of a token that is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_decode, base64url_encode
from postgrest import APIError
from project_api import Answer, project_api  # pyright: ignore[reportMissingImports]
from supabase import AsyncClient

from runhold.errors import ConfigError, Refused, RunholdError, StoreUnavailable, UserAccessFault
from runhold.loop.ports import UserClientFactory
from runhold.runtime import user_access
from runhold.runtime.user_access import TOKEN_REUSE_S, TOKEN_TTL_S, why_refused
from runhold.runtime.user_client import SigningKey, UserClients, signing_key
from runhold.store.records import UserClaims

SECRET = "a secret that is long enough for HS256"
ADA = "00000000-0000-0000-0000-000000000001"
THERE = datetime(2030, 1, 1, tzinfo=UTC)
"""The database's time: far from this machine's."""

CLAIMS: dict[str, Any] = {"sub": ADA, "role": "authenticated", "aud": "authenticated", "is_anonymous": True}
BAD_TOKEN: Answer = (
    401,
    {"code": "PGRST301", "message": "JWSError JWSInvalidSignature", "details": None, "hint": None},
)


class Project:
    """The database that says what tokens carry, and what a run noted."""

    def __init__(self, url: str, key: SigningKey | None = None) -> None:
        self.users = UserClients(url, "sb_publishable_x", key or SigningKey(algorithm="HS256", key=SECRET))
        self.now = THERE
        self.fetched = 0
        self.failing: Exception | None = None
        self.held = True
        self.noted: list[str | None] = []

    async def fetch(self) -> UserClaims | None:
        self.fetched += 1
        if self.failing is not None:
            raise self.failing
        return UserClaims(claims=CLAIMS, now=self.now) if self.held else None

    def run(self) -> UserClientFactory:
        return self.users.for_run(self.fetch)

    def client(self) -> AsyncClient:
        return self.run()(self.noted.append)


async def look(client: AsyncClient) -> Any:
    return (await client.table("things").select("*").execute()).data


def claims_of(token: str, key: object = SECRET, algorithm: str = "HS256") -> dict[str, Any]:
    return jwt.decode(
        token, key, [algorithm], audience="authenticated", options={"verify_exp": False, "verify_iat": False}
    )  # pyright: ignore


# ------------------------------------------------------------------------------------------------------------- tokens


async def test_token_carries_the_users_claims_and_the_databases_time() -> None:
    with project_api() as api:
        project = Project(api.url)
        client = project.client()
        assert project.fetched == 0  # nothing is asked for until a request needs it
        await look(client)
        claims = claims_of(api.tokens[0])
        assert claims == {
            **CLAIMS,
            "iss": f"{api.url}/auth/v1",
            "iat": int(THERE.timestamp()),
            "exp": int(THERE.timestamp()) + TOKEN_TTL_S,
        }
        assert client.supabase_key == "sb_publishable_x"
        assert SECRET not in str(vars(client))
        await project.users.aclose()


@pytest.mark.parametrize("hours", [-1, 1])
async def test_clock_of_the_worker_does_not_matter(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    with project_api() as api:
        project = Project(api.url)
        await look(project.client())
        assert claims_of(api.tokens[0])["iat"] == int(THERE.timestamp())
        await project.users.aclose()


async def test_calls_of_a_run_share_a_token_while_it_is_young_and_runs_never_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = [0.0]
    monkeypatch.setattr(user_access, "monotonic", lambda: passed[0])
    with project_api() as api:
        project = Project(api.url)
        one = project.run()
        await asyncio.gather(*(look(one(project.noted.append)) for _ in range(3)))
        assert (len({*api.tokens}), project.fetched) == (1, 1)
        await look(project.client())
        assert project.fetched == 2
        passed[0] += TOKEN_REUSE_S
        project.now += timedelta(seconds=TOKEN_REUSE_S)
        await look(one(project.noted.append))
        assert len({*api.tokens}) == 2
        await project.users.aclose()


async def test_tool_in_a_thread_acts_as_the_user_too() -> None:
    with project_api(lambda path, token: (200, [token])) as api:
        project = Project(api.url)
        factory = project.run()
        [token] = await asyncio.to_thread(lambda: asyncio.run(look(factory(project.noted.append))))
        assert claims_of(token)["sub"] == ADA
        assert project.fetched == 1
        await project.users.aclose()


async def test_tool_that_signed_in_by_itself_presents_what_it_has() -> None:
    with project_api() as api:
        project = Project(api.url)
        client = project.client()
        await client.postgrest.session.get(f"{api.url}/rest/v1/x", headers={"Authorization": "Bearer mine"})
        assert (api.tokens, project.fetched) == (["mine"], 0)
        await project.users.aclose()


@pytest.mark.parametrize(
    ("service", "ask"),
    [
        ("storage", lambda client: client.storage.list_buckets()),
        ("functions", lambda client: client.functions.invoke("hello")),
    ],
)
async def test_other_services_get_the_users_token(
    service: str, ask: Callable[[AsyncClient], Awaitable[Any]]
) -> None:
    with project_api() as api:
        project = Project(api.url)
        await ask(project.client())
        assert api.asked[0][0].startswith(f"/{service}/v1/")
        assert claims_of(api.tokens[0])["sub"] == ADA
        await project.users.aclose()


# ------------------------------------------------------------------------------------------------------------- faults


async def test_token_that_stays_refused_is_a_fault_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with project_api(lambda path, token: BAD_TOKEN) as api:
        project = Project(api.url)
        for _ in range(2):
            with pytest.raises(UserAccessFault, match="rest API answered 401 PGRST301 JWSError"):
                await look(project.client())
            assert project.noted[-1] is not None
        assert project.fetched == 4  # claims and time are asked for anew before it counts as refused
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert "SUPABASE_JWT_SIGNING_KEY" in record.getMessage()
        api.answer = lambda path, token: (200, [])
        await look(project.client())
        assert project.noted[-1] is None
        api.answer = lambda path, token: BAD_TOKEN
        with pytest.raises(UserAccessFault):
            await look(project.client())
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 2  # news again
        await project.users.aclose()


async def test_request_is_sent_again_as_it_was_when_the_first_token_is_refused() -> None:
    """As where the clock was set, or one of several servers does not know the new key yet."""
    answers: list[Answer] = [BAD_TOKEN, (201, [{"a": 1}])]
    with project_api(lambda path, token: answers.pop(0)) as api:
        project = Project(api.url)
        await project.client().table("things").insert({"a": 1}).execute()
        assert api.bodies == [b'{"a":1}'] * 2
        assert (project.fetched, project.noted[-1]) == (2, None)
        await project.users.aclose()


async def test_refusal_stays_noted_whatever_the_tool_tries_next() -> None:
    answers: list[Answer] = [BAD_TOKEN, BAD_TOKEN, (200, [])]
    with project_api(lambda path, token: answers.pop(0)) as api:
        project = Project(api.url)
        client = project.client()
        with pytest.raises(UserAccessFault):
            await look(client)
        await look(client)
        assert project.noted[-1] is not None
        await project.users.aclose()


async def test_database_that_can_not_be_asked_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with project_api() as api:
        project = Project(api.url)
        project.failing = StoreUnavailable("no answer from agent_worker_user_claims: timed out")
        with pytest.raises(UserAccessFault, match="can't be asked"):
            await look(project.client())
        assert project.noted[-1] is not None
        assert api.asked == []
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
        await project.users.aclose()


async def test_time_that_ends_while_the_claims_are_fetched_is_noted() -> None:
    with project_api() as api:
        project = Project(api.url)

        async def never() -> UserClaims | None:
            await asyncio.get_running_loop().create_future()

        client = project.users.for_run(never)(project.noted.append)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(look(client), 0.05)
        assert project.noted[-1] is not None
        await project.users.aclose()


async def test_user_who_may_not_act_and_a_lost_run_are_no_faults(caplog: pytest.LogCaptureFixture) -> None:
    """The next record of the run says what is to become of it."""
    with project_api() as api:
        project = Project(api.url)
        project.failing = Refused("The run's user was deleted.", code="RH022")
        with pytest.raises(Refused):
            await look(project.client())
        project.failing, project.held = None, False
        with pytest.raises(RunholdError, match="no longer holds the run"):
            await look(project.client())
        assert project.noted[-1] is None
        assert [r for r in caplog.records if r.levelno == logging.ERROR] == []
        await project.users.aclose()


async def test_what_a_user_may_not_do_is_their_answer() -> None:
    denied = {
        "code": "42501",
        "message": "new row violates row-level security policy",
        "details": None,
        "hint": None,
    }
    with project_api(lambda path, token: (403, denied)) as api:
        project = Project(api.url)
        with pytest.raises(APIError, match="row-level security"):
            await project.client().table("things").insert({}).execute()
        assert (len(api.asked), project.noted[-1]) == (1, None)
        await project.users.aclose()


REST, AUTH, STORAGE, FUNCTIONS = "/rest/v1/x", "/auth/v1/user", "/storage/v1/object/x", "/functions/v1/hello"


@pytest.mark.parametrize(
    ("path", "status", "body", "is_fault"),
    [
        (REST, 401, {"code": "PGRST303", "message": "JWT expired"}, True),
        (REST, 500, {"code": "PGRST300", "message": "Server lacks JWT secret"}, True),
        (REST, 401, {"message": "Invalid API key", "hint": "…"}, True),
        (REST, 401, {"code": "22023", "message": 'role "editor" does not exist'}, True),
        (REST, 401, {"code": "PT401", "message": "a function of the project says so"}, False),
        (REST, 401, {"code": "42501", "message": "permission denied for table x"}, False),
        (REST, 400, {"code": "PGRST100", "message": "parse error"}, False),
        (AUTH, 403, {"code": 403, "error_code": "bad_jwt", "msg": "invalid JWT"}, True),
        (AUTH, 403, {"code": 403, "error_code": "user_banned", "msg": "User is banned"}, False),
        (STORAGE, 400, {"statusCode": "403", "error": "Unauthorized", "message": "jwt expired"}, True),
        (STORAGE, 400, {"statusCode": "400", "error": "InvalidJWT", "message": "Invalid Compact JWS"}, True),
        (
            STORAGE,
            400,
            {"statusCode": "403", "error": "Unauthorized", "message": "new row violates …"},
            False,
        ),
        (FUNCTIONS, 401, {"code": "UNAUTHORIZED_LEGACY_JWT", "message": "Invalid JWT"}, True),
        (FUNCTIONS, 401, {"code": 401, "message": "Invalid JWT"}, True),
        (FUNCTIONS, 401, {"message": "your subscription has ended"}, False),
        (FUNCTIONS, 401, ["no object"], False),
    ],
)
async def test_refusals_of_a_token_are_told_from_those_of_a_user(
    path: str, status: int, body: Any, is_fault: bool
) -> None:
    request = httpx.Request("GET", f"https://x.supabase.co{path}")
    why = await why_refused(httpx.Response(status, json=body, request=request))
    assert (why is not None) is is_fault


# -------------------------------------------------------------------------------------------------------------- keys


async def test_private_jwk_signs_with_its_key_id() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    fields = {**json.loads(ECAlgorithm.to_jwk(private)), "kid": "k1"}
    key = signing_key(secret=None, jwk=json.dumps(fields))
    with project_api() as api:
        project = Project(api.url, key)
        await look(project.client())
        await project.users.aclose()
    assert jwt.get_unverified_header(api.tokens[0])["kid"] == "k1"
    assert claims_of(api.tokens[0], private.public_key(), "ES256")["sub"] == ADA


@pytest.mark.parametrize("jwk", ["not json", "{}", '{"kty": "EC"}', '{"kty": "oct", "k": "x"}', "[]"])
def test_anything_but_a_private_key_is_refused_in_a_sentence(jwk: str) -> None:
    with pytest.raises(ConfigError, match="SUPABASE_JWT_SIGNING_KEY is no private signing key"):
        signing_key(secret=SECRET, jwk=jwk)


@pytest.mark.parametrize(
    ("key", "publishable", "says"),
    [
        (None, "sb_publishable_x", "SUPABASE_JWT_SIGNING_KEY"),
        (SigningKey(algorithm="HS256", key=SECRET), None, "SUPABASE_PUBLISHABLE_KEY"),
    ],
)
async def test_without_a_key_there_is_no_client(
    key: SigningKey | None, publishable: str | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert signing_key(secret=None, jwk=None) is None
    project = Project("http://127.0.0.1:1")
    factory = UserClients("http://127.0.0.1:1", publishable, key).for_run(project.fetch)
    with pytest.raises(ConfigError, match=says):
        factory(project.noted.append)
    assert says in str(project.noted)
    assert says in caplog.text


async def test_closing_one_client_leaves_the_others_connections() -> None:
    with project_api() as api:
        project = Project(api.url)
        first, second = project.client(), project.client()
        await look(first)
        await first.postgrest.aclose()
        await look(second)
        await project.users.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await look(second)


@pytest.mark.parametrize("short", ["x", "y", "d"])
def test_a_key_whose_numbers_lost_their_leading_zeros_signs(short: str) -> None:
    """As Supabase CLI 2 writes one key in a hundred; a key with a zero there is found by trying."""
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        fields = ECAlgorithm.to_jwk(key, as_dict=True)
        number = base64url_decode(fields[short])
        if number[0] == 0:
            break
    assert len(number) == 32
    fields[short] = base64url_encode(number.lstrip(b"\0")).decode()
    signing = signing_key(secret=None, jwk=json.dumps(fields))
    assert signing is not None
    assert jwt.decode(signing.sign({"sub": ADA}), key.public_key(), algorithms=["ES256"]) == {"sub": ADA}


@pytest.mark.parametrize(
    "text", ["[]", "3", '"x"', '{"kty": "EC", "crv": "P-256", "x": 1, "y": "AA", "d": "AA"}']
)
def test_json_that_is_no_key_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="SUPABASE_JWT_SIGNING_KEY is no private signing key"):
        signing_key(secret=None, jwk=text)
