"""Tokens for ``ctx.supabase``: whose they are, how long they live, what signs them."""

from __future__ import annotations

import json
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from runhold.errors import ConfigError
from runhold.runtime.user_client import TOKEN_REUSE_S, TOKEN_TTL_S, SigningKey, UserClients, signing_key

SECRET = "a secret that is long enough for HS256"
ADA = UUID(int=1)
URL = "http://127.0.0.1:1"


def clients(key: SigningKey | None = None, now: float = 1_000.0, **more: object) -> UserClients:
    made = key or SigningKey(algorithm="HS256", key=SECRET)
    return UserClients(URL, "sb_publishable_x", made, now=lambda: now, **more)  # pyright: ignore[reportArgumentType]


def token_of(client: object) -> str:
    return client.options.headers["Authorization"].removeprefix("Bearer ")  # pyright: ignore


def claims_of(token: str, key: object = SECRET, algorithm: str = "HS256") -> dict[str, object]:
    return jwt.decode(token, key, [algorithm], audience="authenticated", options={"verify_exp": False})  # pyright: ignore


def test_client_acts_as_the_user_for_some_minutes() -> None:
    client = clients()(ADA, None)
    claims = claims_of(token_of(client))
    assert (claims["sub"], claims["role"]) == (str(ADA), "authenticated")
    assert claims["exp"] == 1_000 + TOKEN_TTL_S
    assert client.supabase_key == "sb_publishable_x"
    assert SECRET not in str(vars(client))


def test_tenant_stands_where_the_project_says() -> None:
    claims = claims_of(token_of(clients(tenant_claim=("app_metadata", "org"))(ADA, "acme")))
    assert claims["app_metadata"] == {"org": "acme"}


def test_token_is_made_anew_before_it_is_old_and_never_shared_between_users() -> None:
    time = [1_000.0]
    made = UserClients(
        URL, "sb_publishable_x", SigningKey(algorithm="HS256", key=SECRET), now=lambda: time[0]
    )
    first, other = token_of(made(ADA, None)), token_of(made(UUID(int=2), None))
    assert first != other
    assert token_of(made(ADA, None)) == first
    assert claims_of(token_of(made(ADA, "acme")))["app_metadata"] == {"tenant_id": "acme"}
    time[0] += TOKEN_REUSE_S
    assert token_of(made(ADA, None)) != first


def test_private_jwk_signs_with_its_key_id() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    fields = {**json.loads(ECAlgorithm.to_jwk(private)), "kid": "k1"}
    key = signing_key(secret=None, jwk=json.dumps(fields))
    token = token_of(clients(key)(ADA, None))
    assert jwt.get_unverified_header(token)["kid"] == "k1"
    assert claims_of(token, private.public_key(), "ES256")["sub"] == str(ADA)


@pytest.mark.parametrize("jwk", ["not json", "{}", '{"kty": "EC"}', '{"kty": "oct", "k": "x"}', "[]"])
def test_anything_but_a_private_key_is_refused_in_a_sentence(jwk: str) -> None:
    with pytest.raises(ConfigError, match="SUPABASE_JWT_SIGNING_KEY is no private signing key"):
        signing_key(secret=SECRET, jwk=jwk)


def test_without_a_key_there_is_no_client() -> None:
    assert signing_key(secret=None, jwk=None) is None
    with pytest.raises(ConfigError, match="SUPABASE_JWT_SIGNING_KEY"):
        UserClients(URL, "sb_publishable_x", None)(ADA, None)
    with pytest.raises(ConfigError, match="SUPABASE_PUBLISHABLE_KEY"):
        UserClients(URL, None, SigningKey(algorithm="HS256", key=SECRET))(ADA, None)


async def test_closing_one_client_leaves_the_others_connections() -> None:
    made = clients()
    first, second = made(ADA, None), made(ADA, None)
    await first.postgrest.aclose()
    assert not second.postgrest.session.is_closed
    await made.aclose()
    assert second.postgrest.session.is_closed
