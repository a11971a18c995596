"""Realtime: every topic × every caller, who may listen and who may send; and changes of rows under row level security."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cast import CALLERS, Vault
from realtime_stack import RawSocket

from runhold.local.project import own_backend

SERVICE = "service"
WORKERS = "service worker"
OPT_IN = Path(own_backend()).parent / "sql" / "realtime_postgres_changes.sql"

# topic → who may listen. Nobody but the service may send, and workers to topics of runs.
TOPICS: dict[str, tuple[Callable[[Vault], str], str]] = {
    "workers": (lambda _: "runhold:workers", WORKERS),
    "worker": (lambda vault: f"runhold:worker:{vault.worker_id}", WORKERS),
    "run": (lambda vault: f"execution:{vault.runs['owner']}", "owner service"),
    "no run": (lambda _: f"execution:{uuid.uuid4()}", SERVICE),
    "reviews of the reviewer": (lambda vault: f"reviews:{vault.cast.id_of('reviewer')}", "reviewer service"),
    "reviews of the operator": (lambda vault: f"reviews:{vault.cast.id_of('operator')}", "operator service"),
    "reviews of the owner, who is no reviewer": (
        lambda vault: f"reviews:{vault.cast.id_of('owner')}",
        SERVICE,
    ),
    "run, and more": (lambda vault: f"execution:{vault.runs['owner']}:x", SERVICE),
    "run, in capitals": (lambda vault: f"EXECUTION:{vault.runs['owner'].upper()}", SERVICE),
    "workers, and more": (lambda _: "runhold:workers:x", SERVICE),
    "worker of no id": (lambda _: "runhold:worker:%", SERVICE),
    "something else": (lambda _: "lobby", SERVICE),
    "no name": (lambda _: "execution:", SERVICE),
}

Sockets = Callable[[str], Coroutine[Any, Any, RawSocket]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def socket(vault: Vault, http: aiohttp.ClientSession) -> Sockets:
    """A connection with the caller's key, to speak the protocol by hand: all that any client could say."""

    async def connect(caller: str) -> RawSocket:
        opened = await http.ws_connect(
            f"{vault.cast.stack.url}/realtime/v1/websocket",
            params={"vsn": "2.0.0", "apikey": vault.cast.key(caller)},
        )
        return RawSocket(opened, "2.0.0")

    return connect


async def may_listen(socket: RawSocket, vault: Vault, caller: str, topic: str) -> bool:
    reply = await socket.join(topic, token=vault.cast.token(caller), private=True)
    return reply["status"] == "ok"


@pytest.mark.parametrize("name", sorted(TOPICS))
async def test_who_listens(vault: Vault, socket: Sockets, name: str) -> None:
    topic, listeners = TOPICS[name]
    heard = [
        caller for caller in CALLERS if await may_listen(await socket(caller), vault, caller, topic(vault))
    ]
    assert sorted(heard) == sorted(listeners.split())


@pytest.mark.parametrize("name", ["workers", "worker", "run", "run, and more", "reviews of the reviewer"])
async def test_who_sends(vault: Vault, socket: Sockets, http: aiohttp.ClientSession, name: str) -> None:
    """By HTTP and over the socket of whoever joined; also under the same name as a public channel, which is another."""
    topic = TOPICS[name][0](vault)
    listener = await socket(SERVICE)
    assert await may_listen(listener, vault, SERVICE, topic)
    url = f"{vault.cast.stack.url}/realtime/v1/api/broadcast"
    message = {"topic": topic, "event": "wake", "payload": {"from": "a stranger"}}
    others = set(CALLERS) - {SERVICE, "worker" if name == "run" else ""}
    for caller in sorted(others):
        headers = {"apikey": vault.cast.key(caller), "Authorization": f"Bearer {vault.cast.token(caller)}"}
        for private in (True, False):
            await http.post(url, json={"messages": [{**message, "private": private}]}, headers=headers)
        for private in (True, False):
            sender = await socket(caller)
            await sender.join(topic, token=vault.cast.token(caller), private=private)
            await sender.push(
                f"realtime:{topic}", "broadcast", {"type": "broadcast", **message}, join_ref="1"
            )
            # answered after what was sent before
            await sender.push("phoenix", "heartbeat", {})
            while (await sender.receive())["topic"] != "phoenix":
                pass
    await listener.nothing_more()
    headers = {"apikey": vault.cast.stack.secret_key}
    await http.post(url, json={"messages": [{**message, "private": True}]}, headers=headers)
    assert (await listener.receive_event("broadcast"))["payload"]["event"] == "wake"


async def changes_of(socket: RawSocket, vault: Vault, caller: str, *tables: str) -> None:
    """Listen to all changes of the rows of ``tables`` that the caller may see."""
    wanted = [{"event": "*", "schema": "public", "table": table} for table in tables]
    reply = await socket.join("changes", token=vault.cast.token(caller), postgres_changes=wanted)
    assert reply["status"] == "ok", reply
    assert (await socket.receive_event("system"))["payload"]["status"] == "ok"


async def test_changes_of_rows_reach_only_who_may_see_them(vault: Vault, socket: Sockets) -> None:
    vault.world.connection.execute(OPT_IN.read_bytes())
    try:
        stranger, reviewer, colleague = [await socket(name) for name in ("stranger", "reviewer", "colleague")]
        await changes_of(stranger, vault, "stranger", "agent_executions", "agent_reviews")
        await changes_of(colleague, vault, "colleague", "agent_executions", "agent_reviews")
        await changes_of(reviewer, vault, "reviewer", "agent_executions", "agent_reviews")
        for name in ("owner", "stranger"):
            vault.world.sql("update agent_executions set metadata = '{}' where id = %s", vault.runs[name])
        for name in ("stranger", "owner"):
            vault.world.sql("update agent_reviews set summary = 'Well?' where id = %s", vault.reviews[name])
        (last,) = vault.cast.clients["colleague"].table("agent_executions").insert(
            {"agent_type": "vault", "input_data": {}}
        ).execute().data  # fmt: skip
        seen = [(await stranger.receive_event("postgres_changes"))["payload"]["data"] for _ in range(2)]
        assert [change["record"]["id"] for change in seen] == [
            vault.runs["stranger"],
            vault.reviews["stranger"],
        ]
        review = (await reviewer.receive_event("postgres_changes"))["payload"]["data"]
        assert review["record"]["id"] == vault.reviews["owner"]
        own = (await colleague.receive_event("postgres_changes"))["payload"]["data"]
        assert own["record"]["id"] == last["id"]  # pyright: ignore
        for quiet in (stranger, reviewer, colleague):
            await quiet.nothing_more()
    finally:
        vault.world.sql("alter publication supabase_realtime drop table agent_executions, agent_reviews")
        vault.tidied()


async def test_workers_tell_the_progress_of_runs_and_do_not_hear_it(
    vault: Vault, socket: Sockets, http: aiohttp.ClientSession
) -> None:
    topic = f"execution:{vault.runs['owner']}"
    owner, worker = await socket("owner"), await socket("worker")
    assert await may_listen(owner, vault, "owner", topic)
    assert not await may_listen(worker, vault, "worker", topic)
    headers = {"apikey": vault.cast.key("worker"), "Authorization": f"Bearer {vault.cast.token('worker')}"}
    message = {"topic": topic, "event": "progress", "payload": {"events": []}, "private": True}
    url = f"{vault.cast.stack.url}/realtime/v1/api/broadcast"
    await http.post(url, json={"messages": [message]}, headers=headers)
    assert (await owner.receive_event("broadcast"))["payload"]["event"] == "progress"
