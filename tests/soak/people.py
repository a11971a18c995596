"""The people of the soak: users who submit, cancel, retry, fork and write, and reviewers who decide at random.

They are signed in and use the API as everybody does. What they can't reach they try again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import psycopg
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from runhold.local.stack import LocalStack
from runhold.testing.chaos.patience import is_outage
from soak.errands import agent, draw_plan

T = TypeVar("T")

AGAIN_S = 0.3
MEDDLE_EVERY_S = 0.25
MEDDLINGS = {"agent_cancel": 2, "agent_send": 4, "agent_retry": 4, "agent_fork": 1}
"""What users do to their runs, and how often, one against the other."""

PASSWORD = "a long passphrase"


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until there is an answer, which may be a refusal."""
    while True:
        try:
            return await attempt()
        except (APIError, httpx.TransportError) as error:
            if not is_outage(error):
                raise
        await asyncio.sleep(AGAIN_S)


async def sign_up(stack: LocalStack) -> AsyncClient:
    """Somebody with an account."""
    client = await acreate_client(stack.url, stack.publishable_key, AsyncClientOptions())
    await client.auth.sign_up({"email": f"{uuid4()}@example.org", "password": PASSWORD})
    return client


async def appoint(stack: LocalStack) -> AsyncClient:
    """Somebody who may decide every review."""
    client = await sign_up(stack)
    response = await client.auth.get_user()
    assert response is not None
    async with await psycopg.AsyncConnection.connect(stack.database_url, autocommit=True) as connection:
        await connection.execute("insert into runhold.reviewers (user_id) values (%s)", [response.user.id])
    return client


class User:
    """Keeps so many runs in flight, and meddles with them.

    `plans`: every run's plan by its id; None for forks. `did`: what the user did, counted.
    """

    def __init__(self, client: AsyncClient, seed: int) -> None:
        self.plans: dict[str, list[Any] | None] = {}
        self.did: Counter[str] = Counter()
        self.open: list[str] = []
        self._client = client
        self._rng = random.Random(f"{seed} user")
        self._keys = random.Random(f"{seed} keys")

    async def submit_and_meddle(self, in_flight: int) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._submit(in_flight))
            group.create_task(self._meddle())

    async def fill_up(self, in_flight: int) -> None:
        """Submit until so many are in flight."""
        self.open = await insist(self._still_open)
        for _ in range(in_flight - len(self.open)):
            await self._submit_one()

    async def _submit(self, in_flight: int) -> None:
        while True:
            await self.fill_up(in_flight)
            await asyncio.sleep(AGAIN_S)

    async def _submit_one(self) -> None:
        """One run, however often the answer is lost: its key makes it one."""
        name = f"run-{len(self.plans)}"
        given = draw_plan(self._rng, name)
        call = {
            "agent_type": agent.type,
            "input_data": given,
            "idempotency_key": f"{name}-{self._keys.random()}",
        }
        answer: Any = await insist(lambda: self._client.rpc("agent_submit", call).execute())
        self.plans[answer.data["id"]] = given["plan"]
        self.did["run submitted"] += 1

    async def _still_open(self) -> list[str]:
        table: Any = self._client.table("agent_executions")
        answer = await table.select("id").in_("status", ["pending", "running", "awaiting_review"]).execute()
        return [row["id"] for row in answer.data]

    async def _failed(self) -> list[str]:
        table: Any = self._client.table("agent_executions")
        answer = await table.select("id").eq("status", "failed").limit(20).execute()
        return [row["id"] for row in answer.data]

    async def _meddle(self) -> None:
        rng = random.Random(f"{self._keys.random()} meddling")
        while True:
            await asyncio.sleep(MEDDLE_EVERY_S)
            (function,) = rng.choices([*MEDDLINGS], weights=[*MEDDLINGS.values()])
            runs = await insist(self._failed) if function == "agent_retry" else self.open
            if not runs:
                continue
            arguments: dict[str, Any] = {"execution_id": rng.choice(runs)}
            if function == "agent_send":
                arguments["content"] = "Hurry up."
            if function == "agent_fork":
                arguments["from_step"] = 1
            try:
                answer: Any = await self._client.rpc(function, arguments).execute()
            except (APIError, httpx.TransportError) as error:
                if not is_outage(error) and not str(getattr(error, "code", "")).startswith("RH"):
                    raise
                self.did[f"{function} refused or unanswered"] += 1
            else:
                self.did[function] += 1
                if function == "agent_fork":
                    self.plans.setdefault(answer.data["id"], None)


class Deciding:
    """Draws what a reviewer says: approve, edit, reject, and for unknown outcomes that it happened, again, or stop."""

    def __init__(self, seed: str) -> None:
        self.said: Counter[str] = Counter()
        self._rng = random.Random(seed)

    def __call__(self, review: dict[str, Any]) -> dict[str, Any] | None:
        if self._rng.random() < 0.3:
            return None  # later
        match review["kind"]:
            case "question":
                said, columns = "question answered", {"status": "approved", "answer": "Yes."}
            case "unknown_outcome":
                said, columns = self._about_unknown()
            case _:
                said, columns = self._about_approval(review)
        self.said[f"review: {said}"] += 1
        return columns

    def _about_unknown(self) -> tuple[str, dict[str, Any]]:
        said = self._rng.choices(("it happened", "run it again", "stop"), weights=(5, 4, 1))[0]
        if said == "stop":
            return said, {"status": "rejected"}
        if said == "run it again":
            return said, {"status": "approved", "answer": {"outcome": "again"}}
        return said, {"status": "approved", "answer": {"outcome": "happened", "result": "it did"}}

    def _about_approval(self, review: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        said = self._rng.choices(("approved", "edited", "rejected"), weights=(6, 2, 2))[0]
        if said == "edited":
            edited = {"text": f"{review['proposed_input']['text']}, please"}
            return said, {"status": "approved", "edited_input": edited}
        return said, {"status": "approved" if said == "approved" else "rejected"}
