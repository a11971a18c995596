"""The browser of these tests: found on this machine or, by `python tests/browser/chromium.py`, installed from npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

VARIABLE = "RUNHOLD_TEST_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = Path(__file__).parent
DRIVER = HERE / "node_modules" / "playwright-core"
INSTALLED = HERE / ".chromium" / "chromium"
ABSENT = f"no browser was found: install chromium, set {VARIABLE} to the path of one, or run make browser"

UNPACK = "const { default: chromium } = await import('@sparticuz/chromium'); await chromium.executablePath()"
"""Into the folder for temporary files, which is set to a folder of ours."""


def find() -> Path | None:
    """The path of a Chromium: of the variable, of the installation here, or on the search path; None without one."""
    configured = os.environ.get(VARIABLE)
    if configured:
        return Path(configured)
    if INSTALLED.is_file():
        return INSTALLED
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


def install() -> Path:
    """Install the pinned package and unpack its browser; the path. Raises CalledProcessError."""
    npm = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run(npm, cwd=HERE, stdout=subprocess.DEVNULL, check=True)
    # Unpacked elsewhere and renamed, so that an interrupted installation is not taken for a whole one.
    unpacking = HERE / ".chromium-unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)
    unpacking.mkdir()
    subprocess.run(
        ("node", "--input-type=module", "--eval", UNPACK),
        cwd=HERE,
        env={**os.environ, "TMPDIR": str(unpacking)},
        check=True,
    )
    shutil.rmtree(INSTALLED.parent, ignore_errors=True)
    unpacking.rename(INSTALLED.parent)
    return INSTALLED


if __name__ == "__main__":
    print(find() or install())
