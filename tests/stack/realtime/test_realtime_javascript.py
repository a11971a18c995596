"""The server as unmodified supabase-js sees it, with both serializers."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from realtime_stack import PATIENCE_S, REPOSITORY, Database, Stack
from test_realtime_changes import publish

SCRIPT = Path(__file__).with_name("realtime_clients.mjs")


class Node:
    """The script, as a process that is told what to do and tells what happened."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._seen: list[dict[str, Any]] = []

    async def do(self, action: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(action).encode() + b"\n")
        await self._process.stdin.drain()

    async def told(self, event: str) -> Any:
        """The detail of the next report of this event. Reports of others are kept."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for report in self._seen:
                    if report["event"] == event:
                        self._seen.remove(report)
                        return report["detail"]
                line = await self._process.stdout.readline()
                assert line, f"the script ended before {event!r}; reports: {self._seen}"
                self._seen.append(json.loads(line))
                assert self._seen[-1]["event"] != "failed", self._seen[-1]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()


@pytest.fixture(params=["1.0.0", "2.0.0"])
async def node(request: pytest.FixtureRequest, stack: Stack, name: str) -> AsyncIterator[Node]:
    packages = Path(os.environ.get("RUNHOLD_TEST_NODE_MODULES") or REPOSITORY / "tests" / "js")
    assert (packages / "node_modules" / "@supabase" / "supabase-js").is_dir(), (
        f"no supabase-js under {packages}: run `npm ci` there, or set RUNHOLD_TEST_NODE_MODULES"
    )
    process = await asyncio.create_subprocess_exec(
        "node",
        str(SCRIPT),
        env=os.environ
        | {
            "RUNHOLD_TEST_NODE_MODULES": str(packages),
            "URL": stack.url,
            "KEY": stack.publishable_key,
            "TOKEN": stack.token(sub="00000000-0000-4000-8000-000000000001"),
            # 2.0.0 is what it uses by itself.
            "VSN": "1.0.0" if request.param == "1.0.0" else "",
            "NAME": name,
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Node(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_supabase_js_subscribes_broadcasts_and_leaves(
    node: Node, database: Database, name: str
) -> None:
    await publish(database, name, "id int8 primary key, title text, amount numeric, at timestamptz")
    await database.run(
        f"create policy {name}_read on realtime.messages for select to authenticated"
        f" using (realtime.topic() = '{name}_private' and auth.uid() is not null)"
    )
    await node.do("join")
    await node.told("joined")
    for _ in range(2):
        assert (await node.told("system"))["status"] == "ok"

    await database.run(
        f"insert into {name} values (1, 'a', 1.5, '2026-01-02 03:04:05+00'), (2, 'b', null, null)"
    )
    inserts = [await node.told("insert") for _ in range(2)]
    assert inserts[0]["new"] == {"id": 1, "title": "a", "amount": 1.5, "at": "2026-01-02T03:04:05+00:00"}
    assert inserts[0]["errors"] is None
    assert inserts[1]["new"]["id"] == 2
    assert [await node.told("selected") for _ in range(2)] == [
        {"id": 1, "title": "a"},
        {"id": 2, "title": "b"},
    ]
    await database.run(f"update {name} set title = 'c'")
    assert (await node.told("filtered"))["new"]["title"] == "c"
    await database.run(f"delete from {name}")
    kinds = [await node.told("any") for _ in range(6)]
    assert kinds == ["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE", "DELETE"]

    await node.do("broadcast")
    assert await node.told("sent") == "ok"
    assert await node.told("sent") == {"success": True}
    assert await node.told("sent") == "ok"
    first, second = await node.told("broadcast"), await node.told("broadcast")
    assert (first["event"], first["payload"]) == ("json", {"n": 1, "text": "ä"})
    assert (second["event"], second["payload"]) == ("rest/one", {"n": 2})
    await database.run("select realtime.send('{\"n\": 4}', 'sql', %s, false)", name)
    third = await node.told("broadcast")
    assert (third["event"], third["payload"]["n"]) == ("sql", 4)
    assert third["meta"]["id"] == third["payload"]["id"]

    await node.told("sync")
    await node.do("track")
    assert await node.told("tracked") == "ok"

    await node.do("private")
    assert (await node.told("status:private"))["status"] == "SUBSCRIBED"

    await node.do("leave")
    for _ in range(5):
        assert await node.told("left") == "ok"
    assert await node.ended() == 0
