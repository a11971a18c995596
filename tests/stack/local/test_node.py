"""Node.js and its packages: found, installed once, and one clear sentence when they are not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from runhold.local import api as api_package
from runhold.local import node
from runhold.local.errors import NodeUnusable

SOURCE = Path(api_package.__file__).parent


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


async def test_no_node_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeUnusable, match=r"no node is on the PATH: install Node\.js 20 or newer\.$"):
        await node.find_node()


async def test_an_old_node_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "node", "echo v18.19.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeUnusable, match=r"newer Node\.js than v18\.19\.1: install Node\.js 20 or newer"):
        await node.find_node()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package with a lock file and nothing to install."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in node.SOURCES:
        (folder / name).write_text(json.dumps({"name": "x"}))
    return folder


async def test_packages_are_installed_once_for_all_who_ask_at_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "npm.log"
    program(tmp_path, "npm", f'echo "$1" >> {log}; mkdir node_modules')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = await asyncio.gather(*(node.install_packages(source) for _ in range(5)))
    assert len(set(folders)) == 1
    assert (folders[0] / "node_modules").is_dir()
    assert log.read_text() == "ci\n"
    (source / "package-lock.json").write_text("{}")
    assert await node.install_packages(source) != folders[0]


async def test_a_failed_installation_leaves_nothing_and_says_why(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "npm", "echo 'npm error network getaddrinfo'; echo 'npm error more'; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NodeUnusable, match="npm error network getaddrinfo"):
        await node.install_packages(source)
    assert [path.name for path in (tmp_path / "cache" / "runhold").iterdir() if path.is_dir()] == []


def test_the_program_is_placed_beside_its_packages_by_content(tmp_path: Path, source: Path) -> None:
    (source / "server.mjs").write_text("1")
    first = node.place_program(source, tmp_path)
    assert node.place_program(source, tmp_path) == first
    assert (first / "server.mjs").read_text() == "1"
    (source / "server.mjs").write_text("2")
    assert node.place_program(source, tmp_path) != first
