"""Node.js for the stack's API: find it, and install the API's packages once per user and lock file."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runhold.local.errors import NodeUnusable

OLDEST_NODE = 20
SOURCES = ("package.json", "package-lock.json")


@dataclass(frozen=True, kw_only=True)
class Node:
    """A usable Node.js. `program` is the path of `node`."""

    program: Path
    version: str


async def find_node() -> Node:
    """The `node` on the search path. Raises NodeUnusable if there is none, or it is too old."""
    found = shutil.which("node")
    advice = f"install Node.js {OLDEST_NODE} or newer"
    if found is None:
        raise NodeUnusable(
            f"The local REST and Auth API needs Node.js, and no node is on the PATH: {advice}."
        )
    version = await _run_node(found)
    major = version.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        raise NodeUnusable(
            f"The local REST and Auth API needs a newer Node.js than {version or found}: {advice}."
        )
    return Node(program=Path(found), version=version)


async def _run_node(program: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace").strip()


def cache_folder() -> Path:
    """Where a user's programs keep what can be fetched again."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "runhold"


def packages_folder(source: Path) -> Path:
    """Where the packages of the lock file in `source` are, or will be."""
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:16]
    return cache_folder() / f"node-{digest}"


async def install_packages(source: Path) -> Path:
    """The folder with `node_modules` for the lock file in `source`, installed now if it never was.

    Safe when several stacks start at once: one installs, the others wait. Raises NodeUnusable with npm's complaint.
    """
    target = packages_folder(source)
    cache = target.parent
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NodeUnusable(f"The cache folder {cache} cannot be created: {error.strerror}.") from error
    # Waiting for another installation blocks a thread, not the event loop.
    lock = await asyncio.to_thread(_lock, cache / f"{target.name}.lock")
    try:
        if not target.is_dir():
            with _making(cache) as making:
                for name in SOURCES:
                    shutil.copy(source / name, making / name)
                await _npm_ci(making)
                making.rename(target)
    finally:
        os.close(lock)
    return target


def place_program(source: Path, packages: Path) -> Path:
    """Copy the `.mjs` files of `source` beside the packages, where Node looks for what they import.

    Once per content, whole or not at all. Answers the copy's folder.
    """
    files = sorted(source.glob("*.mjs"))
    digest = hashlib.sha256(b"\0".join(file.name.encode() + b"\0" + file.read_bytes() for file in files))
    target = packages / f"api-{digest.hexdigest()[:16]}"
    if not target.is_dir():
        with _making(packages) as making:
            for file in files:
                shutil.copy(file, making / file.name)
            try:
                making.rename(target)
            except OSError:
                if not target.is_dir():  # else another stack was faster
                    raise
    return target


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


@contextmanager
def _making(cache: Path) -> Generator[Path]:
    """A folder that is gone afterwards, unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix="node-making-", dir=cache))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _npm_ci(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NodeUnusable("The packages of the local API are installed by npm, and no npm is on the PATH.")
    process = await asyncio.create_subprocess_exec(
        npm,
        *("ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        lines = output.decode(errors="replace").strip().splitlines()
        said = next(
            (line for line in lines if "npm error" in line), lines[-1] if lines else "it said nothing"
        )
        raise NodeUnusable(
            f"npm could not install the local API's packages, which the first start needs once: {said.strip()}"
        )
