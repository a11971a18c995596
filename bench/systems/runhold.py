"""Runhold through its whole stack: worker → supabase-py → REST (Node) → PostgreSQL, woken by Realtime."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.systems.protocol import Order, Post, Recovery
from bench.workload import Answer, Model, read_page

if TYPE_CHECKING:
    from bench.place import Place
    from runhold import Agent
    from runhold.loop.ports import JsonObject, ModelReply

AGENT: Final = "reader"
USER: Final = str(uuid.UUID(int=1))

EMPTY: Final = (
    "truncate public.agent_executions, public.agent_workers, runhold.outbox cascade",
    "truncate realtime.messages",
    f"insert into auth.users (id, email) values ('{USER}', 'bench@example.org') on conflict do nothing",
)


class Runhold:
    title = "Runhold"
    guarantee = (
        "Every model decision and every tool call is a row before the next intent; effects start after their intent "
        "is durable; any worker goes on when a lease ends. Limits, approvals, audit events, row level security."
    )
    note = "Its whole stack: supabase-py, REST on Node, PostgreSQL, Realtime; lease 30 s."
    queue = True
    in_project = True
    recovery: Recovery = "others"
    completed: LiteralString | None = (
        "select (input_data->>'run')::int, extract(epoch from started_at)::float8, "
        "extract(epoch from pg_xact_commit_timestamp(xmin))::float8 "
        "from public.agent_executions where status = 'completed'"
    )

    def processes(self, in_flight: int) -> int:
        return 1 if in_flight < 64 else 2

    def database(self) -> str:
        return "postgres"

    async def open(self, place: Place) -> None:
        await place.stack.realtime.start()

    async def close(self, place: Place) -> None:
        await place.stack.realtime.stop()

    async def empty(self, place: Place) -> None:
        with place.connect(self.database()) as connection:
            for statement in EMPTY:
                connection.execute(statement)  # pyright: ignore[reportCallIssue, reportArgumentType] (constants)

    def address(self, place: Place) -> dict[str, str]:
        return dict(place.stack.env())

    async def prepare(self, order: Order) -> None:
        """The stack has applied the migrations."""

    async def work(self, order: Order, post: Post) -> None:
        from runhold.runtime.config import WorkerConfig
        from runhold.runtime.garbage import pause_less
        from runhold.runtime.worker import run_worker
        from runhold.telemetry import configure_logging

        config = WorkerConfig.from_env(dict(order.address), capacity=order.in_flight, grace_s=0.0)
        configure_logging(secrets=config.secrets)  # this and the next as `runhold worker` does
        pause_less()
        logging.getLogger("runhold").addHandler(_WhenReady(post.ready))
        trace = None if order.trace is None else os.open(order.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        model = ChatModel(Model(order.workload, trace=trace, on_hold=post.held))
        stop = asyncio.Event()
        working = asyncio.create_task(run_worker(config, [_agent(order)], model=model, stop_event=stop))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            stop.set()
            await working

    async def submit(self, order: Order, post: Post) -> None:
        from supabase import AsyncClientOptions, acreate_client

        client = await acreate_client(
            order.address["SUPABASE_URL"], order.address["SUPABASE_SECRET_KEY"], AsyncClientOptions()
        )
        post.ready()
        async for batch in post.batches():
            rows = [{"user_id": USER, "agent_type": AGENT, "input_data": {"run": run}} for run in batch]
            began = time.time()
            await client.table("agent_executions").insert(rows).execute()  # pyright: ignore[reportArgumentType]
            post.submitted(began)


class ChatModel:
    """The benchmark's model, as Runhold asks models."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def complete(
        self, body: JsonObject, *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        from runhold.loop.ports import ModelReply, Usage

        messages: Any = body["messages"]
        step = len(messages) // 2  # the instructions, the input, and two messages for each step before
        run = json.loads(messages[1]["content"])["run"]
        said = await self._model.decide(run, step)
        message: JsonObject = {"role": "assistant", "content": said.text}
        if said.page is not None:
            message["tool_calls"] = [_call(said, step)]
        reason = "stop" if said.page is None else "tool_calls"
        usage = Usage(input_tokens=step * 200, output_tokens=100)
        return ModelReply(message=message, finish_reason=reason, usage=usage)


def _call(said: Answer, step: int) -> JsonObject:
    function: JsonObject = {"name": "read", "arguments": json.dumps({"page": said.page})}
    return {"id": f"call_{step}", "type": "function", "function": function}


def _agent(order: Order) -> Agent:
    from runhold import Agent, Limits, tool

    @tool(effect="read")
    async def read(page: int) -> str:
        """Read a page."""
        return read_page(page)

    limits = Limits(
        max_steps=max(order.workload.steps + 1, 25),
        max_tool_calls=max(order.workload.steps + 1, 100),
        max_tokens=100_000_000,
        total_timeout_s=3600,
        step_timeout_s=600,
    )
    return Agent(
        type=AGENT,
        version="1",
        model="in-process",
        instructions="Read the pages.",
        tools=[read],
        limits=limits,
    )


class _WhenReady(logging.Handler):
    def __init__(self, ready: Callable[[], None]) -> None:
        super().__init__()
        self._ready = ready

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "action", None) == "ready":
            self._ready()
