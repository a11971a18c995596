"""Redacted fields at the border of the log: what rows hold, and what comes back of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from msgspec.structs import replace

from runhold.errors import ConfigError, StoreError
from runhold.loop.ports import Entry, Json, Result, Run, Started, Step, ToolCall, Usage, Verdict
from runhold.loop.redaction import Redaction
from runhold.store.codec import encode_call, encode_step
from runhold.store.redact import Place, RedactKeyMissing, Seal, SealedLog, Vault

USER, OTHER = UUID(int=1), UUID(int=2)
KEY, NEWER = (Fernet.generate_key().decode() for _ in range(2))
CARD = "4111-1111-1111"
NAMES = Redaction({"charge": ("card", "address.street")}, ("iban",))


def seal(*keys: str, user: UUID = USER, names: Redaction = NAMES) -> Seal:
    return Seal(Vault(keys or [KEY]), names, user)


def asked(arguments: str, name: str = "charge") -> Step:
    function = {"name": name, "arguments": arguments}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    return Step(
        step_number=1,
        definition_id=UUID(int=3),
        message=message,
        usage=Usage(input_tokens=1, output_tokens=1),
    )


def called(input: Json, name: str = "charge", **more: Any) -> ToolCall:  # noqa: A002
    given: dict[str, Any] = {"status": "running", "effect": "unsafe", **more}
    return ToolCall(step_number=1, position=0, call_id="c", tool_name=name, input=input, **given)


def stored(entry: Entry, by: Seal | None = None) -> Entry:
    return (by or seal()).entry(entry, lambda *_: "charge")


def claimed(steps: Sequence[Step] = (), calls: Sequence[ToolCall] = ()) -> Run:
    given: dict[str, Any] = dict.fromkeys(Run.__struct_fields__)
    return Run(**{**given, "user_id": USER, "steps": steps, "calls": calls})


def test_fields_are_unreadable_in_rows_and_whole_again_on_the_way_back() -> None:
    arguments = {
        "card": CARD,
        "amount": 5,
        "address": {"street": "Elm 9", "city": "Ulm"},
        "payees": [{"iban": "DE89"}, {"iban": None}],
    }
    text = json.dumps(arguments, indent=3) + " "
    entry = stored(Entry(step=asked(text), calls=[called(arguments, output=[{"card": CARD}], shown=None)]))
    assert entry.step is not None
    (call,) = entry.calls
    raw = encode_step(entry.step) + b"".join(encode_call(call))
    for value in (CARD, "Elm 9", "DE89"):
        assert value.encode() not in raw
    readable = json.loads(entry.step.message["tool_calls"][0]["function"]["arguments"])
    assert readable == {
        "card": "[redacted]",
        "amount": 5,
        "address": {"street": "[redacted]", "city": "Ulm"},
        "payees": [{"iban": "[redacted]"}, {"iban": None}],
    }
    assert (call.input["amount"], call.input["payees"][1]) == (5, {"iban": None})
    run = seal().run(claimed([entry.step], [call]))
    assert run.steps[0].message["tool_calls"][0]["function"] == {"name": "charge", "arguments": text}
    assert (run.calls[0].input, run.calls[0].output) == (arguments, [{"card": CARD}])


def test_what_has_no_such_fields_is_stored_as_it_is() -> None:
    entry = Entry(
        step=asked('{"amount":  5}'),
        calls=[called({"amount": 5, "street": "Elm 9"}, output="x", shown="y")],
        results=[Result(step_number=1, position=0, status="succeeded", output={"a": [1]})],
    )
    assert stored(entry) == entry


def test_arguments_that_are_no_json_are_redacted_as_a_whole() -> None:
    step = stored(Entry(step=asked('{"card": "4111'))).step
    assert step is not None
    assert step.message["tool_calls"][0]["function"]["arguments"] == "[redacted]"
    (opened,) = seal().steps([step])
    assert opened == asked('{"card": "4111')
    plain = asked("{no", name="look")
    by = seal(names=Redaction({"charge": ("card",)}))
    assert stored(Entry(step=plain), by).step == plain, "a tool without such fields"


def test_a_cut_output_is_redacted_as_a_whole() -> None:
    result = Result(step_number=1, position=0, status="succeeded", output={"card": CARD}, shown=f"…{CARD}…")
    (sealed,) = stored(Entry(results=[result])).results
    assert CARD not in str(sealed)
    (opened,) = seal().calls([called({}, output=None, shown=sealed.shown)])
    assert opened.shown == f"…{CARD}…"


def test_a_value_that_looks_like_a_token_is_a_value() -> None:
    """Who can read a token in a row can't have it opened by saying it to the model."""
    token = seal().entry(Entry(calls=[called({"card": CARD})]), lambda *_: "").calls[0].input["card"]
    said = {"amount": token, "list": [{"$redacted": "v1:x"}]}
    (call,) = stored(Entry(calls=[called(said)])).calls
    assert call.input != said
    assert seal().calls([call])[0].input == said


