"""Which SQL files a project consists of: Runhold's own and those of the project around it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runhold.local.errors import StackError

MIGRATION_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>.*)\.sql")
"""As the Supabase CLI reads names; it skips other files, and so do we."""

PACKAGED = Path(__file__).parent / "project" / "supabase"
CHECKOUT = Path(__file__).parents[3] / "supabase"


@dataclass(frozen=True, kw_only=True, order=True)
class Migration:
    """A migration file. `version` is the digits before the first underscore, `name` what is between that and `.sql`."""

    version: str
    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Project:
    """What to apply, in order. `seed` is None if there is nothing to seed."""

    migrations: tuple[Migration, ...]
    seed: Path | None


def own_backend() -> Path:
    """Runhold's own `supabase` folder: the wheel's, or the one of the checkout that this is an editable install of."""
    for folder in (PACKAGED, CHECKOUT):
        if (folder / "migrations").is_dir():
            return folder
    raise StackError("Runhold's own migrations are missing from this installation; install runhold again.")


def find_project(folder: Path) -> Project:
    """The files for a project folder: its own `supabase/migrations`, and Runhold's unless it holds copies of them.

    A file counts as a copy if it has the version of one of ours: the project's is applied, so that what was deployed is
    what runs here. The seed is the project's if it has one, else ours.
    """
    own = own_backend()
    theirs = folder / "supabase"
    migrations = {migration.version: migration for migration in _migrations(own / "migrations")}
    if theirs.resolve() != own.resolve():
        migrations.update({migration.version: migration for migration in _migrations(theirs / "migrations")})
    seeds = [seed for seed in (theirs / "seed.sql", own / "seed.sql") if seed.is_file()]
    return Project(
        migrations=tuple(sorted(migrations.values())),
        seed=seeds[0] if seeds else None,
    )


def _migrations(folder: Path) -> list[Migration]:
    """The migration files of one folder. Raises StackError if two share a version."""
    found: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            continue
        migration = Migration(version=match["version"], name=match["name"], path=path)
        if migration.version in found:
            raise StackError(
                f"{found[migration.version].path.name} and {path.name} have the same version: rename one of them."
            )
        found[migration.version] = migration
    return list(found.values())
