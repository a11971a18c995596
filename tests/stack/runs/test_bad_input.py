"""Input that can't work, and models and tools that say what nobody should: one clear message, nothing else lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trickster
from postgrest import APIError
from rebuilding import require_rebuildable
from supabase_project import Project
from town import Town, eventually

from runhold.testing import ScriptedModel
from runhold.testing.chaos import ForkServer

DONE = ["Done.", []]


@pytest.fixture
async def tricks(stack: Project, forks: ForkServer, tmp_path: Path) -> AsyncIterator[Town]:
    """A town whose one worker has the trickster."""
    async with ScriptedModel(trickster.script) as model:
        made = Town(stack, tmp_path, model.base_url, forks)
        worker = made.worker(module=trickster.__file__)
        try:
            await eventually(lambda: "worker ready" in worker.log, "the worker")
            yield made
        finally:
            worker.kill()
            require_rebuildable(stack, model, "trickster")
            with psycopg.connect(stack.database_url, autocommit=True) as connection:
                connection.execute("delete from agent_executions where agent_type = 'trickster'")


async def calls_after(town: Town, *says: Any) -> list[dict[str, Any]]:
    """The tool calls of a run that completes although its model says this."""
    user = await town.person()
    run_id = await town.submit(user, agent_type="trickster", input_data={"says": [*says, DONE]})
    assert (await town.until(user, run_id, "completed"))["result"] == {"text": "Done."}
    rows = (
        await user.table("agent_tool_calls")
        .select("*")
        .eq("execution_id", run_id)
        .order("position")
        .execute()
    )
    return rows.data  # pyright: ignore[reportReturnType]


async def test_a_run_of_an_unknown_type_is_refused_by_name(town: Town) -> None:
    user = await town.person()
    with pytest.raises(APIError, match="nobody_knows") as refused:
        await town.submit(user, agent_type="nobody_knows", input_data={})
    assert refused.value.code == "RH001"
    with pytest.raises(APIError, match="nobody_knows") as refused:
        await user.rpc("agent_submit", {"agent_type": "nobody_knows", "input_data": {}}).execute()
    assert refused.value.code == "RH001"


@pytest.mark.parametrize(
    "given",
    [{"plan": ["x" * 2**20]}, {"plan": ["a\0b"]}, [1], "text"],
    ids=["1 MiB", "NUL", "a list", "a text"],
)
async def test_input_that_can_not_be_stored_is_refused(town: Town, given: Any) -> None:
    user = await town.person()
    with pytest.raises(APIError) as refused:
        await town.submit(user, input_data=given)
    assert refused.value.code in {"RH003", "22P05"}
    assert (await user.table("agent_executions").select("id").execute()).data == []


async def test_input_that_fails_the_schema_ends_the_run_and_names_the_field(tricks: Town) -> None:
    user = await tricks.person()
    run_id = await tricks.submit(user, agent_type="trickster", input_data={"says": [DONE], "size": -1})
    row = await tricks.until(user, run_id, "failed")
    assert row["error"] == "INVALID_INPUT"
    assert "size" in row["error_detail"]["message"]
    assert row["step_count"] == 0


async def test_values_that_no_database_takes_are_stored_as_well_as_can_be(tricks: Town) -> None:
    deep, numbers = await calls_after(tricks, [None, [["deep", "{}", "a"], ["numbers", "{}", "b"]]])
    assert (deep["status"], numbers["status"]) == ("failed", "succeeded")  # a read that gave nothing usable
    assert "without a JSON form" in deep["error"]
    assert numbers["tool_output"][:2] == [None, None]
    assert numbers["tool_output"][2].startswith("0x")


async def test_calls_that_make_no_sense_go_back_to_the_model(tricks: Town) -> None:
    called = await calls_after(
        tricks,
        [
            "Both text and calls.",
            [
                ["functions.echo", "{}", "a"],
                ["no_such_tool", "{}", "b"],
                ["echo", '{"text": ', "c"],
                ["echo", '{"text": 5, "more": 1}', "d"],
                ["echo", "[1]", "e"],
                ["echo", '{"text": "' + "\\u0000\\ud800" + '"}', "f"],
                ["echo", '{"text": "one"}', "same"],
                ["echo", '{"text": "two"}', "same"],
                ["echo", "[" * 5000, "g"],
            ],
        ],
    )
    assert [call["status"] for call in called] == ["failed"] * 5 + ["succeeded"] * 3 + ["failed"]
    assert [call["tool_output"] for call in called[5:8]] == ["\ufffd\ufffd", "one", "two"]
    assert all(call["error"] for call in called if call["status"] == "failed")


async def test_sixty_four_calls_at_once_all_run(tricks: Town) -> None:
    many = [["echo", json.dumps({"text": str(n)}), f"id{n}"] for n in range(64)]
    called = await calls_after(tricks, [None, many])
    assert [call["tool_output"] for call in called] == [str(n) for n in range(64)]


async def test_empty_answers_are_asked_again_and_end_in_invalid_output(tricks: Town) -> None:
    assert await calls_after(tricks, ["", []]) == []
    user = await tricks.person()
    run_id = await tricks.submit(user, agent_type="trickster", input_data={"says": [["", []]] * 9})
    assert (await tricks.until(user, run_id, "failed"))["error"] == "INVALID_OUTPUT"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SUPABASE_SECRET_KEY": "sb_secret_wrong", "RUNHOLD_WORKER_TOKEN": ""}, "SUPABASE_SECRET_KEY"),
        ({"RUNHOLD_WORKER_TOKEN": "wrong"}, "RUNHOLD_WORKER_TOKEN"),
        ({"OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),
    ],
)
async def test_a_worker_that_is_set_up_wrong_ends_with_one_sentence(
    town: Town, env: dict[str, str], said: str
) -> None:
    worker = town.worker(RUNHOLD_START_TIMEOUT="0.5", **env)
    await eventually(lambda: not worker.running, "the worker's end")
    assert worker.status != 0
    *before, last = worker.log.splitlines()
    assert last.startswith("Error: ")
    assert said in last
    assert (
        len(before) <= 1
    )  # a key that is refused may be accepted soon: the first refusal is logged, and tried again
