"""From input to result."""

from __future__ import annotations

import json
from typing import Any

from loop_support import Progress, Row, ScriptedModel, asks, says, work
from pydantic import BaseModel

from runhold import Agent, RunContext, tool


class Report(BaseModel):
    title: str
    words: int


@tool(effect="read")
async def find(ctx: RunContext, query: str) -> dict[str, Any]:
    """Find things."""
    return {"found": query.upper()}


@tool
def send(ctx: RunContext, to: str) -> str:
    """Send it."""
    ctx.state["sent"] = to
    return f"sent to {to}"


AGENT = Agent(type="helper", model="m-1", instructions="Help.", tools=[find, send])


async def test_an_answer_completes_the_run() -> None:
    row = Row()
    outcome = await work(row, AGENT, model := ScriptedModel(says("Done.")))
    assert outcome.kind == "completed"
    assert (row.status, row.result) == ("completed", {"text": "Done."})
    assert len(row.entries) == 1, "the final step and the end are one entry"
    request = model.requests[0]
    assert request["model"] == "m-1"
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert json.loads(request["messages"][1]["content"]) == {"topic": "tea"}
    assert [t["function"]["name"] for t in request["tools"]] == ["find", "send"]


async def test_tools_run_and_the_model_sees_their_output() -> None:
    row = Row()
    model = ScriptedModel(asks(("find", {"query": "tea"}), ("send", {"to": "bo"})), says("Done."))
    outcome = await work(row, AGENT, model)
    assert outcome.kind == "completed"
    assert [row.call(1, 0).status, row.call(1, 1).status] == ["succeeded", "succeeded"]
    assert [m["content"] for m in model.last_messages[-2:]] == ['{"found":"TEA"}', "sent to bo"]
    assert row.state == {"sent": "bo"}
    assert row.max_unconfirmed_steps == 1


async def test_structured_output_is_the_result() -> None:
    agent = Agent(type="helper", model="m", instructions="i", output_type=Report)
    row = Row()
    model = ScriptedModel(says('{"title": "T", "words": "3"}'))
    await work(row, agent, model)
    assert row.result == {"title": "T", "words": 3}
    assert model.requests[0]["response_format"]["json_schema"]["strict"] is True


async def test_whoever_watches_is_told() -> None:
    progress = Progress(wants_text=True)
    model = ScriptedModel(asks(("find", {"query": "x"})), says("All done."))
    await work(Row(), AGENT, model, progress=progress)
    assert [event for event, _ in progress.events] == ["step", "tool", "tool", "text", "text", "step"]
    assert progress.events[0][1] == {"step": 1, "tokens": 15}
    assert progress.events[1][1] == {"step": 1, "position": 0, "name": "find", "status": "running"}
    assert progress.events[3][1] == {"step": 2, "text": "All"}


async def test_text_is_not_streamed_when_nobody_watches() -> None:
    progress = Progress()
    await work(Row(), AGENT, ScriptedModel(says("All done.")), progress=progress)
    assert [event for event, _ in progress.events] == ["step"]
