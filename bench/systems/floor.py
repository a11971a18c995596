"""What PostgreSQL itself takes: asyncpg, prepared statements, plain tables, and nothing else a system needs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.systems.direct import do_batches
from bench.systems.protocol import Order, Post, Recovery
from bench.workload import Model, read_page

if TYPE_CHECKING:
    from bench.place import Place

CONNECTIONS: Final = 16

TABLES: Final = """
create table if not exists runs (
  id bigint primary key, status text not null, input jsonb not null, result jsonb, worker text,
  steps int not null default 0
);
create table if not exists units (
  run bigint not null references runs, step int not null, kind text not null, content jsonb not null,
  primary key (run, step, kind)
);
"""
INSERT: Final = "insert into runs (id, status, input) values ($1, 'pending', $2)"
CLAIM: Final = "update runs set status = 'running', worker = $2 where id = $1 and status = 'pending'"
UNIT: Final = "insert into units (run, step, kind, content) values ($1, $2, $3, $4)"
END: Final = "update runs set status = 'completed', steps = $2, result = $3 where id = $1"


class Floor:
    queue = False
    in_project = False
    recovery: Recovery = "none"
    completed: LiteralString | None = None

    def __init__(self, *, per_step: bool) -> None:
        self._per_step = per_step
        self.title = "floor, per step" if per_step else "floor, per unit"
        self.guarantee = (
            "Rows that are durable, and nothing else: no queue, no lease, no recovery, no limits."
        )
        what = "model step with its tool call" if per_step else "model step or tool call"
        self.note = f"asyncpg, {CONNECTIONS} connections, one transaction per {what}."

    def processes(self, in_flight: int) -> int:
        return 1

    def database(self) -> str:
        return "bench_floor"

    async def open(self, place: Place) -> None:
        place.create_database(self.database())

    async def close(self, place: Place) -> None:
        pass

    async def empty(self, place: Place) -> None:
        place.truncate(self.database(), "public")

    def address(self, place: Place) -> dict[str, str]:
        return {"database": place.url(self.database())}

    async def prepare(self, order: Order) -> None:
        import asyncpg  # pyright: ignore[reportMissingImports] (in bench/.venv)

        connection: Any = await asyncpg.connect(order.address["database"])
        await connection.execute(TABLES)
        await connection.close()

    async def work(self, order: Order, post: Post) -> None:
        import asyncpg  # pyright: ignore[reportMissingImports] (in bench/.venv)

        trace = None if order.trace is None else os.open(order.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        model = Model(order.workload, trace=trace, on_hold=post.held)
        size = min(CONNECTIONS, order.in_flight)
        url = order.address["database"]
        async with asyncpg.create_pool(url, min_size=size, max_size=size, reset=_keep) as opened:
            pool: Any = opened
            post.ready()
            await do_batches(order, post, lambda run: self._run(pool, model, run))

    async def submit(self, order: Order, post: Post) -> None:
        raise NotImplementedError("the floor has no queue")

    async def _run(self, pool: Any, model: Model, run: int) -> None:
        await pool.execute(INSERT, run, json.dumps({"run": run}))
        await pool.execute(CLAIM, run, "worker")
        step = 0
        while True:
            step += 1
            said = await model.decide(run, step)
            if self._per_step:
                if said.page is None:
                    return await self._end(pool, run, step, said.text)
                content = {"text": said.text, "page": said.page, "read": read_page(said.page)}
                await pool.execute(UNIT, run, step, "step", json.dumps(content))
                continue
            await pool.execute(UNIT, run, step, "model", json.dumps({"text": said.text, "page": said.page}))
            if said.page is None:
                return await self._end(pool, run, step, said.text)
            await pool.execute(UNIT, run, step, "tool", json.dumps(read_page(said.page)))

    async def _end(self, pool: Any, run: int, step: int, text: str) -> None:
        await pool.execute(END, run, step, json.dumps(text))


async def _keep(_: object) -> None:
    """A connection needs no reset before the next statement: that would be one more round trip."""
