"""Builds the library by which the tests' API sessions refuse what hosted Supabase's refuse (``safe_update.c``)."""

from __future__ import annotations

import atexit
import functools
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("safe_update.c")


@functools.cache
def safe_update_library() -> Path | None:
    """The library, built once per process; None where there is no C compiler, or PostgreSQL's user can't read it."""
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix="runhold-test-preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # PostgreSQL runs as another user where root runs the tests
    if not all(parent.stat().st_mode & 0o001 for parent in folder.parents):
        return None
    library = folder / "safe_update.so"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE],
        check=True,
        timeout=60,
    )
    library.chmod(0o755)
    return library


def safe_update_settings() -> Mapping[str, str]:
    """The server's settings that load the library, if it can be built."""
    library = safe_update_library()
    return {"session_preload_libraries": str(library)} if library else {}
