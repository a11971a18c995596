"""What `runhold dev` and `runhold demo` put together: the example, its tables, a script that plays the model."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from typing import Final, cast

import runhold.local
from runhold.cli.exits import CommandError
from runhold.local.migrations import apply_project
from runhold.local.project import Migration
from runhold.local.project import Project as SqlProject
from runhold.models.script import Script

AFTER_ALL_OTHERS: Final = "29990101"
"""How the versions of such migrations begin."""

_PACKAGED: Final = Path(runhold.local.__file__).parent / "project" / "examples"
_CHECKOUT: Final = Path(__file__).parents[3] / "examples"


def example_folder(name: str) -> Path:
    """The folder of an example: the wheel's, or that of the checkout."""
    for examples in (_PACKAGED, _CHECKOUT):
        if (examples / name / "agent.py").is_file():
            return examples / name
    raise CommandError(f"The example {name} is missing from this installation; install runhold again.")


def load_script(folder: Path) -> Script | None:
    """``script`` of the file ``script.py`` in an agent's folder; None if there is no such file."""
    if not (folder / "script.py").is_file():
        return None
    package = f"_runhold_{folder.name}"  # under a name of ours: no other package of that name is in the way
    beginning = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        package, beginning if beginning.is_file() else None, submodule_search_locations=[str(folder)]
    ) or importlib.util.spec_from_loader(package, None, is_package=True)
    assert spec is not None
    if not beginning.is_file():
        spec.submodule_search_locations = [str(folder)]
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module(f"{package}.script")
        return cast("Script", module.script)
    except Exception as error:  # whatever somebody's module raises
        raise CommandError(
            f"{folder / 'script.py'} can't be used: {type(error).__name__}: {error}."
        ) from error


async def make_tables(database_url: str, folder: Path) -> None:
    """Apply ``migration.sql`` of an agent's folder, if there is one and it was not applied yet.

    For agents that bring their tables along, as examples do; a project keeps its migrations in supabase/migrations/.
    """
    path = folder / "migration.sql"
    if not path.is_file():
        return
    version = f"{AFTER_ALL_OTHERS}{zlib.crc32(folder.name.encode()) % 1_000_000:06d}"
    migration = Migration(version=version, name=folder.name, path=path)
    await apply_project(database_url, SqlProject(migrations=(migration,), seed=None), seed=False)


def has_model() -> bool:
    """Whether the environment names a model's API."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
