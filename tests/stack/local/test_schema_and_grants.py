"""The API leaves rights alone, notices new schema, and its own tables fit what lite expects."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import psycopg

from runhold.local import api as api_package
from runhold.local.node import cache_folder, install_packages
from runhold.local.stack import LocalStack

RIGHTS = """
select 'relation', relname, relacl::text from pg_class where relnamespace::regnamespace::text in ('public', 'auth', 'realtime')
union all select 'column', attrelid::regclass || '.' || attname, attacl::text from pg_attribute where attacl is not null
union all select 'function', oid::regprocedure::text, proacl::text from pg_proc
    where pronamespace::regnamespace::text in ('public', 'auth', 'runhold', 'realtime')
union all select 'schema', nspname, nspacl::text from pg_namespace where nspname !~ '^pg_'
union all select 'default', defaclnamespace::text, defaclacl::text from pg_default_acl
union all select 'role', rolname, rolsuper::text || rolbypassrls::text || rolcanlogin::text from pg_roles
order by 1, 2, 3
"""


async def test_requests_change_no_rights(
    api: LocalStack, user_client: tuple[Any, Any], service_client: Any
) -> None:
    def rights() -> list[Any]:
        with psycopg.connect(api.superuser_url) as connection:
            return connection.execute(RIGHTS.encode()).fetchall()

    before = rights()
    client, _ = user_client
    await client.table("lt_notes").select("id").execute()
    await service_client.table("lt_values").select("*").execute()
    await service_client.rpc("lt_rows").limit(1).execute()
    await client.auth.refresh_session()
    assert rights() == before


def test_the_api_logs_in_as_a_role_without_rights(api: LocalStack) -> None:
    with psycopg.connect(api.superuser_url) as connection:
        roles = connection.execute(
            "select distinct usename from pg_stat_activity where application_name = 'runhold-api'"
        ).fetchall()
        rights = connection.execute(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
            " and has_table_privilege('authenticator', oid, 'select, insert, update, delete, references')"
        ).fetchall()
    assert ("authenticator",) in roles
    assert set(roles) <= {("authenticator",), ("supabase_auth_admin",)}
    assert rights == []


async def until_status(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    """Ask until the API has heard of the change; the test's own time-out ends a vain wait."""
    while (answer := await client.post(path, json={})).status_code != status:
        await asyncio.sleep(0.01)
    return answer


async def test_new_schema_is_noticed_without_a_word(api: LocalStack) -> None:
    headers = {"apikey": api.secret_key}
    async with (
        httpx.AsyncClient(base_url=f"{api.url}/rest/v1", headers=headers) as client,
        await psycopg.AsyncConnection.connect(api.database_url, autocommit=True) as connection,
    ):
        assert (await client.post("/rpc/lt_newborn", json={})).status_code == 404
        assert (await client.get("/lt_newborn")).status_code == 404
        await connection.execute(
            "create function public.lt_newborn() returns text language sql as 'select ''1'''"
        )
        assert (await until_status(client, "/rpc/lt_newborn", 200)).json() == "1"
        await connection.execute("drop function public.lt_newborn()")
        await connection.execute(
            "create function public.lt_newborn(a int default 2) returns int language sql as 'select a'"
        )
        while (await client.post("/rpc/lt_newborn", json={"a": 3})).text != "3":
            await asyncio.sleep(0.01)
        await connection.execute("drop function public.lt_newborn(int)")
        await until_status(client, "/rpc/lt_newborn", 404)
        await connection.execute(
            "create table public.lt_newborn (id int); grant all on public.lt_newborn to service_role"
        )
        while (await client.post("/lt_newborn", json={"id": 1})).status_code != 201:
            await asyncio.sleep(0.01)
        await connection.execute("alter table public.lt_newborn add column more text")
        while (await client.get("/lt_newborn?select=more")).status_code != 200:
            await asyncio.sleep(0.01)
        await connection.execute("drop table public.lt_newborn")
        while (await client.get("/lt_newborn")).status_code != 404:
            await asyncio.sleep(0.01)


async def test_our_auth_schema_has_all_that_lite_expects(api: LocalStack) -> None:
    packages = await install_packages(Path(api_package.__file__).parent)
    program = "import('@supabase/lite').then((lite) => console.log(JSON.stringify(lite.getAuthSchemaSql())))"
    output = subprocess.run(["node", "-e", program], cwd=packages, capture_output=True, check=True, text=True)
    theirs_sql = json.loads(output.stdout)
    columns = (
        "select table_name, column_name, data_type, is_generated from information_schema.columns"
        " where table_schema = 'auth'"
    )
    with psycopg.connect(api.superuser_url) as connection:
        ours = set(connection.execute(columns).fetchall())
        connection.execute("drop schema auth cascade")
        connection.execute(theirs_sql)
        theirs = set(connection.execute(columns).fetchall())
        connection.rollback()
    assert theirs
    assert theirs - ours == set()


def test_packages_are_cached_per_user(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "runhold"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path(os.environ["HOME"]) / ".cache" / "runhold"


def test_the_lock_file_names_no_registry() -> None:
    text = (Path(api_package.__file__).parent / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert "registry" not in text
