"""The request is a pure function of the log: what was sent can be rebuilt, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_support import (
    Progress,
    Row,
    ScriptedModel,
    asks,
    assert_well_formed,
    definition_of,
    says,
    through_jsonb,
    work,
)
from msgspec.structs import replace
from pydantic import BaseModel

from runhold import Agent, Limits, tool
from runhold.errors import ModelUnavailable
from runhold.loop import build_request, rebuild_request
from runhold.loop.conversation import Conversation, tool_text
from runhold.loop.ports import CallStatus, Step, ToolCall, Usage


def dumped(body: Any) -> bytes:
    """As a client would send it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


class Report(BaseModel):
    thoughts: str
    answer: float = 1e-7


@tool(effect="read")
async def give(number: float = 0, text: str = "") -> Any:
    """Give it back."""
    return {"text": text, "number": number, "list": [number, {"z": 1, "a": None}]}


def agent(version: str = "1") -> Agent:
    return Agent(
        type="helper",
        version=version,
        model="m",
        instructions=f"Version {version}: help. ✓",
        tools=[give],
        output_type=Report,
        params={"temperature": 1e-5, "top_p": 1.0},
        limits=Limits(on_limit="land", max_steps=9),
    )


async def test_every_request_of_a_run_can_be_rebuilt_after_a_redeploy() -> None:
    row = Row(input={"topic": "tea", "amount": 1.50, "tiny": 1e-9, "é": "\u2028"})
    first = ScriptedModel(
        asks(("give", {"number": 1e22, "text": "a\x00é"}), ("nothing", {}), ("give", "no json")),
        says("not JSON", annotations=[], refusal=None),
        asks(("give", {"number": 0.1})),
        ModelUnavailable("the deploy"),
    )
    await work(row, agent("1"), first, definition=definition_of(agent("1"), 1))
    second = ScriptedModel(asks(("give", {"number": 0.1})), says('{"thoughts": "ok"}'))
    await work(row, agent("2"), second, definition=definition_of(agent("2"), 2))
    assert row.status == "completed"
    sent = first.requests[:3] + second.requests
    assert len(sent) == len(row.steps) == 5
    for number, request in enumerate(sent, 1):
        assert dumped(rebuild_request(row.recorded, number).body) == dumped(request)


async def test_a_landing_can_be_rebuilt() -> None:
    row = Row()
    model = ScriptedModel(*[asks(("give", {"number": n})) for n in range(8)], says("Partly."))
    await work(row, agent(), model)
    assert row.result == {"partial": True, "text": "Partly."}
    assert dumped(rebuild_request(row.recorded, 9).body) == dumped(model.requests[-1])


async def test_a_streamed_request_is_told_from_others() -> None:
    row, model = Row(), ScriptedModel(says("no JSON"), says('{"thoughts": "ok"}'))
    await work(row, agent(), model, progress=Progress(wants_text=True))
    assert [rebuild_request(row.recorded, number).stream for number in (1, 2)] == [True, True]
    assert all("stream" not in request for request in model.requests)
    with pytest.raises(LookupError, match="no step 3"):
        rebuild_request(row.recorded, 3)


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none()
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
values = st.recursive(
    numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(data=st.dictionaries(texts, values, max_size=4), output=values, extra=values)
def test_any_values_render_the_same_after_jsonb(data: dict[str, Any], output: Any, extra: Any) -> None:
    definition = definition_of(agent())
    message = {
        "role": "assistant",
        "content": None,
        "reasoning": extra,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "give", "arguments": "{}"}}],
    }
    step = Step(
        step_number=1,
        definition_id=definition.id,
        message=message,
        usage=Usage(input_tokens=1, output_tokens=1),
    )
    call = ToolCall(
        step_number=1,
        position=0,
        call_id="c",
        tool_name="give",
        input=data,
        effect="read",
        status="succeeded",
        output=output,
        edited=True,
    )
    fresh = build_request(definition, data, [step], [call], [], max_output_tokens=5)
    again = build_request(
        replace(
            definition, params=through_jsonb(definition.params), tools=through_jsonb(list(definition.tools))
        ),
        through_jsonb(data),
        [replace(step, message=through_jsonb(message))],
        [replace(call, input=through_jsonb(data), output=through_jsonb(output))],
        [],
        max_output_tokens=5,
    )
    assert dumped(fresh) == dumped(again)
    assert_well_formed(fresh)


