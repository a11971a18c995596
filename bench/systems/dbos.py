"""DBOS Transact: a workflow of steps on a queue, as its documentation has it."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (its libraries are in bench/.venv, and this file bears its name)

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.systems.protocol import Order, Post, Recovery
from bench.workload import Model, read_page

if TYPE_CHECKING:
    from bench.place import Place

QUEUE: Final = "runs"
WORKFLOW: Final = "agent"
VERSION: Final = "1"
POLL_S: Final = 0.02
"""Between looks at the queue; its default of 1 s would be most of what is measured."""

CONNECTIONS: Final = 20


class Dbos:
    title = "DBOS"
    guarantee = (
        "Every step's result is recorded before the next; a workflow goes on after its last recorded step when its "
        "process restarts under the same executor id (Conductor, not open source, moves it elsewhere). Steps run "
        "at least once; no limits, no approvals, no row level security."
    )
    note = (
        f"dbos, asynchronous workflow on a queue that is polled every {POLL_S * 1000:g} ms (its default: 1 s), "
        f"pool of {CONNECTIONS} connections."
    )
    queue = True
    in_project = False
    recovery: Recovery = "restart"
    completed: LiteralString | None = (
        "select substr(workflow_uuid, 5)::int, started_at_epoch_ms / 1000.0::float8, "
        "extract(epoch from pg_xact_commit_timestamp(xmin))::float8 "
        "from dbos.workflow_status where status = 'SUCCESS'"
    )

    def processes(self, in_flight: int) -> int:
        return 1 if in_flight == 1 else 2

    def database(self) -> str:
        return "bench_dbos"

    async def open(self, place: Place) -> None:
        place.create_database(self.database())

    async def close(self, place: Place) -> None:
        pass

    async def empty(self, place: Place) -> None:
        place.truncate(self.database(), "dbos", keep=("dbos_migrations", "queues", "application_versions"))

    def address(self, place: Place) -> dict[str, str]:
        return {"database": place.url(self.database())}

    async def prepare(self, order: Order) -> None:
        """It makes its tables when it is launched."""
        from dbos import DBOS

        await asyncio.to_thread(_launch, order)
        await asyncio.to_thread(DBOS.destroy)

    async def work(self, order: Order, post: Post) -> None:
        from dbos import DBOS

        trace = None if order.trace is None else os.open(order.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _define(Model(order.workload, trace=trace, on_hold=post.held))
        await asyncio.to_thread(_launch, order)
        await DBOS.register_queue_async(
            QUEUE,
            worker_concurrency=order.in_flight,
            polling_interval_sec=POLL_S,
            on_conflict="always_update",
        )
        post.ready()
        await asyncio.Event().wait()

    async def submit(self, order: Order, post: Post) -> None:
        import sqlalchemy
        from dbos import DBOSClient

        url = order.address["database"]
        client: Any = await asyncio.to_thread(DBOSClient, system_database_url=url)
        engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

        def enqueue(batch: range) -> None:
            with engine.begin() as connection:
                for run in batch:
                    options = {"queue_name": QUEUE, "workflow_name": WORKFLOW, "workflow_id": f"run-{run}"}
                    client.enqueue_in_transaction(connection, options, run)

        await asyncio.to_thread(engine.connect().close)
        post.ready()
        async for batch in post.batches():
            began = time.time()
            await asyncio.to_thread(enqueue, batch)
            post.submitted(began)


def _launch(order: Order) -> None:
    from dbos import DBOS

    config: Any = {
        "name": "bench",
        "system_database_url": order.address["database"],
        "sys_db_pool_size": CONNECTIONS,
        "executor_id": f"executor-{order.process}",
        "application_version": VERSION,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()


def _define(model: Model) -> None:
    from dbos import DBOS

    @DBOS.step()
    async def decide(run: int, step: int) -> dict[str, Any]:
        said = await model.decide(run, step)
        return {"text": said.text, "page": said.page}

    @DBOS.step()
    async def read(page: int) -> str:
        return read_page(page)

    @DBOS.workflow(name=WORKFLOW)
    async def agent(run: int) -> str:
        step = 0
        while True:
            step += 1
            said = await decide(run, step)
            if said["page"] is None:
                return said["text"]
            await read(said["page"])
