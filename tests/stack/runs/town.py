"""A town for stack tests: a stack, people who signed up, a scripted model and real worker processes."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clerk
import psycopg
from supabase import AsyncClient, AsyncClientOptions, acreate_client
from supabase_project import Project

from runhold.testing.chaos import PATIENCE_S, ForkServer, WorkerProcess, eventually

__all__ = ["PATIENCE_S", "Town", "eventually"]

_numbers = itertools.count(1)


@dataclass
class Town:
    """The stack and everybody in it."""

    stack: Project
    folder: Path
    model_url: str
    forks: ForkServer
    workers: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    clients: list[AsyncClient] = field(default_factory=list[AsyncClient])

    async def person(self, name: str = "person") -> AsyncClient:
        """Somebody who signed up just now, with an unmodified client and the publishable key."""
        client = await self.anonymous()
        await client.auth.sign_up(
            {"email": f"{name}-{next(_numbers)}-{os.getpid()}@example.org", "password": "a long passphrase"}
        )
        return client

    async def anonymous(self) -> AsyncClient:
        """Somebody with the publishable key alone."""
        client = await acreate_client(self.stack.url, self.stack.publishable_key, AsyncClientOptions())
        self.clients.append(client)
        return client

    async def user_id(self, client: AsyncClient) -> str:
        response = await client.auth.get_user()
        assert response is not None
        return response.user.id

    async def reviewer(self, **scope: str) -> AsyncClient:
        """Somebody who may decide reviews within ``scope``."""
        client = await self.person("reviewer")
        columns = {"user_id": await self.user_id(client), **scope}
        with psycopg.connect(self.stack.database_url, autocommit=True) as connection:
            connection.execute(
                f"insert into runhold.reviewers ({', '.join(columns)}) "  # pyright: ignore[reportArgumentType]
                f"values ({', '.join(['%s'] * len(columns))})",
                list(columns.values()),
            )
        return client

    def worker(
        self, *options: str, lease_s: float = 5, module: str | None = clerk.__file__, **env: str
    ) -> WorkerProcess:
        """Start a worker process that has the agents of ``module``: the clerk."""
        own = {
            "OPENAI_BASE_URL": self.model_url,
            "OPENAI_API_KEY": "scripted",
            "CLERK_FOLDER": str(self.folder),
        }
        worker = self.forks.start(
            str(module),
            *("--lease", str(lease_s), *options),
            name=f"worker-{len(self.workers)}",
            env={**os.environ, **self.stack.env(), **own, **env},
            folder=self.folder,
        )
        self.workers.append(worker)
        return worker

    @property
    def ledger(self) -> list[list[str]]:
        """Every effect on the world: [kind, text]."""
        path = self.folder / "ledger"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    async def holding(self, name: str) -> None:
        """Wait until a tool that holds says so."""
        await eventually((self.folder / f"holding-{name}").exists, f"holding {name}")

    def let_go(self, name: str) -> None:
        (self.folder / f"go-{name}").touch()

    async def submit(self, user: AsyncClient, *plan: Any, **columns: Any) -> str:
        """Insert a run as ``user``, as a frontend does; its id."""
        row = {"agent_type": "clerk", "input_data": {"plan": list(plan)}, **columns}
        answer = await user.table("agent_executions").insert(row).execute()
        return answer.data[0]["id"]  # pyright: ignore

    async def run(self, user: AsyncClient, run_id: str) -> dict[str, Any]:
        """The run as its owner sees it."""
        return (await user.table("agent_executions").select("*").eq("id", run_id).single().execute()).data  # pyright: ignore

    async def until(self, user: AsyncClient, run_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the run is in one of ``statuses``; the row."""

        async def check() -> dict[str, Any] | None:
            row = await self.run(user, run_id)
            ended = row["status"] in {"completed", "failed", "cancelled"}
            if row["status"] not in statuses and ended:
                raise AssertionError(
                    f"run ended {row['status']}: {row['error']} {row['error_detail']}\n{self.logs}"
                )
            return row if row["status"] in statuses else None

        return await eventually(check, f"{statuses} of run {run_id}")

    @property
    def logs(self) -> str:
        return "\n".join(worker.log_tail for worker in self.workers)
