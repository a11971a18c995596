"""Starts the Realtime server of the stack."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runhold.local.child import Child, ChildSpec
from runhold.local.ports import LOOPBACK
from runhold.local.state import StackState

READY = "realtime ready on "


async def start_realtime(*, port: int, log: Path, superuser_url: str, state: StackState) -> Child:
    """Start it on a loopback port. Raises ChildEnded."""
    spec = ChildSpec(
        name="Realtime",
        program=[sys.executable, "-m", "runhold.local.realtime", "--host", LOOPBACK, "--port", str(port)],
        log=log,
        ready=READY,
        ready_within_s=60.0,
        environment={
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "RUNHOLD_REALTIME_DATABASE_URL": superuser_url,
            "RUNHOLD_JWT_SECRET": state.jwt_secret,
            "RUNHOLD_PUBLISHABLE_KEY": state.publishable_key,
            "RUNHOLD_SECRET_KEY": state.secret_key,
        },
        folder=Path.cwd(),
    )
    child, _ = await Child.start(spec)
    return child
