"""LangGraph with its PostgreSQL checkpointer: a graph of a model node and a tool node, as its documentation has it."""

# pyright: reportMissingImports=false
# (its libraries are in bench/.venv)

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, LiteralString

from bench.systems.direct import do_batches
from bench.systems.protocol import Order, Post, Recovery
from bench.workload import Model, read_page

if TYPE_CHECKING:
    from bench.place import Place

CONNECTIONS: Final = 8


class LangGraph:
    title = "LangGraph"
    guarantee = (
        "The state of the graph is saved after every node before the next begins (durability sync), with its "
        "history. No queue, no lease: a run goes on when somebody invokes its thread again."
    )
    note = (
        f"langgraph-checkpoint-postgres, durability sync, {CONNECTIONS} AsyncPostgresSavers on a pool of as many "
        "connections: each of them serves one operation at a time."
    )
    queue = False
    in_project = False
    recovery: Recovery = "invoke"
    completed: LiteralString | None = None

    def processes(self, in_flight: int) -> int:
        return 1 if in_flight == 1 else 2

    def database(self) -> str:
        return "bench_langgraph"

    async def open(self, place: Place) -> None:
        place.create_database(self.database())

    async def close(self, place: Place) -> None:
        pass

    async def empty(self, place: Place) -> None:
        place.truncate(self.database(), "public", keep=("checkpoint_migrations",))

    def address(self, place: Place) -> dict[str, str]:
        return {"database": place.url(self.database())}

    async def prepare(self, order: Order) -> None:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(order.address["database"]) as saver:
            await saver.setup()

    async def work(self, order: Order, post: Post) -> None:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        trace = None if order.trace is None else os.open(order.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        model = Model(order.workload, trace=trace, on_hold=post.held)
        size = min(CONNECTIONS, order.in_flight)
        options: Any = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = AsyncConnectionPool(
            order.address["database"], min_size=size, max_size=size, kwargs=options, open=False
        )
        async with pool:
            graphs = [_graph(model, AsyncPostgresSaver(pool)) for _ in range(size)]
            post.ready()
            await do_batches(order, post, lambda run: _run(graphs[run // order.processes % size], order, run))

    async def submit(self, order: Order, post: Post) -> None:
        raise NotImplementedError("LangGraph has no queue")


async def _run(graph: Any, order: Order, run: int) -> None:
    """One run; of a thread that was begun before, the rest."""
    config = {"configurable": {"thread_id": str(run)}, "recursion_limit": 2 * order.workload.steps + 5}
    asked = None if order.resume else {"messages": [{"role": "user", "content": str(run)}]}
    await graph.ainvoke(asked, config, durability="sync")


def _graph(model: Model, saver: Any) -> Any:
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    async def read(page: int) -> str:
        """Read a page."""
        return read_page(page)

    async def decide(state: Any) -> dict[str, Any]:
        messages = state["messages"]
        step = 1 + sum(message.type == "ai" for message in messages)
        said = await model.decide(int(messages[0].content), step)
        if said.page is None:
            return {"messages": [AIMessage(said.text)]}
        call: Any = {"name": "read", "args": {"page": said.page}, "id": f"call_{step}"}
        return {"messages": [AIMessage(said.text, tool_calls=[call])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("model", decide)
    builder.add_node("tools", ToolNode([tool(read)]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)
