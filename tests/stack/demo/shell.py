"""The command line in this process, as one types it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from runhold.cli.app import run


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Runhold:
    """The command line, as one types it."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Said:
        self._capture.readouterr()
        status = run(list(arguments))
        captured = self._capture.readouterr()
        assert "Traceback" not in captured.err
        return Said(status, captured.out, captured.err)
