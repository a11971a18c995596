"""What models and tools hand over: malformed arguments, odd outputs, huge outputs."""

from __future__ import annotations

import math
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from loop_support import Row, ScriptedModel, asks, says, work

from runhold import Agent, Limits, RunContext, tool
from runhold.agents import Effect
from runhold.loop.execute import SHOWN_MAX_BYTES
from runhold.loop.redaction import Redaction
from runhold.store.compound import encoded_in_pieces
from runhold.store.redact import Seal, Vault

KIB = 1024


async def answer_to(*calls: tuple[str, Any], agent: Agent) -> tuple[Row, str]:
    """Run the calls; the row and what the model was told about the last one."""
    row, model = Row(), ScriptedModel(asks(*calls), says("Done."))
    await work(row, agent, model)
    assert row.status == "completed", row.detail
    return row, model.last_messages[-1]["content"]


def returning(value: Any, effect: Effect = "read", **limits: Any) -> Agent:
    @tool(effect=effect)
    async def give() -> Any:
        return value() if callable(value) else value

    return Agent(
        type="helper", model="m", instructions="i", tools=[give], limits=Limits(max_tokens=10**6, **limits)
    )


@tool(effect="unsafe")
async def send(to: str, amount: float = 0) -> Any:
    return [to, amount]


SENDER = Agent(type="helper", model="m", instructions="i", tools=[send])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"to": "a"', "the arguments are not valid JSON"),
        ('"a"', "the arguments must be a JSON object"),
        ("null", "the arguments must be a JSON object"),
        ("", "the arguments are not valid JSON"),
        ('{"to": "a", "amount": NaN}', "NaN is no JSON"),
        ("[" * 5000, "the arguments are not valid JSON"),
        ('{"to": ' + "9" * 5000 + "}", "the arguments are not valid JSON"),
        ("{}", "Invalid arguments for send: to: Field required"),
        ('{"to": "a", "cc": "b"}', "Invalid arguments for send: cc: Extra inputs are not permitted"),
    ],
)
async def test_arguments_that_do_not_fit_fail_the_call_saying_why(arguments: str, complaint: str) -> None:
    row, told = await answer_to(("send", arguments), agent=SENDER)
    assert told.startswith("Error: ")
    assert complaint in told
    assert row.call().status == "failed"
    assert row.steps[0].message["tool_calls"][0]["function"]["arguments"] == arguments


async def test_a_tool_that_does_not_exist() -> None:
    row, told = await answer_to(("send_mail", {}), agent=SENDER)
    assert told == "Error: there is no tool 'send_mail'. There are: send."
    assert row.call().tool_name == "send_mail"


async def test_a_name_that_no_api_takes_back_is_sent_back_mended() -> None:
    row, model = Row(), ScriptedModel(asks(("send.mail to", {})), says("Done."))
    await work(row, SENDER, model)
    assert model.last_messages[-2]["tool_calls"][0]["function"]["name"] == "send_mail_to"
    assert row.call().tool_name == "send.mail to"


async def test_what_runs_is_what_was_recorded() -> None:
    row, told = await answer_to(("send", '{"to": "a\\u0000\\ud800b"}'), agent=SENDER)
    assert row.call().input == {"to": "a\ufffd\ufffdb"}
    assert told == '["a\ufffd\ufffdb",0]'


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "text"),
        (None, "null"),
        (1.0, "1"),
        (1e-7, "0.0000001"),
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        ({1: 2}, '{"1":2}'),
        ((1, 2), "[1,2]"),
        (math.nan, "null"),
        ([math.inf], "[null]"),
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        (["a\ud800b"], '["a\ufffdb"]'),
        (object, "<type>"),
        ({"n": 10**5000}, None),
        (b"bytes", "bytes"),
    ],
)
async def test_output_reaches_the_model_and_the_log(value: Any, told: str | None) -> None:
    agent = returning(lambda: value)
    row, seen = await answer_to(("give", {}), agent=agent)
    assert row.call().status == "succeeded"
    assert told is None or seen == told


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [circular, lambda: b"\xff\xfe"])
@pytest.mark.parametrize("effect", ["read", "unsafe"])
async def test_output_without_a_json_form(value: Any, effect: Effect) -> None:
    row, told = await answer_to(("give", {}), agent=returning(value, effect))
    assert row.call().status == ("failed" if effect == "read" else "succeeded"), (
        "an effect happened all the same"
    )
    assert "JSON" in told


async def test_nesting_without_bottom_is_cut() -> None:
    def deep() -> Any:
        value: Any = 1
        for _ in range(150):
            value = [value]
        return value

    _, told = await answer_to(("give", {}), agent=returning(deep))
    assert "nested too deep" in told


async def test_large_output_is_shown_cut_and_kept_whole() -> None:
    text = "ä" * (20 * KIB)
    row, told = await answer_to(("give", {}), agent=returning(text))
    assert row.call().output == text
    assert len(told.encode()) <= SHOWN_MAX_BYTES
    assert told.endswith(f"of {40 * KIB} bytes]")


async def test_output_of_the_size_that_is_shown_is_not_cut() -> None:
    row, told = await answer_to(("give", {}), agent=returning("x" * SHOWN_MAX_BYTES))
    assert len(told) == SHOWN_MAX_BYTES
    assert row.call().shown is None


@pytest.mark.parametrize("effect", ["read", "idempotent", "unsafe"])
async def test_output_over_the_limit_is_refused_but_an_effect_stays_an_effect(effect: Effect) -> None:
    row, told = await answer_to(("give", {}), agent=returning("x" * 3000, effect, max_output_bytes=2048))
    assert row.call().status == ("failed" if effect == "read" else "succeeded")
    assert row.call().output is None
    assert "3000 bytes" in told
    assert "Storage" in told


async def test_a_cut_output_is_seen_the_same_by_the_next_worker() -> None:
    row = Row()
    agent = returning("y" * (20 * KIB))
    from runhold.errors import ModelUnavailable

    first, second = ScriptedModel(asks(("give", {})), ModelUnavailable("gone")), ScriptedModel(says("Done."))
    await work(row, agent, first)
    await work(row, agent, second)
    assert first.requests[-1]["messages"] == second.requests[0]["messages"]


@pytest.mark.parametrize("redact", [(), ("secret",)])
@pytest.mark.parametrize("text", ["x", "\n", '"', "\x01", "ä", "<"])
@pytest.mark.parametrize("size", [150 * KIB, 440 * KIB, 900 * KIB, 959 * KIB])
async def test_what_is_kept_fits_into_one_record_however_it_is_escaped(
    text: str, size: int, redact: tuple[str, ...]
) -> None:
    """Refused as too large while nothing counts as stored, or recorded: never found too large on its way."""
    value = {"secret": text * (size // len(text.encode()))} if redact else text * (size // len(text.encode()))

    @tool(effect="unsafe", redact=redact)
    async def give(ctx: RunContext) -> Any:
        ctx.state["k"] = "\n" * 3000
        return value

    row, told = await answer_to(
        ("give", {}),
        agent=Agent(type="h", model="m", instructions="i", tools=[give], limits=Limits(max_tokens=10**6)),
    )
    assert row.call().status == "succeeded"
    assert (row.call().output is None) == ("over the limit" in told)
    seal = Seal(
        Vault([Fernet.generate_key().decode()]), Redaction({"give": redact} if redact else {}), uuid4()
    )
    for entry in row.entries:
        for piece in encoded_in_pieces(seal.entry(entry, lambda *_: "give")):
            assert piece.size < 960 * KIB
    if size <= 440 * KIB and text in "xä<" and not redact:
        assert row.call().output == value
