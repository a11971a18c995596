"""The stack serves the real supabase-js, Realtime included, under its one origin."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from runhold.local.stack import LocalStack

SCRIPT = Path(__file__).with_name("supabase_js.mjs")
REPO = Path(__file__).parents[3]


def node_modules() -> Path:
    """The folder above `node_modules` with supabase-js and ws, for tests."""
    places = [os.environ.get("RUNHOLD_TEST_NODE_MODULES", ""), str(REPO / "tests" / "js")]
    for place in filter(None, places):
        folder = Path(place).parent if Path(place).name == "node_modules" else Path(place)
        if (folder / "node_modules" / "@supabase" / "supabase-js").is_dir():
            return folder
    pytest.skip("supabase-js is not installed: npm ci in tests/js, or set RUNHOLD_TEST_NODE_MODULES")


def test_a_frontend_signs_up_reads_writes_calls_and_listens(api: LocalStack) -> None:
    ended = subprocess.run(
        ["node", str(SCRIPT)],
        env={**os.environ, **api.env(), "NODE_MODULES_FOLDER": str(node_modules())},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    user = said.pop("user")
    assert said.pop("known") == user
    assert said == {
        "wrong": "invalid_credentials",
        "notes": [{"body": "from js", "state": "new"}],
        "forbidden": "42501",
        "who": "authenticated",
        "echo": {"a": [1, "two", None]},
        "refusal": {"code": "RH001", "message": "No.", "details": "", "hint": "Later."},
        "counted": 1,
        "serviceRole": "service_role",
        "broadcast": {"from": "service"},
        "signedOut": None,
    }
    with psycopg.connect(api.superuser_url) as connection:
        connection.execute("delete from auth.users where id = %s", [user])
