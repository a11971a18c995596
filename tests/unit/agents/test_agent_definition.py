"""``Agent`` and ``Limits``: what is registered, and what is refused in which words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

import runhold
from runhold import Agent, AgentDefinitionError, Limits, tool
from runhold.agents import InvalidData


class Item(BaseModel):
    name: str
    note: str | None = None


class Report(BaseModel):
    title: str = Field(description="One line.")
    items: list[Item]
    best: Item | None = Field(default=None, description="The best.")


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


@tool(effect="read")
async def find(query: str) -> str:
    """Find it."""
    return query


def make(**changes: Any) -> Agent:
    given: dict[str, Any] = {"type": "helper", "model": "m-1", "instructions": "Help."}
    return Agent(**{**given, **changes})


def test_what_users_import() -> None:
    assert set(runhold.__all__) >= {"Agent", "Limits", "RunContext", "ToolFailed", "tool"}
    assert all(hasattr(runhold, name) for name in runhold.__all__)


def test_the_definition_is_as_the_protocol_says() -> None:
    agent = make(
        version="3",
        tools=[find],
        input_type=Report,
        params={"temperature": 0.2},
        description="Helps.",
        review_ttl=timedelta(hours=1),
        limits=Limits(max_cost_usd=0.5),
    )
    definition = agent.definition()
    assert json.loads(json.dumps(definition)) == definition
    assert set(definition) == {
        "agent_type",
        "description",
        "version",
        "model",
        "instructions",
        "input_schema",
        "tools",
        "params",
        "limits",
        "max_attempts",
        "review_ttl_s",
    }
    assert (definition["agent_type"], definition["version"], definition["review_ttl_s"]) == (
        "helper",
        "3",
        3600,
    )
    assert definition["tools"] == [find.definition()]
    assert definition["params"] == {"temperature": 0.2}
    assert definition["limits"]["max_cost_usd"] == 0.5
    assert definition["input_schema"]["required"] == ["title", "items"]


def test_any_object_is_input_where_no_type_is_given() -> None:
    assert make().definition()["input_schema"] == {"type": "object"}
    make().check_input({"any": ["thing"]})


def test_the_same_agent_has_the_same_definition() -> None:
    assert (
        make(tools=[find], output_type=Report).definition()
        == make(tools=[find], output_type=Report).definition()
    )


class TestStructuredOutput:
    def schema(self, output_type: Any) -> tuple[bool, dict[str, Any]]:
        described = make(output_type=output_type).definition()["params"]["response_format"]
        assert described["type"] == "json_schema"
        return described["json_schema"]["strict"], described["json_schema"]["schema"]

    def test_is_strict(self) -> None:
        strict, schema = self.schema(Report)
        assert strict
        assert schema["required"] == ["title", "items", "best"]
        assert schema["additionalProperties"] is False
        assert schema["$defs"]["Item"]["required"] == ["name", "note"]
        assert "default" not in json.dumps(schema)

    def test_may_be_recursive(self) -> None:
        strict, schema = self.schema(Tree)
        assert strict
        assert schema["$defs"]["Tree"]["additionalProperties"] is False

    def test_with_free_form_parts_is_not_strict(self) -> None:
        class Open(BaseModel):
            facts: dict[str, int]

        strict, schema = self.schema(Open)
        assert not strict
        assert schema["properties"]["facts"]["additionalProperties"] == {"type": "integer"}

    def test_with_anything_in_it_is_not_strict(self) -> None:
        class Open(BaseModel):
            fact: Any

        assert not self.schema(Open)[0]

    def test_descriptions_beside_references_stay(self) -> None:
        class Two(BaseModel):
            first: Item = Field(description="The first.")

        _, schema = self.schema(Two)
        assert schema["properties"]["first"]["description"] == "The first."
        assert "$ref" not in schema["properties"]["first"]

    def test_may_be_a_dataclass_or_a_typed_dict(self) -> None:
        @dataclass
        class Point:
            x: int

        class Pair(TypedDict):
            y: int

        assert make(output_type=Point).parse_output('{"x": 1}') == {"x": 1}
        assert make(output_type=Pair).parse_output('{"y": 1}') == {"y": 1}

    def test_is_parsed_or_explained(self) -> None:
        agent = make(output_type=Report)
        assert agent.parse_output('{"title": "t", "items": []}') == {"title": "t", "items": [], "best": None}
        with pytest.raises(InvalidData, match="items: Field required"):
            agent.parse_output('{"title": "t"}')
        with pytest.raises(InvalidData, match="Invalid JSON"):
            agent.parse_output("Sure! Here it is:")

    def test_is_text_by_default(self) -> None:
        assert make().parse_output("hi") == make(output_type=str).parse_output("hi") == {"text": "hi"}
        assert make(output_type=str).definition()["params"] == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "My Agent"}, ["'My Agent'", "lower-case"]),
        ({"type": ""}, ["lower-case"]),
        ({"version": ""}, ["version", "not empty"]),
        ({"model": " "}, ["model", "not empty"]),
        ({"instructions": None}, ["instructions", "not empty"]),
        ({"tools": [find, find]}, ["two tools named 'find'"]),
        ({"tools": [print]}, ["decorate it with @tool"]),
        ({"params": {"stream": True}}, ["params['stream']"]),
        ({"params": {"response_format": {}}}, ["params['response_format']"]),
        ({"params": {"x": object()}}, ["no JSON"]),
        ({"params": {"x": float("nan")}}, ["no JSON"]),
        ({"params": {"max_completion_tokens": 0}}, ["max_completion_tokens", "1 or more"]),
        ({"input_type": int}, ["input_type", "JSON object"]),
        ({"output_type": list[int]}, ["output_type", "JSON object"]),
        ({"output_type": object()}, ["output_type"]),
        ({"max_attempts": 0}, ["max_attempts", "1 to 100"]),
        ({"review_ttl": timedelta(0)}, ["review_ttl", "second or more"]),
    ],
)
def test_an_agent_that_can_not_work_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(AgentDefinitionError) as caught:
        make(**changes)
    for word in words:
        assert word in str(caught.value)


class TestLimits:
    def test_the_defaults(self) -> None:
        assert Limits().as_json() == {
            "max_steps": 25,
            "max_tokens": 50_000,
            "step_timeout_s": 30,
            "total_timeout_s": 300,
            "max_cost_usd": None,
            "max_tool_calls": 100,
            "max_output_bytes": 983040,
            "on_limit": "fail",
            "min_output_tokens": 64,
            "model_outage_max_s": 3600,
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_steps", 0),
            ("max_steps", 2.5),
            ("max_steps", True),
            ("max_steps", "5"),
            ("max_tokens", -1),
            ("step_timeout_s", 0),
            ("step_timeout_s", float("nan")),
            ("total_timeout_s", float("inf")),
            ("max_cost_usd", 0),
            ("max_tool_calls", -1),
            ("max_output_bytes", 10),
            ("max_output_bytes", 960 * 1024 + 1),
            ("on_limit", "stop"),
            ("min_output_tokens", 0),
            ("model_outage_max_s", -1),
        ],
    )
    def test_out_of_range(self, name: str, value: Any) -> None:
        with pytest.raises(AgentDefinitionError, match=f"^Limits.{name} is .*: give "):
            Limits(**{name: value})

    def test_that_contradict_each_other(self) -> None:
        with pytest.raises(AgentDefinitionError, match=r"min_output_tokens.*max_tokens"):
            Limits(max_tokens=50)

    def test_are_tightened_by_the_rows_values(self) -> None:
        tight = Limits(on_limit="land").tightened(
            {"max_steps": 3, "max_cost_usd": None, "new": 1, "max_tokens": 5}
        )
        assert (tight.max_steps, tight.max_tokens, tight.on_limit) == (3, 5, "land")
        assert Limits().max_steps == 25
