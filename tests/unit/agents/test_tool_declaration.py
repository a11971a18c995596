"""``@tool``: what is accepted, what the model gets, what is refused in which words."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, EmailStr, Field

from runhold import AgentDefinitionError, RunContext, ask_person, tool
from runhold.agents import InvalidArguments, Tool


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    name: str
    note: str | None = None


class Opaque:
    """Nothing that JSON can say."""


class Receipt(BaseModel):
    message_id: str


@tool(effect="idempotent", approval=True, timeout=20)
async def send_email(
    ctx: RunContext,
    to: EmailStr,
    subject: Annotated[str, Field(description="One line.", max_length=80)],
    when: date | None = None,
    items: list[Item] = [],  # noqa: B006 - a default that users write
    colour: Colour = Colour.RED,
) -> Receipt:
    """Send an e-mail.

    A reviewer sees it first.
    """
    return Receipt(message_id=f"{ctx.execution_id}{to}{subject}{when}{items}{colour}")


def parameters(of: Tool[..., Any]) -> dict[str, Any]:
    return of.definition()["parameters"]


def test_the_definition_is_what_the_model_and_the_database_get() -> None:
    definition = send_email.definition()
    assert definition["name"] == "send_email"
    assert definition["description"] == "Send an e-mail.\n\nA reviewer sees it first."
    assert (definition["effect"], definition["approval"]) == ("idempotent", True)
    schema = definition["parameters"]
    assert schema["required"] == ["to", "subject"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["to"] == {"type": "string", "format": "email"}
    assert schema["properties"]["subject"]["description"] == "One line."
    assert "ctx" not in schema["properties"]
    assert "title" not in str(schema)


def test_an_unsafe_tool_without_approval_is_the_default() -> None:
    @tool
    def act() -> None: ...

    assert (act.effect, act.approval, act.timeout_s) == ("unsafe", False, 30)
    assert (act.is_async, act.takes_context) == (False, False)
    assert parameters(act) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_property_called_title_keeps_its_name() -> None:
    @tool
    def act(title: str, json: int, model_id: str) -> None: ...

    assert list(parameters(act)["properties"]) == ["title", "json", "model_id"]
    assert act.validate('{"title": "t", "json": 1, "model_id": "m"}').model_dump() == {
        "title": "t",
        "json": 1,
        "model_id": "m",
    }


def test_arguments_become_python_values() -> None:
    args = send_email.validate(
        '{"to": "a@b.co", "subject": "s", "when": "2026-01-02", "items": [{"name": "n"}], "colour": "red"}'
    )
    assert args.model_dump() == {
        "to": "a@b.co",
        "subject": "s",
        "when": date(2026, 1, 2),
        "items": [{"name": "n", "note": None}],
        "colour": Colour.RED,
    }


async def test_invoking_passes_context_and_arguments() -> None:
    ctx = RunContext(execution_id=UUID(int=1), user_id=uuid4())
    args = send_email.validate('{"to": "a@b.co", "subject": "s"}')
    receipt = await send_email.invoke(ctx, args)
    assert receipt.message_id.startswith(str(ctx.execution_id))


async def test_a_tool_can_still_be_called_as_a_function() -> None:
    ctx = RunContext(execution_id=UUID(int=1), user_id=uuid4())
    assert (await send_email(ctx, "a@b.co", "s")).message_id.endswith("Colour.RED")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"to": "a@b.co"}', "subject: Field required"),
        ('{"to": "ab", "subject": "s"}', "to: value is not a valid email address"),
        ('{"to": "a@b.co", "subject": "s", "cc": "x"}', "cc: Extra inputs are not permitted"),
        ('{"to": "a@b.co", "subject": "s", "items": [{}]}', "items.0.name: Field required"),
        ("[]", "Input should be an object"),
        ("{", "Invalid JSON"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(arguments: str, complaint: str) -> None:
    with pytest.raises(InvalidArguments, match="Invalid arguments for send_email: ") as caught:
        send_email.validate(arguments)
    assert complaint in str(caught.value)


def test_an_explanation_repeats_no_values_and_stays_short() -> None:
    @tool
    def act(numbers: list[int]) -> None: ...

    with pytest.raises(InvalidArguments) as caught:
        act.validate('{"numbers": [' + ",".join(['"hunter2"'] * 500) + "]}")
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_names_and_descriptions_can_be_given() -> None:
    @tool(name="look-up", description="Looks it up.")
    def act() -> None:
        """Something else."""

    assert (act.name, act.description) == ("look-up", "Looks it up.")


def test_approval_can_be_a_function() -> None:
    @tool(approval=lambda ctx, args: args.amount > 1000)
    def pay(amount: int) -> None: ...

    assert pay.definition()["approval"] == "conditional"


def test_approval_on_a_read_tool_is_fine() -> None:
    @tool(effect="read", approval=True)
    def look() -> None: ...

    assert look.approval is True


def test_types_may_be_local() -> None:
    class Local(BaseModel):
        x: int

    @tool
    def act(local: Local) -> Literal["ok"]:
        return "ok"

    @tool(effect="read")
    def other(local: Local) -> Local:
        return local

    assert act.validate('{"local": {"x": 1}}').model_dump() == {"local": {"x": 1}}
    assert "local" in parameters(other)["properties"]


class Service:
    async def find(self, ctx: RunContext, query: str) -> list[str]:
        """Find it."""
        return [query]

    async def __call__(self, query: str) -> str:
        return query


async def test_methods_and_callable_objects_can_be_tools() -> None:
    ctx = RunContext(execution_id=uuid4(), user_id=uuid4())
    find = tool(effect="read")(Service().find)
    assert (find.name, find.takes_context, find.is_async) == ("find", True, True)
    assert await find.invoke(ctx, find.validate('{"query": "q"}')) == ["q"]
    called = tool(name="called")(Service())
    assert called.is_async
    assert inspect.isawaitable(found := called.invoke(ctx, called.validate('{"query": "q"}')))
    assert await found == "q"


def test_ask_person_is_a_tool() -> None:
    assert ask_person.asks_person
    assert ask_person.effect == "read"
    assert list(parameters(ask_person)["properties"]) == ["question"]


def refused(make: Any, *words: str) -> None:
    with pytest.raises(AgentDefinitionError) as caught:
        make()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert message.endswith((".", ")"))


class TestRefused:
    def test_arguments_without_a_type(self) -> None:
        def act(x): ...  # type: ignore

        refused(lambda: tool(act), "'x'", "'act'", "annotate")

    def test_arguments_without_end(self) -> None:
        def stars(*rest: str) -> None: ...
        def keywords(**rest: str) -> None: ...

        refused(lambda: tool(stars), "rest", "name them all")
        refused(lambda: tool(keywords), "rest", "name them all")

    def test_positional_only(self) -> None:
        def act(x: int, /) -> None: ...

        refused(lambda: tool(act), "positional-only")

    def test_types_that_no_json_becomes(self) -> None:
        def act(x: Opaque) -> None: ...
        def back() -> Opaque: ...  # type: ignore

        refused(lambda: tool(act), "'act'", "can't be read from JSON")
        refused(lambda: tool(back), "The return value of tool 'back'", "can't be turned into JSON")

    def test_names_that_begin_with_an_underscore(self) -> None:
        def act(_x: int) -> None: ...

        refused(lambda: tool(act), "_x")

    def test_unknown_types(self) -> None:
        def act(x: Missing) -> None: ...  # type: ignore  # noqa: F821

        refused(lambda: tool(act), "Missing", "import the types")

    def test_generators(self) -> None:
        async def act() -> AsyncIterator[int]:
            yield 1

        refused(lambda: tool(act), "generator")

    def test_a_context_in_the_wrong_place(self) -> None:
        def act(x: int, ctx: RunContext) -> None: ...

        refused(lambda: tool(act), "'ctx'", "first parameter")

    @pytest.mark.parametrize("name", ["send mail", "x" * 65, "é", "a.b"])
    def test_names_that_apis_refuse(self, name: str) -> None:
        def act() -> None: ...

        refused(lambda: tool(name=name)(act), repr(name), "1 to 64")

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({"effect": "write"}, '"unsafe"'),
            ({"approval": "yes"}, "approval"),
            ({"timeout": 0}, "seconds above 0"),
            ({"timeout": float("nan")}, "seconds above 0"),
            ({"timeout": float("inf")}, "seconds above 0"),
            ({"timeout": "5"}, "seconds above 0"),
            ({"timeout": True}, "seconds above 0"),
            ({"redact": "card_number"}, "give a list of names"),
            ({"redact": ("card..number",)}, "path to it with dots"),
            ({"redact": (7,)}, "path to it with dots"),
        ],
    )
    def test_options(self, options: Any, word: str) -> None:
        def act() -> None: ...

        refused(lambda: tool(**options)(act), "'act'", word)

    def test_what_is_no_function(self) -> None:
        refused(lambda: tool(Item), "functions")  # type: ignore
