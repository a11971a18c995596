"""Starts REST and Auth: `@supabase/lite`, embedded in the Node program beside this file (server.mjs)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from runhold.local.child import Child, ChildSpec
from runhold.local.config import ProjectConfig
from runhold.local.node import find_node, install_packages, place_program
from runhold.local.state import StackState

READY = "api ready on "
BCRYPT_COST = "4"
"""The lowest: passwords of a local stack protect nothing, and at the usual 10 each takes 0.1 s. Where such a database
is moved to Supabase, Auth hashes a password of this cost anew when its user signs in."""
SOURCE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ApiDatabase:
    """Connection URLs of the three roles: who serves requests, who owns schema auth, who may see the whole schema."""

    rest_url: str
    auth_url: str
    catalog_url: str


async def start_api(
    *,
    log: Path,
    port: int,
    database: ApiDatabase,
    realtime_url: str | None,
    state: StackState,
    config: ProjectConfig,
) -> tuple[Child, str]:
    """Start it on a loopback port, 0 for any free one; answers its origin too. Raises NodeUnusable, ChildEnded."""
    node = await find_node()
    packages = await install_packages(SOURCE)
    options = {
        "port": port,
        "restUrl": database.rest_url,
        "authUrl": database.auth_url,
        "catalogUrl": database.catalog_url,
        "realtimeUrl": realtime_url,
        "jwtSecret": state.jwt_secret,
        "publishableKey": state.publishable_key,
        "secretKey": state.secret_key,
        "auth": config.auth,
        "api": {
            "schemas": config.api.schemas,
            "extra_search_path": config.api.extra_search_path,
            "max_rows": config.api.max_rows,
        },
    }
    spec = ChildSpec(
        name="The REST and Auth API",
        program=[str(node.program), str(place_program(SOURCE, packages) / "server.mjs")],
        log=log,
        ready=READY,
        ready_within_s=60.0,
        environment={
            **{name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ},
            "RUNHOLD_API": json.dumps(options),
            "NODE_ENV": "production",
            "LITE_AUTH_BCRYPT_COST": BCRYPT_COST,
            "LITE_TELEMETRY": "0",
            "DO_NOT_TRACK": "1",
        },
        folder=packages,
    )
    child, line = await Child.start(spec)
    return child, line.partition(READY)[2].strip()
