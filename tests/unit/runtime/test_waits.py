"""What the log says of runs that wait for something missing."""

from __future__ import annotations

from uuid import uuid4

import pytest

from runhold.runtime.waits import Waits

TOOL = {"waiting_for": "tool", "tool": "send", "message": "The run waits for a worker with the tool send."}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def test_each_cause_is_told_at_once_and_counted_later(said: pytest.LogCaptureFixture) -> None:
    waits, first, second = Waits(), uuid4(), uuid4()
    for run in (first, second, first):
        waits.note("clerk", run, TOOL)
    waits.note("porter", first, TOOL)
    assert [record.getMessage() for record in said.records] == [
        f"a run of {agent} waits for tool send: {TOOL['message']}" for agent in ("clerk", "porter")
    ]
    said.clear()
    waits.report()
    assert [record.getMessage() for record in said.records] == [
        f"2 runs wait for tool send (clerk): {TOOL['message']}",
        f"1 run waits for tool send (porter): {TOOL['message']}",
    ]


def test_a_cause_that_is_over_is_told_no_more_and_is_news_when_it_is_back(
    said: pytest.LogCaptureFixture,
) -> None:
    waits = Waits()
    waits.note("clerk", uuid4(), TOOL)
    waits.report()
    said.clear()
    waits.report()
    assert said.records == []
    waits.note("clerk", uuid4(), TOOL)
    assert len(said.records) == 1


@pytest.mark.parametrize("detail", [None, {}, {"message": "x"}])
def test_what_waits_for_nothing_is_not_told(
    said: pytest.LogCaptureFixture, detail: dict[str, str] | None
) -> None:
    Waits().note("clerk", uuid4(), detail)
    assert said.records == []


@pytest.mark.parametrize(
    ("what", "level"), [("budget", "INFO"), ("worker", "WARNING"), ("user_access", "WARNING")]
)
def test_what_somebody_has_set_is_no_warning(said: pytest.LogCaptureFixture, what: str, level: str) -> None:
    Waits().note("clerk", uuid4(), {"waiting_for": what, "message": "m"})
    (record,) = said.records
    assert record.levelname == level
