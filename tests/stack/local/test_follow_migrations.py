"""`runhold dev` applies a project's migrations as their files appear, and the API serves the new tables at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from runhold.local.follow import follow_migrations
from runhold.local.stack import LocalStack

Told = asyncio.Queue[str]


@asynccontextmanager
async def following(database_url: str, folder: Path) -> AsyncIterator[Told]:
    """What is told while the migrations of the folder are followed."""
    told = Told()
    task = asyncio.create_task(follow_migrations(database_url, folder, told.put_nowait))
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    folder = tmp_path / "supabase" / "migrations"

    def written(name: str, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # As editors do, so that no half of a file is seen.
        (folder / "new").write_text(text)
        (folder / "new").rename(folder / name)

    return written


async def test_new_refused_and_edited_files(
    tmp_path: Path, fresh_database_url: str, write: Callable[[str, str], None]
) -> None:
    async with following(fresh_database_url, tmp_path) as told:
        write("90000000000001_one.sql", "create table public.one (id int);")
        assert await told.get() == "90000000000001_one.sql was applied."
        write("90000000000002_two.sql", "create table public.two (id int);\nselect nonsense;")
        refusal = await told.get()
        assert refusal.startswith('90000000000002_two.sql, line 2: column "nonsense" does not exist (42703)')
        write("90000000000002_two.sql", "create table public.two (id int);")
        assert await told.get() == "90000000000002_two.sql was applied."
        write("90000000000001_one.sql", "create table public.one (id int, name text);")
        assert (await told.get()).startswith("90000000000001_one.sql was edited after it had been applied")
        write("90000000000001_one.sql", "create table public.one (id int);")
        write("90000000000002_same.sql", "select 1;")
        assert "have the same version" in await told.get()
        (tmp_path / "supabase" / "migrations" / "90000000000002_same.sql").unlink()
        write("90000000000003_three.sql", "create table public.three (id int);")
        assert await told.get() == "90000000000003_three.sql was applied."
    with psycopg.connect(fresh_database_url) as connection:
        names = connection.execute(
            "select name from supabase_migrations.schema_migrations where version > '9'"
        )
        assert sorted(name for (name,) in names) == ["one", "three", "two"]


async def test_the_api_serves_new_tables(
    tmp_path: Path, api: LocalStack, write: Callable[[str, str], None]
) -> None:
    headers = {"apikey": api.secret_key}
    try:
        async with (
            following(api.database_url, tmp_path) as told,
            httpx.AsyncClient(base_url=f"{api.url}/rest/v1", headers=headers) as client,
        ):
            assert (await client.get("/lt_followed")).status_code == 404
            write(
                "90000000000009_followed.sql",
                "create table public.lt_followed (id int); grant select on public.lt_followed to service_role;",
            )
            assert await told.get() == "90000000000009_followed.sql was applied."
            while (answer := await client.get("/lt_followed")).status_code == 404:
                await asyncio.sleep(0.01)
            assert answer.json() == []
    finally:
        with psycopg.connect(api.database_url) as connection:
            connection.execute("drop table if exists public.lt_followed")
            connection.execute("delete from supabase_migrations.schema_migrations where version > '9'")
