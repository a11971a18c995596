"""Fixtures of tests that drive a headless browser. Without one they are skipped, in one line; in CI they fail."""

from __future__ import annotations

import os
from pathlib import Path

import chromium
import pytest
from driving import Drive, driver

from runhold.local.stack import LocalStack


def missing() -> str | None:
    """What these tests lack, as a sentence for whoever runs them; None if they can run."""
    if chromium.find() is None:
        return chromium.ABSENT
    if not chromium.DRIVER.is_dir():
        return "playwright-core, which drives the browser, is not installed: run make setup"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None if os.environ.get("CI") else missing()
    if reason:
        for item in items:
            if item.path.parent == chromium.HERE:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Path:
    """The path of the browser."""
    reason = missing()
    found = chromium.find()
    if reason or found is None:
        pytest.fail(reason or chromium.ABSENT)
    return found


@pytest.fixture
def drive(browser: Path, stack: LocalStack) -> Drive:
    """Runs scripts with the stack's variables: `await drive("script.mjs", NAME=value)`."""
    return driver({**stack.env(), "BROWSER": str(browser)})