@pytest.mark.parametrize(
    ("moved", "user"),
    [
        (lambda t: {"amount": t}, USER),
        (lambda t: {"card": {"card": t}}, USER),
        (lambda t: {"card": t}, OTHER),
    ],
)
def test_a_token_is_bound_to_its_field_and_user(moved: Any, user: UUID) -> None:
    (call,) = stored(Entry(calls=[called({"card": CARD})])).calls
    elsewhere = replace(call, input=moved(call.input["card"]))
    (opened,) = seal(user=user).calls([elsewhere])
    assert opened == elsewhere
    (other_tool,) = seal().calls([replace(call, tool_name="send")])
    assert CARD not in str(other_tool)


def test_keys_are_rotated_and_a_lost_one_is_said() -> None:
    (old,) = stored(Entry(calls=[called({"card": CARD})]), seal(KEY)).calls
    assert seal(NEWER, KEY).calls([old])[0].input == {"card": CARD}
    (new,) = stored(Entry(calls=[called({"card": CARD})]), seal(NEWER, KEY)).calls
    assert seal(NEWER).calls([new])[0].input == {"card": CARD}
    with pytest.raises(RedactKeyMissing, match="no key in RUNHOLD_REDACT_KEY opens"):
        seal(NEWER).run(claimed(calls=[old]))
    with pytest.raises(RedactKeyMissing, match="has no RUNHOLD_REDACT_KEY"):
        Seal(None, Redaction({}), USER).run(claimed(calls=[old]))
    step = stored(Entry(step=asked('{"card": 1}'))).step
    assert step is not None
    keyless = Seal(None, Redaction({}), USER)
    with pytest.raises(RedactKeyMissing, match="has no RUNHOLD_REDACT_KEY"):
        keyless.run(claimed([step]))


def test_what_a_reviewer_typed_that_is_no_token_is_left_as_it_is() -> None:
    """Whether it fits the tool is another question, which is asked next."""
    odd = {"card": {"$redacted": "v1:typed by somebody"}, "amount": {"$redacted": 5}}
    assert seal().calls([called(odd, edited=True)])[0].input == odd


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"RUNHOLD_REDACT_KEY holds something that is no key.*generate_key"):
        Vault(["secret"])


def test_equal_values_do_not_look_equal() -> None:
    vault, place = Vault([KEY]), Place(USER, "charge", "card")
    assert vault.seal(place, CARD) != vault.seal(place, CARD)


class Log:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.answers: list[asyncio.Future[Verdict]] = []

    def append(self, entry: Entry) -> asyncio.Future[Verdict]:
        self.entries.append(entry)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


async def test_the_log_seals_what_goes_in_and_opens_what_comes_back() -> None:
    inner = Log()
    log = SealedLog(inner, seal(), [replace(called({}), position=7, tool_name="charge")])
    first = log.append(Entry(calls=[called({"card": CARD})]))
    second = log.append(
        Entry(results=[Result(step_number=1, position=7, status="succeeded", output={"card": 1234})])
    )
    (call,), (result,) = inner.entries[0].calls, inner.entries[1].results
    assert CARD not in str(call)
    assert "1234" not in str(result)
    started = Started(step_number=1, position=0, taken=True, input=call.input)
    inner.answers[0].set_result(Verdict(kind="ok", started=[started]))
    assert (await first).started[0].input == {"card": CARD}
    inner.answers[1].set_result(Verdict(kind="continue", calls=[called({"card": call.input["card"]})]))
    assert (await second).calls[0].input == {"card": CARD}


async def test_a_log_that_refuses_is_heard_and_need_not_be() -> None:
    inner = Log()
    log = SealedLog(inner, seal(), [])
    heard, given_up = log.append(Entry()), log.append(Entry())
    given_up.cancel()
    for answer in inner.answers:
        answer.set_exception(StoreError("too large"))
    with pytest.raises(StoreError, match="too large"):
        await heard


async def test_a_reviewers_edit_may_leave_the_token_replace_it_or_misplace_it() -> None:
    inner = Log()
    log = SealedLog(inner, seal(), [called({})])
    (sealed,) = stored(Entry(calls=[called({"card": CARD, "amount": 5})])).calls
    token = sealed.input["card"]
    for edit, run in (
        ({"card": token, "amount": 6}, {"card": CARD, "amount": 6}),
        ({"card": "4222", "amount": 5}, {"card": "4222", "amount": 5}),
        ({"card": "4222", "amount": token}, {"card": "4222", "amount": token}),
    ):
        answer = log.append(Entry())
        started = Started(step_number=1, position=0, taken=True, input=edit, edited=True)
        inner.answers[-1].set_result(Verdict(kind="ok", started=[started]))
        assert (await answer).started[0].input == run
