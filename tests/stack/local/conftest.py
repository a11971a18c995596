"""A small schema of its own for tests of the API, and clients of every kind."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from supabase import AsyncClientOptions, create_async_client

from runhold.local.stack import LocalStack

SCHEMA = Path(__file__).with_name("api_schema.sql")


@pytest.fixture(scope="session")
def api(stack: LocalStack) -> Iterator[LocalStack]:
    """The shared stack with the tables and functions of api_schema.sql in it."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(SCHEMA.read_bytes())
        # The API learns of new functions by a notification; a call that finds the last of them proves that it has.
        with httpx.Client(base_url=stack.url, headers={"apikey": stack.secret_key}) as client:
            while client.post("/rest/v1/rpc/lt_last", json={}).status_code == 404:
                pass
        yield stack
        connection.execute("drop schema if exists lt cascade")


@pytest.fixture
def service(api: LocalStack) -> Iterator[httpx.Client]:
    """Plain HTTP with the secret key, as supabase-py sends it: in `apikey` and as bearer."""
    headers = {"apikey": api.secret_key, "authorization": f"Bearer {api.secret_key}"}
    with httpx.Client(base_url=f"{api.url}/rest/v1", headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def anonymous(api: LocalStack) -> Iterator[httpx.Client]:
    """Plain HTTP with the publishable key and nobody signed in."""
    with httpx.Client(base_url=f"{api.url}/rest/v1", headers={"apikey": api.publishable_key}) as client:
        yield client


def no_session() -> AsyncClientOptions:
    return AsyncClientOptions(auto_refresh_token=False, persist_session=False)


@pytest.fixture
async def service_client(
    api: LocalStack,
) -> Any:  # supabase-py types answers as a union that no test can index
    return await create_async_client(api.url, api.secret_key, options=no_session())


@pytest.fixture
async def user_client(api: LocalStack) -> AsyncIterator[tuple[Any, Any]]:
    """A supabase-py client with a new user signed in, and the user."""
    client = await create_async_client(api.url, api.publishable_key, options=no_session())
    email = f"{uuid.uuid4()}@example.com"
    answer = await client.auth.sign_up({"email": email, "password": "correct horse"})
    yield client, answer.user
    with psycopg.connect(api.superuser_url) as connection:
        connection.execute("delete from auth.users where email = %s", [email])
