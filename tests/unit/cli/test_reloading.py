"""Which changes start a new worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runhold.cli.exits import CommandError
from runhold.cli.reloading import changes


async def test_code_and_settings_are_watched_wherever_they_are(tmp_path: Path) -> None:
    project, package = tmp_path / "above" / "project", tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (project / "__pycache__").mkdir(parents=True)
    env_file = tmp_path / "above" / ".env"
    watched = changes([project, package], {project / ".env", env_file})
    coming = asyncio.ensure_future(anext(watched))
    for path in (
        *(project / "agent.py", project / ".env", package / "inner" / "tool.py", env_file),
        *(project / "notes.txt", project / "__pycache__" / "agent.py", tmp_path / "above" / "other.txt"),
    ):
        path.touch()
    seen: set[str] = set()
    while len(seen) < 4:
        done, _ = await asyncio.wait([coming], timeout=0.5)
        if not done:  # the watch began after the change
            for path in (project / "agent.py", project / ".env", package / "inner" / "tool.py", env_file):
                path.touch()
            continue
        seen |= {path for _, path in coming.result()}
        coming = asyncio.ensure_future(anext(watched))
    assert seen == {
        str(path)
        for path in (project / "agent.py", project / ".env", package / "inner" / "tool.py", env_file)
    }
    coming.cancel()
    await asyncio.wait([coming])
    await watched.aclose()


async def test_a_folder_that_can_not_be_watched_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="can't be watched"):
        await anext(changes([tmp_path / "gone"]))
