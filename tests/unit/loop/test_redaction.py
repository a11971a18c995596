"""What ``redact`` names is left out of what the loop writes for people; tools and the model get it whole."""

from __future__ import annotations

from typing import Any

import pytest
from loop_support import Progress, Row, ScriptedModel, asks, says, work

from runhold import Agent, RunContext, ToolFailed, tool
from runhold.loop.redaction import MARK, Redaction

CARD = "4111-2222"
GIVEN = {"card": CARD, "to": {"street": "Elm 99"}, "note": f"by {CARD}"}


def teller(seen: list[Any], how: str = "well", *, approval: Any = False) -> Agent:
    @tool(effect="read", approval=approval, redact=("to.street",))
    def charge(ctx: RunContext, card: str, to: dict[str, str], note: str) -> str:
        ctx.emit("charging", {"card": card, "list": [{"said": f"{note} in {to['street']}"}]})
        seen.append((card, to))
        if how == "politely":
            raise ToolFailed(f"{card} has expired")
        if how == "rudely":
            raise ValueError(f"{card!r} at {to['street']}")
        return "charged"

    return Agent(type="helper", model="m", instructions="i", tools=[charge], redact=("card",))


async def test_a_summary_shows_that_a_value_is_there() -> None:
    row = Row()
    await work(row, teller([], approval=True), ScriptedModel(asks(("charge", {**GIVEN, "note": "x"}))))
    assert row.summaries == ['charge(card=[redacted], to={"street":"[redacted]"}, note="x")']


@pytest.mark.parametrize(
    ("how", "error"),
    [("politely", "[redacted] has expired"), ("rudely", "ValueError: '[redacted]' at [redacted]")],
)
async def test_an_error_does_not_quote_it(how: str, error: str, caplog: pytest.LogCaptureFixture) -> None:
    row, seen = Row(), []
    await work(row, teller(seen, how), ScriptedModel(asks(("charge", GIVEN)), says("Done.")))
    assert seen == [(CARD, {"street": "Elm 99"})]
    assert row.call().error == error
    assert CARD not in caplog.text
    assert "Elm 99" not in caplog.text
    assert ("raise ValueError" in caplog.text) == (how == "rudely"), "the rest of the traceback is there"


async def test_an_approval_function_that_fails_does_not_quote_it(caplog: pytest.LogCaptureFixture) -> None:
    def broken(ctx: RunContext, args: Any) -> bool:
        raise KeyError(args.card)

    row = Row()
    await work(row, teller([], approval=broken), ScriptedModel(asks(("charge", GIVEN))))
    assert row.status == "awaiting_review"
    assert "a person decides" in caplog.text
    assert "KeyError: '[redacted]'" in caplog.text
    assert CARD not in caplog.text


async def test_progress_does_not_show_it() -> None:
    progress = Progress()
    model = ScriptedModel(asks(("charge", GIVEN)), says("Done."))
    await work(Row(), teller([]), model, progress=progress)
    (told,) = [payload for event, payload in progress.events if event == "custom"]
    assert told["payload"] == {"card": "[redacted]", "list": [{"said": "by [redacted] in [redacted]"}]}


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"a": {"b": 1, "c": 2}, "b": 3}, {"a": {"b": "[redacted]", "c": 2}, "b": 3}),
        ([{"a": [{"b": 1}, {"b": None}]}], [{"a": [{"b": "[redacted]"}, {"b": None}]}]),
        ({"x": {"y": {"k": {"v": 1}}, "v": 1}}, {"x": {"y": {"k": {"v": "[redacted]"}}, "v": 1}}),
        ({"x": {MARK: "anything"}}, {"x": "[redacted]"}),
        ("a.b", "a.b"),
    ],
)
def test_a_tools_names_are_paths_and_an_agents_names_are_their_ends(value: Any, masked: Any) -> None:
    redaction = Redaction({"t": ("a.b",)}, ("k.v",))
    assert redaction.masked("t", value) == masked


def test_what_is_not_concerned_is_the_same_object() -> None:
    value = {"a": [{"b": {"c": 1}}]}
    assert Redaction({"t": ("c",), "u": ("a",)}).masked("t", value) is value