def test_structured_output_keeps_the_order_of_its_fields() -> None:
    request = build_request(definition_of(agent()), {}, [], [], [], max_output_tokens=None)
    schema = request["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["thoughts", "answer"]


def call(status: CallStatus, **fields: Any) -> ToolCall:
    given: dict[str, Any] = {
        "step_number": 1,
        "position": 0,
        "call_id": "c",
        "tool_name": "give",
        "input": {"b": 1.0, "a": 2},
        "effect": "read",
    }
    return ToolCall(**{**given, "status": status, **fields})


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (call("succeeded", output={"b": 1.0, "a": 2}), '{"a":2,"b":1}'),
        (call("succeeded", output="as it is"), "as it is"),
        (call("succeeded", output="long", shown="lo[cut]"), "lo[cut]"),
        (call("failed", error="no"), "Error: no"),
        (call("rejected", error="too dear"), "A reviewer rejected this call: too dear"),
        (call("rejected"), "A reviewer rejected this call: no reason was given."),
        (call("succeeded", output=1, edited=True), 'A reviewer changed the arguments to {"a":2,"b":1}\n1'),
        (call("unknown"), "Error: nobody knows whether this call took effect."),
        (call("pending"), "Error: this call has no result."),
    ],
)
def test_what_the_model_is_told_about_a_call(row: ToolCall, text: str) -> None:
    assert tool_text(row) == text


def step(number: int, *asked: str, definition: int = 1, input_tokens: int = 100) -> Step:
    calls = [{"id": i, "type": "function", "function": {"name": "give", "arguments": "{}"}} for i in asked]
    message: dict[str, Any] = {"role": "assistant", "content": "hm", "tool_calls": calls}
    return Step(
        step_number=number,
        definition_id=UUID(int=definition),
        message=message,
        usage=Usage(input_tokens=input_tokens, output_tokens=10),
    )


@pytest.mark.parametrize("rows", [[], [call("succeeded", output="x", position=1)], [call("running")]])
def test_no_tool_call_is_left_dangling(rows: Sequence[ToolCall]) -> None:
    request = build_request(definition_of(agent()), {}, [step(1, "a", "b")], rows, [], max_output_tokens=None)
    assert_well_formed(request)
    assert "Error" in str(request["messages"][-2:])


def test_an_empty_list_of_tool_calls_is_not_sent_back() -> None:
    request = build_request(definition_of(agent()), {}, [step(1)], [], [], max_output_tokens=None)
    assert request["messages"][-1] == {"content": "hm", "role": "assistant"}


class TestTheEstimate:
    definition = definition_of(agent())

    def test_starts_from_the_size_of_the_request(self) -> None:
        conversation = Conversation(self.definition, {"text": "x" * 3000})
        assert conversation.estimate_input_tokens([]) > 1000

    def test_goes_on_from_what_the_provider_counted(self) -> None:
        conversation = Conversation(self.definition, {"text": "x" * 3000})
        conversation.add(step(1, "a", input_tokens=700), [call("succeeded", output="y" * 600)])
        assert 700 + 200 < conversation.estimate_input_tokens([]) < 700 + 200 + 100

    def test_starts_anew_when_the_agent_changed(self) -> None:
        conversation = Conversation(self.definition, {"text": "x" * 3000})
        conversation.add(step(1, definition=2, input_tokens=5), [])
        assert conversation.estimate_input_tokens([]) > 1000

    def test_knows_what_a_change_of_the_agent_added(self) -> None:
        old = replace(self.definition, id=UUID(int=2), instructions="")
        conversation = Conversation(self.definition, {"text": "x"}, {old.id: old})
        conversation.add(step(1, definition=2, input_tokens=500), [])
        assert 500 < conversation.estimate_input_tokens([]) < 560
