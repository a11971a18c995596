"""Named statements of the ``.sql`` files beside this one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import LiteralString, cast


def statements(file: str) -> dict[str, LiteralString]:
    """The statements of ``file`` by name, each with its parameters as ``%(name)s``."""
    text = (Path(__file__).parent / file).read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], cast("list[LiteralString]", parts[1::2]), strict=True))
