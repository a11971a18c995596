"""Were the approvals for what was done? Asked of the exported rows alone.

``runhold.input_hash`` (``supabase/migrations/…_store.sql``) is SHA-256 over the ``jsonb`` text of tool, arguments,
step, position and the tool's parameter schema; all of them are in the export, so the hash can be made anew here. It
can't where the tools were withheld: exports of people, not of the service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from runhold.audit.exact import Number, Object, Value, canonical, jsonb_text
from runhold.audit.findings import Finding, changed


@dataclass(frozen=True, kw_only=True)
class Approvals:
    """How many reviews could be checked, and what was found. The counters are :class:`Report`'s."""

    findings: tuple[Finding, ...]
    hashes_checked: int
    hashes_unchecked: int
    used_checked: int


def input_hash(call: Object, proposed: Value, parameters: Value) -> str:
    """What ``runhold.input_hash`` answers for a call with these arguments, of a tool with these parameters."""
    asked: list[Value] = [call["tool_name"], proposed, call["step_number"], call["position"], parameters]
    return hashlib.sha256(jsonb_text(asked).encode("utf-8", "surrogatepass")).hexdigest()


def check_approvals(records: Sequence[Object]) -> Approvals:
    """Check every review of the run, and every approval that was used."""
    rows: dict[str, list[Object]] = {}
    for record in records:
        row = record.get("row")
        if isinstance(row, dict):
            rows.setdefault(str(record.get("kind")), []).append(row)
    calls = {str(call.get("id")): call for call in rows.get("tool_call", [])}
    definitions = {str(each.get("id")): each for each in rows.get("definition", [])}
    definition_of = {
        _digits(step.get("step_number")): definitions.get(str(step.get("definition_id")), {})
        for step in rows.get("step", [])
    }
    findings: list[Finding] = []
    checked = unchecked = 0
    used: dict[str, list[Object]] = {}
    for review in rows.get("review", []):
        call = calls.get(str(review.get("tool_call_id")))
        if call is None:
            findings.append(
                changed(f"Review {review.get('id')} asks about a call that is not in the export.")
            )
            continue
        definition = definition_of.get(_digits(call.get("step_number")), {})
        if "tools" not in definition:
            unchecked += 1
        elif review.get("input_hash") == input_hash(
            call, review.get("proposed_input"), _parameters(definition, call["tool_name"])
        ):
            checked += 1
        else:
            findings.append(
                changed(
                    f"Review {review.get('id')} did not ask about what it shows: its input_hash is another."
                )
            )
        if review.get("status") == "approved" and not _is_decided(review, rows.get("decision", [])):
            findings.append(
                changed(f"Review {review.get('id')} is approved, but not by as many people as it needed.")
            )
        if _lets_run(review):
            used.setdefault(str(review.get("tool_call_id")), []).append(review)
    for call_id, reviews in used.items():
        latest = max(reviews, key=lambda review: str(review["used_at"]))
        edit = latest.get("edited_input")
        approved = latest.get("proposed_input") if edit is None else edit
        if canonical(approved) != canonical(calls[call_id].get("tool_input")):
            findings.append(
                changed(f"Call {call_id} ran with other arguments than review {latest.get('id')} approved.")
            )
    return Approvals(
        findings=tuple(findings),
        hashes_checked=checked,
        hashes_unchecked=unchecked,
        used_checked=sum(map(len, used.values())),
    )


def _parameters(definition: Object, tool_name: Value) -> Value:
    tools = definition["tools"]
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("name") == tool_name:
            return tool.get("parameters")
    return None


def _is_decided(review: Object, decisions: Sequence[Object]) -> bool:
    """Enough people approved exactly what the review says in the end; whom of them was erased still counts."""
    approving = [
        decision
        for decision in decisions
        if decision.get("review_id") == review.get("id")
        and decision.get("decision") == "approved"
        and canonical(decision.get("edited_input")) == canonical(review.get("edited_input"))
    ]
    needed = _digits(review.get("approvals_needed"))
    return len(approving) >= (int(needed) if needed.isdigit() else 1)


def _lets_run(review: Object) -> bool:
    """Is this a used approval of a call, or of calling once more?"""
    if review.get("used_at") is None:
        return False
    answer = review.get("answer")
    again = isinstance(answer, dict) and answer.get("outcome") == "again"
    return review.get("kind") == "approval" or (review.get("kind") == "unknown_outcome" and again)


def _digits(value: Value) -> str:
    return value.digits if isinstance(value, Number) else ""
