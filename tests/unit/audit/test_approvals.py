"""A chain that is whole does not mean that approvals were for what was done: the rows must say so, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runhold.audit import Report, Sealed, verify

Records = list[dict[str, Any]]
Rows = dict[str, dict[str, Any]]


@pytest.fixture
def check(
    records: Records, sealing: Callable[[Records], Sealed]
) -> Callable[[Callable[[Rows], Any]], Report]:
    """Change rows by their kind, seal them anew and verify."""

    def checked(change: Callable[[Rows], Any]) -> Report:
        change({record["kind"]: record["row"] for record in records})
        return verify(sealing(records).content)

    return checked


Check = Callable[[Callable[[Rows], Any]], Report]


def test_what_was_approved_is_what_ran(check: Check) -> None:
    report = check(lambda rows: None)
    assert report.harm is None
    assert (report.hashes_checked, report.hashes_unchecked, report.approvals_checked) == (1, 0, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows["review"].update(proposed_input={"to": "eve"}), "did not ask about what it shows"),
        (lambda rows: rows["review"].update(input_hash="0" * 64), "did not ask about what it shows"),
        (lambda rows: rows["tool_call"].update(position=1), "did not ask about what it shows"),
        (lambda rows: rows["tool_call"].update(tool_name="look"), "did not ask about what it shows"),
        (
            lambda rows: rows["definition"]["tools"][0].update(parameters={}),
            "did not ask about what it shows",
        ),
        (lambda rows: rows["tool_call"].update(tool_input={"to": "eve"}), "ran with other arguments"),
        (lambda rows: rows["review"].update(tool_call_id="call-2"), "a call that is not in the export"),
        (lambda rows: rows["decision"].update(decision="rejected"), "not by as many people"),
        (lambda rows: rows["decision"].update(edited_input=None), "not by as many people"),
        (lambda rows: rows["review"].update(approvals_needed=2), "not by as many people"),
    ],
)
def test_what_does_not_fit_is_told(check: Check, change: Callable[[Rows], Any], says: str) -> None:
    report = check(change)
    assert report.harm == "changed"
    assert any(says in finding.text for finding in report.findings)


def test_without_the_tools_hashes_are_counted_as_unchecked(check: Check) -> None:
    report = check(lambda rows: rows["definition"].pop("tools"))
    assert (report.harm, report.hashes_checked, report.hashes_unchecked) == (None, 0, 1)


def test_an_answer_that_it_happened_lets_nothing_run(check: Check) -> None:
    def happened(rows: Rows) -> None:
        rows["review"].update(kind="unknown_outcome", edited_input=None, answer={"outcome": "happened"})
        rows["decision"].update(edited_input=None)

    assert check(happened).approvals_checked == 0


def test_calling_once_more_is_for_the_arguments_that_were_shown(check: Check) -> None:
    def again(rows: Rows) -> None:
        rows["review"].update(kind="unknown_outcome", edited_input=None, answer={"outcome": "again"})
        rows["decision"].update(edited_input=None)

    assert "ran with other arguments" in check(again).findings[0].text
