"""Applies a project's migrations while its stack runs, as their files appear."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import watchfiles

from runhold.local.errors import StackError
from runhold.local.migrations import apply_project, recorded_statements
from runhold.local.project import Migration, Project, find_project
from runhold.local.sql_files import split

LOOK_AGAIN_MS = 1000
"""How long a change that the system did not report stays unseen; also how soon a new folder is watched."""

Stamps = dict[Path, tuple[int, int]]


async def follow_migrations(database_url: str, folder: Path, tell: Callable[[str], None]) -> None:
    """Apply what is new in `folder/supabase/migrations` until cancelled.

    `database_url`: of role postgres. `tell` gets a sentence for each file that was applied, was refused, or was edited
    after it had been applied.
    """
    seen = _stamps(folder)
    await _catch_up(database_url, folder, (), tell)
    while True:
        watched = _nearest(folder)
        async for _ in _changes(watched):
            found = _stamps(folder)
            if found != seen:
                edited = [path for path, stamp in found.items() if seen.get(path, stamp) != stamp]
                seen = found
                await _catch_up(database_url, folder, edited, tell)
            if _nearest(folder) != watched:
                break


def _migrations_folder(folder: Path) -> Path:
    return folder / "supabase" / "migrations"


def _nearest(folder: Path) -> Path:
    """The folder to watch: that of the migrations, or while there is none the one in which it will appear."""
    target = _migrations_folder(folder)
    return next(path for path in (target, target.parent, folder) if path.is_dir())


def _changes(folder: Path) -> AsyncIterator[Any]:
    watch: Any = getattr(watchfiles, "awatch")  # noqa: B009 - typed in part only
    return watch(folder, recursive=False, yield_on_timeout=True, rust_timeout=LOOK_AGAIN_MS)


def _stamps(folder: Path) -> Stamps:
    stamps: Stamps = {}
    for path in sorted(_migrations_folder(folder).glob("*.sql")):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        stamps[path] = (status.st_mtime_ns, status.st_size)
    return stamps


async def _catch_up(
    database_url: str, folder: Path, edited: Collection[Path], tell: Callable[[str], None]
) -> None:
    try:
        migrations = find_project(folder).migrations
        recorded = await recorded_statements(database_url)
        for migration in migrations:
            if migration.version not in recorded:
                await apply_project(database_url, Project(migrations=(migration,), seed=None))
                tell(f"{migration.path.name} was applied.")
            elif migration.path in edited and _differs(migration, recorded[migration.version]):
                tell(
                    f"{migration.path.name} was edited after it had been applied, and the database still has what it"
                    " was: write the change into a new migration, or start with an empty database"
                    " (runhold stack erase)."
                )
    except StackError as error:
        tell(str(error))


def _differs(migration: Migration, statements: list[str] | None) -> bool:
    text = migration.path.read_text(encoding="utf-8")
    return statements is not None and [statement.text for statement in split(text)] != statements
