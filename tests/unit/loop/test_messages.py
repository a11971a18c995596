"""What people say to a living run: heard by the model at its next step, and never passed over by an end."""

from __future__ import annotations

from typing import Any

import pytest
from loop_support import Row, ScriptedModel, Worker, asks, says, work

from runhold import Agent, Limits, tool
from runhold.testing.chaos.patience import eventually


@tool(effect="read")
async def find(query: str = "") -> str:
    return query


AGENT = Agent(type="helper", model="m", instructions="i", tools=[find])
FIND = ("find", {"query": "x"})


def heard(model: ScriptedModel, text: str) -> int:
    """In how many messages of the last request somebody says ``text``."""
    return sum(message.get("content") == text for message in model.last_messages)


async def test_said_between_the_answer_and_its_record_is_heard_before_the_end() -> None:
    row = Row()

    def answer() -> Any:
        row.say("Wait!")  # only the database knows of it when the run is to be completed
        return says("Done.")

    model = ScriptedModel(answer, says("Better."))
    await work(row, AGENT, model)
    assert (row.status, row.result) == ("completed", {"text": "Better."})
    assert model.last_messages[-2:] == [
        {"content": "Done.", "role": "assistant"},
        {"content": "Wait!", "role": "user"},
    ]
    assert [transition.to for transition in row.transitions] == ["completed"]
    assert not row.messages


async def test_every_message_is_heard_once_however_many_ends_they_put_off() -> None:
    row = Row()
    said: list[Any] = []

    def answer(text: str) -> Any:
        said.append(row.say(f"More than {text}!"))
        return says(text)

    model = ScriptedModel(*(lambda n=n: answer(f"answer {n}") for n in range(3)), says("The end."))
    await work(row, AGENT, model)
    assert row.result == {"text": "The end."}
    assert [list(step.delivered) for step in row.steps] == [[], *([message] for message in said)]
    assert [heard(model, f"More than answer {n}!") for n in range(3)] == [1, 1, 1]


async def test_said_after_the_final_answer_was_recorded_and_the_worker_lost_is_heard() -> None:
    row = Row()
    await work(row, AGENT, ScriptedModel(says("Done.")))
    row.status, row.result = "pending", None  # its end was not recorded: the worker died in between
    row.say("One thing more.")
    await work(row, AGENT, model := ScriptedModel(says("Better.")))
    assert (row.result, heard(model, "One thing more.")) == ({"text": "Better."}, 1)


async def test_a_worker_lost_after_it_was_told_leaves_the_message_to_the_next_one() -> None:
    row = Row()

    def answer() -> Any:
        row.say("Wait!")
        return says("Done.")

    worker = Worker(row, AGENT, model := ScriptedModel(answer, lambda: eventually(lambda: False)))
    worker.start()
    await eventually(lambda: len(model.requests) == 2)
    await worker.crash()
    assert [message.content for message in row.messages] == ["Wait!"]
    await work(row, AGENT, model := ScriptedModel(says("Better.")))
    assert (row.result, heard(model, "Wait!")) == ({"text": "Better."}, 1)


async def test_said_while_a_slow_tool_runs_is_heard_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runhold.loop.calls.HEAR_AFTER_S", 0)
    row = Row()

    @tool(effect="read")
    async def slow() -> str:
        await eventually(
            lambda: row.steps
        )  # the answer about the step is on its way, and knows nothing of it
        row.say("Be brief.")
        return "found"

    agent = Agent(type="helper", model="m", instructions="i", tools=[slow])
    await work(row, agent, model := ScriptedModel(asks(("slow", {})), says("Done.")))
    assert [message["content"] for message in model.last_messages[-2:]] == ["found", "Be brief."]


async def test_said_while_a_person_decides_is_heard_with_the_decision() -> None:
    @tool(approval=True)
    async def pay() -> str:
        return "paid"

    agent = Agent(type="helper", model="m", instructions="i", tools=[pay])
    row = Row()
    await work(row, agent, ScriptedModel(asks(("pay", {}))))
    row.say("And hurry.")
    row.decide("approved")
    await work(row, agent, model := ScriptedModel(says("Done.")))
    assert [message["content"] for message in model.last_messages[-2:]] == ["paid", "And hurry."]


async def test_a_landing_is_the_last_word() -> None:
    row = Row()
    agent = Agent(
        type="helper",
        model="m",
        instructions="i",
        tools=[find],
        limits=Limits(max_steps=2, on_limit="land"),
    )

    def answer() -> Any:
        row.say("Go on!")
        return says("Half of it.")

    await work(row, agent, ScriptedModel(asks(FIND), answer))
    assert (row.status, row.result) == ("completed", {"partial": True, "text": "Half of it."})
    assert len(row.messages) == 1


async def test_a_landing_that_is_in_the_log_already_is_the_last_word_too() -> None:
    row = Row()
    limits = Limits(max_steps=2, on_limit="land")
    agent = Agent(type="helper", model="m", instructions="i", tools=[find], limits=limits)
    await work(row, agent, ScriptedModel(asks(FIND), says("Half of it.")))
    row.status, row.result = "pending", None  # the worker died before the end was recorded
    row.say("Go on!")
    await work(row, agent, ScriptedModel())
    assert (row.status, row.result) == ("completed", {"partial": True, "text": "Half of it."})


async def test_without_room_for_another_step_the_answer_stands() -> None:
    row = Row()
    agent = Agent(type="helper", model="m", instructions="i", tools=[find], limits=Limits(max_steps=2))

    def answer() -> Any:
        row.say("Go on!")
        return says("Done.")

    await work(row, agent, ScriptedModel(asks(FIND), answer))
    assert (row.status, row.error, row.result) == ("completed", None, {"text": "Done."})
    assert row.transitions[-1].final


async def test_a_cancelled_run_need_not_listen() -> None:
    row = Row()

    def answer() -> Any:
        row.say("Go on!")
        row.cancel_requested = True
        return says("Done.")

    await work(row, AGENT, ScriptedModel(answer))
    assert row.status == "cancelled"
