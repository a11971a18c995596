"""The demo's script decides from what tools answered, and copes with every decision of a reviewer."""

from __future__ import annotations

import json
from typing import Any

from examples.compliance.agent import ComplianceDocument, agent
from examples.compliance.script import EDITED, FAILED, REJECTED, script

from runhold.loop.conversation import tool_text
from runhold.loop.ports import ToolCall
from runhold.models.script import Answer

INVENTORY = {
    "python": "3.12.1", "packages": 3, "by_licence": {"MIT": 2, "unknown": 1}, "unknown": ["odd"], "duplicates": ["twin"],
    "unreadable": [], "missing": ["gone"],
}  # fmt: skip
REPORT = {
    "allowed": 2, "review": 1, "forbidden": 0, "omitted": 0, "not_allowed": [],
    "to_review": [{"package": "odd 1.0", "licence": "unknown", "reason": "no licence found"}],
}  # fmt: skip
SAVED = {
    "document_id": "6f2964de-e8a8-4e5a-939a-581606e48adc", "packages": 3, "allowed": 2, "review": 1, "forbidden": 0,
    "characters": 900,
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "list_distributions": INVENTORY, "check_policy": REPORT, "read_licence_file": {"LICENSE": "MIT License"},
    "save_document": SAVED, "send_email": "Sent.", "submit_to_regulator": "Submitted.",
}  # fmt: skip


def play(request: dict[str, Any], **answers: str) -> tuple[list[tuple[str, dict[str, Any]]], Answer]:
    """Run the script against these answers: what it called, and its final word."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "…"},
        {"role": "user", "content": json.dumps(request)},
    ]
    called: list[tuple[str, dict[str, Any]]] = []
    for turn in range(12):
        said = script(messages, [])
        if not said.calls:
            return called, said
        asked: list[dict[str, Any]] = []
        for number, (name, arguments, _) in enumerate(said.calls):
            tool = agent.tool(name)
            assert tool is not None
            tool.validate(arguments)  # what the script asks for is what the tool takes
            called.append((name, json.loads(arguments)))
            asked.append({"id": f"{turn}-{number}", "function": {"name": name, "arguments": arguments}})
        messages.append({"role": "assistant", "content": said.text, "tool_calls": asked})
        for one in asked:
            name = one["function"]["name"]
            content = answers.get(
                name, ANSWERS[name] if isinstance(ANSWERS[name], str) else json.dumps(ANSWERS[name])
            )
            messages.append({"role": "tool", "tool_call_id": one["id"], "content": content})
    raise AssertionError("the script does not come to an end")


def document(said: Answer) -> ComplianceDocument:
    assert said.text is not None
    agent.parse_output(said.text)
    return ComplianceDocument.model_validate_json(said.text)


def test_the_whole_way_with_a_recipient_and_a_regulator() -> None:
    request = {"project": "billing", "recipient": "legal@example.com", "regulator": "office@example.com"}
    called, said = play(request)
    assert [name for name, _ in called] == [
        "list_distributions", "check_policy", "read_licence_file", "save_document", "send_email", "submit_to_regulator",
    ]  # fmt: skip
    arguments = dict(called)
    assert arguments["read_licence_file"] == {"package": "odd"}
    assert "3 packages" in arguments["save_document"]["summary"]
    assert any("twin" in line for line in arguments["save_document"]["recommendations"])
    assert arguments["submit_to_regulator"]["document_id"] == SAVED["document_id"]
    assert document(said).delivered_to == ["legal@example.com", "office@example.com"]


def test_nothing_leaves_the_house_unless_asked_for() -> None:
    called, said = play({"project": "billing", "recipient": None})
    assert "send_email" not in dict(called)
    assert document(said).delivered_to == []


def test_the_packages_of_the_request_are_passed_on() -> None:
    called, _ = play({"project": "billing", "packages": ["rich"]})
    for name in ("list_distributions", "check_policy", "save_document"):
        assert dict(called)[name]["packages"] == ["rich"]


def test_a_rejection_is_final_and_told() -> None:
    request = {"project": "billing", "recipient": "legal@example.com"}
    called, said = play(request, send_email=f"{REJECTED}Not today.")
    assert [name for name, _ in called].count("send_email") == 1
    assert document(said).delivered_to == []
    assert "Not today." in document(said).summary


def test_an_edit_is_what_happened() -> None:
    edited = EDITED + '{"body":"b","subject":"s","to":"boss@example.com"}\nSent to boss@example.com.'
    _, said = play({"project": "billing", "recipient": "legal@example.com"}, send_email=edited)
    assert document(said).delivered_to == ["boss@example.com"]


def test_a_tool_that_fails_ends_in_a_refusal_that_says_so() -> None:
    _, said = play({"project": "billing"}, check_policy=f"{FAILED}there is no policy")
    assert said.refusal is not None
    assert "there is no policy" in said.refusal


def test_the_words_are_those_of_the_loop() -> None:
    call = ToolCall(
        step_number=1,
        position=0,
        call_id="c",
        tool_name="t",
        input={},
        effect="unsafe",
        status="rejected",
        error="x",
    )
    assert tool_text(call).startswith(REJECTED)
    failed = ToolCall(
        step_number=1,
        position=0,
        call_id="c",
        tool_name="t",
        input={},
        effect="unsafe",
        status="failed",
        error="x",
    )
    assert tool_text(failed).startswith(FAILED)
    edited = ToolCall(
        step_number=1,
        position=0,
        call_id="c",
        tool_name="t",
        input={},
        effect="unsafe",
        status="succeeded",
        output=1,
        edited=True,
    )
    assert tool_text(edited).startswith(EDITED)
