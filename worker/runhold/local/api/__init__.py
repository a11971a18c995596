"""Starts REST and Auth: `@supabase/lite` in a small Node program."""

from __future__ import annotations

from pathlib import Path

from runhold.local.child import Child
from runhold.local.state import StackState


async def start_api(
    *, log: Path, port: int, rest_url: str, auth_url: str, realtime_url: str | None, state: StackState
) -> tuple[Child, str]:
    """Start it on a loopback port, 0 for any free one; answers its origin too. Raises NodeUnusable, ChildEnded."""
    raise NotImplementedError
