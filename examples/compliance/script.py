"""The scripted model of the demo: a function that plays the part of the model, so that no API key is needed.

It decides the next tool call from what the tools really answered, and what it writes comes from there too.
Give it to the scripted model server: ``python -m runhold.models.scripted compliance.script:script``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from runhold.models.script import Answer, call, calls, say

Message = dict[str, Any]

EDITED: Final = "A reviewer changed the arguments to "
REJECTED: Final = "A reviewer rejected this call: "
FAILED: Final = "Error: "
"""How the loop tells the model what became of a call (``runhold.loop.conversation``)."""

MAX_LOOKED_INTO: Final = 2
"""Licence files to read, of the packages that the policy wants looked at."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one tool call.

    :ivar arguments: what ran: the reviewer's, if they changed them.
    :ivar value: what the tool returned; None if it did not.
    :ivar problem: why there is no value.
    """

    tool: str
    arguments: Message
    value: Any = None
    problem: str | None = None
    edited: bool = False


def script(messages: list[Message], tools: list[Message]) -> Answer:
    """What the model says next."""
    request = json.loads(str(next(message["content"] for message in messages if message["role"] == "user")))
    done = list(outcomes(messages))
    only = {"packages": request["packages"]} if request.get("packages") else {}

    inventory, report = _last(done, "list_distributions"), _last(done, "check_policy")
    if inventory is None:
        return calls(
            call("list_distributions", only),
            call("check_policy", only),
            text="First I read what is installed and check it against the policy.",
        )
    if inventory.value is None or report is None or report.value is None:
        return _give_up(request, inventory if inventory.value is None else report)
    if _last(done, "read_licence_file") is None and (unclear := _to_look_into(report.value)):
        return calls(
            *(call("read_licence_file", {"package": name}) for name in unclear),
            text="Some licences need a closer look: I read their texts.",
        )
    saved = _last(done, "save_document")
    if saved is None:
        document = {
            "project": request["project"],
            "summary": _summary(inventory.value, report.value),
            "recommendations": _recommendations(inventory.value, report.value, done),
        }
        return call("save_document", document | only)
    if saved.value is None:
        return _give_up(request, saved)
    return _deliver(request, done, saved.value) or _finish(request, done, saved.value)


def outcomes(messages: list[Message]) -> Iterator[Outcome]:
    """The tool calls of the conversation with what became of them, in order."""
    asked: dict[str, tuple[str, str]] = {}
    for message in messages:
        for one in message.get("tool_calls") or ():
            asked[one["id"]] = (one["function"]["name"], one["function"]["arguments"])
        if message["role"] == "tool":
            name, arguments = asked[message["tool_call_id"]]
            yield _outcome(name, arguments, str(message["content"]))


# ------------------------------------------------------------------------------------------------ details


def _outcome(tool: str, arguments: str, content: str) -> Outcome:
    edited = content.startswith(EDITED)
    if edited:
        arguments, _, content = content.removeprefix(EDITED).partition("\n")
    ran = cast("Message", json.loads(arguments))
    for prefix in (REJECTED, FAILED):
        if content.startswith(prefix):
            return Outcome(tool=tool, arguments=ran, problem=content.removeprefix(prefix), edited=edited)
    try:
        value: Any = json.loads(content)
    except ValueError:
        value = content  # a text
    return Outcome(tool=tool, arguments=ran, value=value, edited=edited)


def _last(done: list[Outcome], tool: str) -> Outcome | None:
    return next((outcome for outcome in reversed(done) if outcome.tool == tool), None)


def _to_look_into(report: Message) -> list[str]:
    notes = [*report["not_allowed"], *report["to_review"]]
    notes.sort(key=lambda note: note["licence"] != "unknown")
    return [str(note["package"]).rpartition(" ")[0] for note in notes[:MAX_LOOKED_INTO]]


def _summary(inventory: Message, report: Message) -> str:
    common = ", ".join(f"{licence} ({count})" for licence, count in _common(inventory)[:3])
    verdict = (
        "Nothing is forbidden by the policy."
        if not report["forbidden"]
        else f"{report['forbidden']} are forbidden and must go: {_names(report['not_allowed'])}."
    )
    look = f" {report['review']} need a look: {_names(report['to_review'])}." if report["review"] else ""
    installed = f"{inventory['packages']} packages are installed; the most frequent licences are {common}."
    return f"{installed} {verdict}{look}"


def _common(inventory: Message) -> list[tuple[str, int]]:
    return sorted(inventory["by_licence"].items(), key=lambda item: (-item[1], item[0]))


def _names(notes: list[Message], most: int = 6) -> str:
    names = [f"{note['package']} ({note['licence']})" for note in notes]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _recommendations(inventory: Message, report: Message, done: list[Outcome]) -> list[str]:
    advice = [
        f"Replace or remove {note['package']} ({note['licence']}): {note['reason']}."
        for note in report["not_allowed"][:5]
    ]
    advice += [f"Look at {note['package']}: {note['reason']}." for note in report["to_review"][:5]]
    for outcome in done:
        if outcome.tool == "read_licence_file" and isinstance(outcome.value, dict):
            files = ", ".join(cast("dict[str, str]", outcome.value))
            advice.append(
                f"Keep the licence text of {outcome.arguments['package']} ({files}) with what you ship."
            )
    if inventory["duplicates"]:
        advice.append(f"Clean up what is installed twice: {', '.join(inventory['duplicates'][:5])}.")
    if inventory["missing"]:
        advice.append(f"Find out why these are not installed: {', '.join(inventory['missing'][:5])}.")
    return advice or ["Check again with every change of the dependencies."]


def _deliver(request: Message, done: list[Outcome], saved: Message) -> Answer | None:
    """The next delivery that the request asks for and that nobody has decided about yet."""
    facts = (
        f"{saved['packages']} packages: {saved['allowed']} allowed, {saved['review']} to review, "
        f"{saved['forbidden']} forbidden"
    )
    if request.get("recipient") and _last(done, "send_email") is None:
        email = {
            "to": request["recipient"],
            "subject": f"Licence compliance of {request['project']}",
            "body": f"Hello,\n\nthe licence-compliance document of {request['project']} is ready.\n{facts}.\n"
            f"Document: {saved['document_id']}\n\nWritten by an agent, approved by a person.\n",
        }
        return call("send_email", email)
    if request.get("regulator") and _last(done, "submit_to_regulator") is None:
        submission = {
            "authority": request["regulator"],
            "document_id": saved["document_id"],
            "statement": f"Licence compliance of {request['project']}. {facts}.",
        }
        return call("submit_to_regulator", submission)
    return None


def _finish(request: Message, done: list[Outcome], saved: Message) -> Answer:
    delivered: list[str] = []
    said = [f"The document of {saved['packages']} packages is saved."]
    for tool, member in (("send_email", "to"), ("submit_to_regulator", "authority")):
        outcome = _last(done, tool)
        if outcome is None:
            continue
        if outcome.problem is not None:
            said.append(f"{tool} did not happen: {outcome.problem}")
            continue
        delivered.append(str(outcome.arguments[member]))
        said.append(
            f"{tool} went to {delivered[-1]}{', as a reviewer changed it' if outcome.edited else ''}."
        )
    return say(
        {
            "document_id": saved["document_id"],
            "project": request["project"],
            **{name: saved[name] for name in ("packages", "allowed", "review", "forbidden")},
            "delivered_to": delivered,
            "summary": " ".join(said),
        }
    )


def _give_up(request: Message, outcome: Outcome | None) -> Answer:
    problem = "a tool gave no answer" if outcome is None else f"{outcome.tool}: {outcome.problem}"
    return Answer(refusal=f"The document of {request['project']} can't be written: {problem}")
