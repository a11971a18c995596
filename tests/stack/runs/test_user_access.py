"""``ctx.supabase`` acts exactly as the user: what policies see of its token, and what happens if it is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import deputy
import httpx
import psycopg
import pytest
from supabase import AsyncClient, acreate_client
from supabase_project import MADE_BY_TESTS, Project
from town import Town, eventually

SCHEMA = """
create table public.deputy_members (user_id uuid not null default auth.uid(), text text);
alter table public.deputy_members enable row level security;
grant insert on public.deputy_members to authenticated;
create policy "users write" on public.deputy_members for insert to authenticated with check (user_id = (select auth.uid()));
create policy "anonymous users do not" on public.deputy_members as restrictive for insert to authenticated
  with check ((select (auth.jwt() ->> 'is_anonymous')::boolean) is not true);
create table public.deputy_editors (user_id uuid not null default auth.uid(), text text);
alter table public.deputy_editors enable row level security;
grant insert on public.deputy_editors to authenticated;
create policy "editors write" on public.deputy_editors for insert to authenticated
  with check ((select auth.jwt() -> 'app_metadata' ->> 'role') = 'editor');
create function public.deputy_claims() returns jsonb language sql stable set search_path = '' return auth.jwt();
grant execute on function public.deputy_claims() to authenticated;
notify pgrst, 'reload schema';
"""

UNDO = "drop table public.deputy_members, public.deputy_editors; drop function public.deputy_claims()"


@pytest.fixture(scope="module", autouse=True)
def policies(stack: Project, signs_tokens: None) -> Iterator[None]:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(SCHEMA)  # pyright: ignore[reportArgumentType]
        with httpx.Client(base_url=stack.url, headers={"apikey": stack.secret_key}) as client:
            while client.post("/rest/v1/rpc/deputy_claims", json={}).status_code == 404:
                pass
        yield
        connection.execute(UNDO)


def change(town: Town, query: str, *args: Any) -> None:
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        connection.execute(query, args)  # pyright: ignore[reportArgumentType]


async def deputy_of(town: Town, **env: str) -> None:
    worker = town.worker(module=deputy.__file__, **env)
    await eventually(lambda: "worker ready" in worker.log, "the worker")


async def outputs(town: Town, user: AsyncClient, *moves: list[Any]) -> list[Any]:
    """What the tools of one run gave."""
    run_id = await town.submit(user, ["calls", moves], agent_type="deputy")
    await town.until(user, run_id, "completed")
    calls = (
        await user.table("agent_tool_calls")
        .select("*")
        .eq("execution_id", run_id)
        .order("position")
        .execute()
    )
    return [call["tool_output"] for call in calls.data]  # pyright: ignore


WHOAMI = ["whoami", {}]
UNLIKE = {"iat", "exp", "session_id", "amr"}
"""A token of a session says more: which session it is, and how it began."""


async def own_claims(user: AsyncClient) -> dict[str, Any]:
    claims: Any = (await user.rpc("deputy_claims", {}).execute()).data
    return {name: value for name, value in claims.items() if name not in UNLIKE}


async def test_token_carries_what_the_users_own_would(town: Town) -> None:
    await deputy_of(town)
    user = await town.anonymous()
    email = f"{uuid.uuid4()}@example.org"
    metadata = {"name": "Ada", "likes": ["tea"]}
    await user.auth.sign_up({"email": email, "password": "a long passphrase", "options": {"data": metadata}})
    change(
        town,
        "update auth.users set raw_app_meta_data = raw_app_meta_data || %s where email = %s",
        json.dumps({"tenant_id": "acme", "role": "editor"}),
        email,
    )
    await user.auth.refresh_session()
    [claims] = await outputs(town, user, WHOAMI)
    expected = await own_claims(user)
    assert {name: claims.get(name) for name in expected} == expected
    assert (claims["aal"], claims["email"], claims["is_anonymous"]) == ("aal1", email, False)
    assert (claims["app_metadata"]["role"], claims["user_metadata"]["likes"]) == ("editor", ["tea"])


async def sign_in_anonymously(town: Town) -> AsyncClient:
    user = await town.anonymous()
    await user.auth.sign_in_anonymously({"options": {"data": {MADE_BY_TESTS: True}}})
    return user


async def sign_in_with_a_phone_number(town: Town) -> AsyncClient:
    """Made by an administrator, as nobody sends messages to phones here."""
    email, password = f"{uuid.uuid4()}@example.org", "a long passphrase"
    phone = str(uuid.uuid4().int)[:11].replace("0", "1")
    admin = await acreate_client(town.stack.url, town.stack.secret_key)
    await admin.auth.admin.create_user(
        {"email": email, "phone": phone, "password": password, "email_confirm": True, "phone_confirm": True}
    )
    user = await town.anonymous()
    await user.auth.sign_in_with_password({"email": email, "password": password})
    return user


@pytest.mark.parametrize("signed_in", [sign_in_anonymously, sign_in_with_a_phone_number])
async def test_token_has_the_keys_and_values_of_a_session_and_no_others(
    town: Town, signed_in: Callable[[Town], Awaitable[AsyncClient]]
) -> None:
    await deputy_of(town)
    user = await signed_in(town)
    [claims] = await outputs(town, user, WHOAMI)
    expected = await own_claims(user)
    assert {name: value for name, value in claims.items() if name not in UNLIKE} == expected
    assert claims["is_anonymous"] is (signed_in is sign_in_anonymously)
    assert bool(claims["phone"]) is (signed_in is sign_in_with_a_phone_number)


async def test_changes_of_the_user_are_in_the_next_token(town: Town) -> None:
    """Read when it is signed, not when the run was submitted."""
    await deputy_of(town)
    user = await town.person()
    assert await outputs(town, user, ["write", {"table": "deputy_editors"}]) == ["refused: 42501"]
    grant = """update auth.users set raw_app_meta_data = raw_app_meta_data || '{"role": "editor"}' where id = %s"""
    change(town, grant, await town.user_id(user))
    assert await outputs(town, user, ["write", {"table": "deputy_editors"}]) == ["written"]


async def test_policies_about_anonymous_users_hold_for_their_agents(town: Town) -> None:
    await deputy_of(town)
    anonymous, permanent = await town.anonymous(), await town.person()
    await anonymous.auth.sign_in_anonymously({"options": {"data": {MADE_BY_TESTS: True}}})
    for user, answer in ((anonymous, "refused: 42501"), (permanent, "written")):
        assert await outputs(town, user, ["write", {"table": "deputy_members"}]) == [answer]


@pytest.mark.realtime
async def test_realtime_knows_the_user_too(town: Town) -> None:
    await deputy_of(town)
    assert await outputs(town, await town.person(), ["listen", {}]) == [["SUBSCRIBED"]]


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_clock_that_is_an_hour_wrong_changes_nothing(town: Town, seconds: int) -> None:
    await deputy_of(town, DEPUTY_CLOCK_IS_WRONG_BY=str(seconds))
    user = await town.person()
    [claims] = await outputs(town, user, WHOAMI)
    assert claims["sub"] == await town.user_id(user)


@pytest.mark.parametrize(
    "broken", [{"SUPABASE_JWT_SECRET": "x" * 40}, {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}]
)
async def test_refused_token_is_the_operators_business(town: Town, broken: dict[str, str]) -> None:
    """A rotated key: the run waits, whatever the tool makes of it, and goes on where a worker has the right one."""
    if "SUPABASE_PUBLISHABLE_KEY" in broken:
        broken = {**broken, "RUNHOLD_WORKER_TOKEN": ""}  # the worker itself goes by the secret key then
    await deputy_of(town, **broken)
    user = await town.person()
    run_id = await town.submit(user, ["calls", [["careless", {}], WHOAMI]], agent_type="deputy")

    async def waits() -> dict[str, Any] | None:
        row = await town.run(user, run_id)
        return row if row["status"] == "pending" and row["wake_at"] else None

    row = await eventually(waits, "the run to go back")
    assert row["error_detail"]["waiting_for"] == "user_access"
    assert row["attempt"] == 0
    (worker,) = town.workers
    assert worker.log.count("ctx.supabase can't act as users") == 1
    worker.kill()
    await deputy_of(town)
    change(town, "update agent_executions set wake_at = null where id = %s", run_id)
    await town.until(user, run_id, "completed")
    calls = (
        await user.table("agent_tool_calls")
        .select("status,error,tool_output")
        .eq("execution_id", run_id)
        .execute()
    )
    assert [call["status"] for call in calls.data] == ["succeeded", "succeeded"]  # pyright: ignore
    assert "could not" not in json.dumps(calls.data)
