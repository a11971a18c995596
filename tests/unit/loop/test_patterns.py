"""Runs that go in circles."""

from __future__ import annotations

from typing import Any

from loop_support import Row, ScriptedModel, asks, says, work

from runhold import Agent, ToolFailed, tool

ran: list[str] = []


@tool(effect="read")
async def find(query: str, page: int = 1) -> str:
    ran.append(query)
    if query.startswith("bad"):
        raise ToolFailed("no luck")
    return query


AGENT = Agent(type="helper", model="m", instructions="i", tools=[find])


def same() -> Any:
    return asks(("find", {"query": "tea", "page": 1}))


def bad(*names: str) -> Any:
    return asks(*[("find", {"query": f"bad {name}"}) for name in names])


async def test_the_third_same_call_is_pointed_out() -> None:
    model = ScriptedModel(same(), same(), same(), says("Done."))
    row = Row()
    await work(row, AGENT, model)
    assert row.status == "completed"
    nudges = [len(step.injected) for step in row.steps]
    assert nudges == [0, 0, 0, 1]
    assert "find with the same arguments 3 times" in model.last_messages[-1]["content"]


async def test_the_fourth_ends_the_run_before_it_runs() -> None:
    ran.clear()
    row = Row()
    reordered = asks(("find", '{"page": 1.0, "query" : "tea"}'))
    await work(row, AGENT, ScriptedModel(same(), same(), reordered, same()))
    assert (row.error, len(ran), len(row.steps)) == ("LOOP_DETECTED", 3, 4)
    assert row.detail["tool"] == "find"


async def test_another_call_in_between_breaks_the_row() -> None:
    row = Row()
    other = asks(("find", {"query": "milk"}))
    await work(row, AGENT, ScriptedModel(same(), same(), other, same(), same(), says("Done.")))
    assert row.status == "completed"
    assert not any(step.injected for step in row.steps)


async def test_the_row_is_counted_across_workers() -> None:
    row = Row()
    from runhold.errors import ModelUnavailable

    for _ in range(3):
        await work(row, AGENT, ScriptedModel(same(), ModelUnavailable("gone")))
    model = ScriptedModel(same())
    await work(row, AGENT, model)
    assert "same arguments" in model.last_messages[-1]["content"]
    assert row.error == "LOOP_DETECTED"


async def test_a_retried_run_gets_another_chance() -> None:
    row = Row()
    await work(row, AGENT, ScriptedModel(same(), same(), same(), same()))
    row.retry()
    model = ScriptedModel(says("Done."))
    await work(row, AGENT, model)
    assert row.status == "completed"
    assert "was not run" in str(model.last_messages)


async def test_three_failures_of_one_tool_in_a_row_end_the_run() -> None:
    row = Row()
    await work(row, AGENT, ScriptedModel(bad("a"), bad("b"), bad("c")))
    assert row.error == "TOOL_FAILED"
    assert row.detail["tool"] == "find"
    assert "no luck" in row.detail["message"]


async def test_a_success_breaks_the_row() -> None:
    row = Row()
    await work(row, AGENT, ScriptedModel(bad("a"), bad("b"), same(), bad("c"), bad("d"), says("Done.")))
    assert row.status == "completed"


async def test_parallel_failures_count_once() -> None:
    row = Row()
    await work(row, AGENT, ScriptedModel(bad("a", "b", "c"), bad("d", "e"), says("Done.")))
    assert row.status == "completed"


async def test_a_success_beside_a_failure_breaks_the_row_too() -> None:
    row = Row()
    mixed = asks(("find", {"query": "bad x"}), ("find", {"query": "milk"}))
    await work(row, AGENT, ScriptedModel(bad("a"), bad("b"), mixed, says("Done.")))
    assert row.status == "completed"


async def test_arguments_that_never_fit_end_the_run_too() -> None:
    row = Row()
    wrong = [asks(("find", {"quarry": n})) for n in range(3)]
    await work(row, AGENT, ScriptedModel(*wrong))
    assert row.error == "TOOL_FAILED"
