"""absurd: durable tasks as stored procedures. Its tables come from its own command, absurdctl."""

# pyright: reportMissingImports=false
# (its libraries are in bench/.venv)

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.systems.protocol import Order, Post, Recovery
from bench.workload import Model, read_page

if TYPE_CHECKING:
    from bench.place import Place

QUEUE: Final = "runs"
TASK: Final = "agent"
WORKERS: Final = 4
"""Of one process: an asynchronous worker has one connection, so several serve better than one."""
POLL_S: Final = 0.02
"""Between looks of a worker that found nothing; its default is 250 ms."""


class Absurd:
    title = "absurd"
    guarantee = (
        "Every step's result is a checkpoint before the next; each checkpoint extends the claim; another worker goes "
        "on when a claim ends. Steps run at least once; no limits, no approvals, no row level security."
    )
    note = (
        f"absurd-sdk, AsyncAbsurd, up to {WORKERS} workers a process that poll every {POLL_S * 1000:g} ms (its "
        "default: 250 ms); claim time-out 120 s, its default."
    )
    queue = True
    in_project = False
    recovery: Recovery = "others"
    completed: LiteralString | None = (
        "select (params->>'run')::int, extract(epoch from first_started_at)::float8, "
        "extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from absurd.t_runs where state = 'completed'"
    )

    def processes(self, in_flight: int) -> int:
        return 1 if in_flight < 16 else 2

    def database(self) -> str:
        return "bench_absurd"

    async def open(self, place: Place) -> None:
        place.create_database(self.database())

    async def close(self, place: Place) -> None:
        pass

    async def empty(self, place: Place) -> None:
        place.truncate(self.database(), "absurd", keep=("queues", "migrations"))

    def address(self, place: Place) -> dict[str, str]:
        from bench.place import postgres_programs

        return {"database": place.url(self.database()), "programs": str(postgres_programs())}

    async def prepare(self, order: Order) -> None:
        program = Path(sys.executable).with_name("absurdctl")
        # It speaks to the database through psql.
        environment = {
            **os.environ,
            "PATH": f"{order.address['programs']}:{os.environ['PATH']}",
            "ABSURD_DATABASE_URL": order.address["database"],
        }
        for command in (("init",), ("create-queue", QUEUE)):
            process = await asyncio.create_subprocess_exec(str(program), *command, env=environment)
            if await process.wait() != 0:
                raise SystemExit(f"absurdctl {command[0]} failed")

    async def work(self, order: Order, post: Post) -> None:
        from absurd_sdk import AsyncAbsurd

        trace = None if order.trace is None else os.open(order.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        model = Model(order.workload, trace=trace, on_hold=post.held)
        count = min(WORKERS, order.in_flight)
        apps: list[Any] = []
        for number in range(count):
            app: Any = AsyncAbsurd(order.address["database"], queue_name=QUEUE)
            app.register_task(TASK)(_task(model))
            await app.list_queues()  # connects
            apps.append((app, order.in_flight // count + (number < order.in_flight % count)))
        post.ready()
        async with asyncio.TaskGroup() as workers:
            for number, (app, concurrency) in enumerate(apps):
                name = f"{order.process}-{number}-{os.getpid()}"
                workers.create_task(
                    app.start_worker(worker_id=name, concurrency=concurrency, poll_interval=POLL_S)
                )

    async def submit(self, order: Order, post: Post) -> None:
        import psycopg
        from absurd_sdk import AsyncAbsurd

        async with await psycopg.AsyncConnection.connect(
            order.address["database"], autocommit=True
        ) as connection:
            app: Any = AsyncAbsurd(connection, queue_name=QUEUE)
            post.ready()
            async for batch in post.batches():
                began = time.time()
                async with connection.transaction():
                    for run in batch:
                        await app.spawn(TASK, {"run": run}, queue=QUEUE)
                post.submitted(began)


def _task(model: Model) -> Any:
    async def agent(params: Any, ctx: Any) -> str:
        run, step = params["run"], 0
        while True:
            step += 1

            async def decide(step: int = step) -> dict[str, Any]:
                said = await model.decide(run, step)
                return {"text": said.text, "page": said.page}

            said = await ctx.step("model", decide)
            if said["page"] is None:
                return said["text"]

            async def read(page: int = said["page"]) -> str:
                return read_page(page)

            await ctx.step("read", read)

    return agent
