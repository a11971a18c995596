"""What `runhold dev` and `runhold demo` put together: the example, a worker process, a script that plays the model."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import runhold.local
from runhold.cli.exits import CommandError
from runhold.local.child import Child, ChildSpec
from runhold.local.migrations import apply_project
from runhold.local.project import Migration
from runhold.local.project import Project as SqlProject
from runhold.models.script import Script

WORKER_READY: Final = r"worker ready"
WORKER_READY_WITHIN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.1

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


async def start_worker(
    module: Path, options: list[str], *, environment: Mapping[str, str], log: Path
) -> Child:
    """Start `runhold worker` as a process of its own and wait until it takes runs."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec = ChildSpec(
        name="The worker",
        program=[sys.executable, "-u", "-m", "runhold", "worker", str(module), *options],
        log=log,
        ready=WORKER_READY,
        ready_within_s=WORKER_READY_WITHIN_S,
        stops=("TERM:10", "TERM:1"),
        environment={**_inherited(), **environment},
        folder=Path.cwd(),
    )
    child, _ = await Child.start(spec)
    return child


def _inherited() -> dict[str, str]:
    """The environment without another project's URL and keys."""
    others = ("SUPABASE_", "RUNHOLD_WORKER_TOKEN", "RUNHOLD_EMAIL", "RUNHOLD_PASSWORD", "DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


class _Tail:
    """Reads what a growing file gained."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = log.stat().st_size if log.exists() else 0
        self._rest = b""

    def lines(self) -> list[str]:
        if not self._log.exists():
            return []
        if self._log.stat().st_size < self._position:
            self._position = 0  # a new file
        with self._log.open("rb") as file:
            file.seek(self._position)
            *lines, self._rest = (self._rest + file.read()).split(b"\n")
            self._position = file.tell()
        return [line.decode(errors="replace") for line in lines]


async def _pass_on(tail: _Tail, tell: Callable[[str], Any]) -> None:
    while True:
        for line in tail.lines():
            tell(line)
        await asyncio.sleep(LOOK_EVERY_S)


@contextlib.asynccontextmanager
async def tailing(log: Path, tell: Callable[[str], Any]) -> AsyncGenerator[None, None]:
    """Pass on the lines that a file gains while the block lasts."""
    tail = _Tail(log)
    task = asyncio.create_task(_pass_on(tail, tell), name=f"tail {log.name}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        for line in tail.lines():
            tell(line)
