"""Answers of the database become records here and nowhere else; a broken run does not spoil the others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from runhold.errors import StoreError
from runhold.loop.ports import Reserved, Usage
from runhold.store.records import read_claim, read_heartbeat, read_run, read_verdict

RUN: dict[str, Any] = {
    "id": "6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d8e",
    "user_id": "6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d8f",
    "tenant_id": None,
    "agent_type": "t",
    "fence": 3,
    "attempt": 1,
    "created_at": "2026-11-22T10:00:00.123456+00:00",
    "input": {"a": None},
    "state": {},
    "limits": {"max_steps": 25, "max_cost_usd": None},
    "active_ms": 0,
    "cost_usd": 0,
    "cancel_requested": False,
    "approval_tools": [],
    "outage_since": None,
    "steps": [
        {
            "step_number": 1,
            "definition_id": "6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d80",
            "message": {"role": "assistant", "content": None},
            "injected": None,
            "max_output_tokens": None,
            "streamed": True,
            "landing": None,
            "finish_reason": "stop",
            "input_tokens": 10,
            "output_tokens": 5,
            "cached_tokens": 0,
            "usage_estimated": True,
            "cost_usd": 0.0001,
            "latency_ms": None,
        }
    ],
    "calls": [
        {
            "step_number": 1,
            "position": 0,
            "call_id": "c",
            "tool_name": "x",
            "input": {"k": None},
            "effect": "read",
            "status": "succeeded",
            "output": {"v": None},
            "shown": None,
            "error": None,
            "edited": False,
            "attempt": 1,
        }
    ],
    "reviews": [
        {
            "id": "6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d81",
            "step_number": 1,
            "position": 0,
            "kind": "approval",
            "status": "approved",
            "used": False,
            "comment": None,
            "answer": None,
        }
    ],
    "messages": [{"id": "6f1c0b1e-8a7b-4c8e-9d5b-3f2b1a0c9d82", "content": "hello"}],
}


def test_a_run_is_read_whole() -> None:
    [run] = read_claim({"runs": [RUN], "next_due": None, "more": False}).runs
    assert run.created_at == datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)
    assert run.limits == {"max_steps": 25, "max_cost_usd": None}
    assert run.tenant_id is None
    step = run.steps[0]
    assert step.usage == Usage(input_tokens=10, output_tokens=5, cached_tokens=0, estimated=True)
    assert step.message == {"role": "assistant", "content": None}  # nulls within values are the value
    assert step.injected == ()
    call = run.calls[0]
    assert (call.input, call.output, call.status) == ({"k": None}, {"v": None}, "succeeded")
    assert run.reviews[0].status == "approved"
    assert run.messages[0].content == "hello"


def test_absent_and_null_mean_the_same() -> None:
    for name in ("steps", "calls", "reviews", "messages", "state", "active_ms", "cost_usd", "approval_tools"):
        absent = {key: value for key, value in RUN.items() if key != name}
        assert read_run(absent) == read_run({**RUN, name: None})


def test_one_broken_run_does_not_spoil_the_others() -> None:
    other = str(uuid4())
    broken = {**RUN, "id": other, "calls": [{"step_number": 1, "status": "confused"}]}
    claim = read_claim({"runs": [broken, RUN], "next_due": "2026-11-22T10:00:00Z", "more": True})
    assert [str(run.id) for run in claim.runs] == [RUN["id"]]
    assert [str(run.id) for run in claim.unreadable] == [other]
    assert (claim.unreadable[0].fence, claim.unreadable[0].problem) == (
        3,
        "Invalid enum value 'confused' - at `$.calls[0].status`",
    )
    assert claim.next_due == datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_a_truncated_run_comes_without_its_lists() -> None:
    bare = {key: value for key, value in RUN.items() if key not in ("steps", "calls", "reviews", "messages")}
    claim = read_claim({"runs": [{**bare, "truncated": True}]})
    assert not claim.runs
    assert (str(claim.truncated[0].id), claim.truncated[0].fence, claim.truncated[0].steps) == (
        RUN["id"],
        3,
        [],
    )


@pytest.mark.parametrize("answer", [None, [], "x", {"runs": [{}]}, {"runs": ["x"]}, {"next_due": "soon"}])
def test_an_answer_that_is_no_claim_is_refused(answer: Any) -> None:
    with pytest.raises(StoreError):
        read_claim(answer)


def test_a_log_of_another_shape_says_what_is_wrong() -> None:
    with pytest.raises(StoreError, match="fence"):
        read_run({**RUN, "fence": "three"})


def test_operators_settings_may_be_null() -> None:
    beat = read_heartbeat({"lease_ms": 1, "types": {"t": {"enabled": True, "approval_tools": None}}})
    assert beat.types["t"].approval_tools == ()


def test_an_unknown_verdict_is_refused() -> None:
    with pytest.raises(StoreError, match="perhaps"):
        read_verdict({"verdict": "perhaps"})


def test_a_plain_ok_costs_nothing() -> None:
    plain = {"verdict": "ok", "code": None, "started": [], "messages": None, "cancel_requested": False}
    assert read_verdict(plain) is read_verdict({"verdict": "ok"})
    assert read_verdict({**plain, "cancel_requested": True}).cancel_requested
    assert not read_verdict(plain).budgeted
    assert read_verdict({**plain, "budgeted": True}) is read_verdict({"verdict": "ok", "budgeted": True})
    assert read_verdict({**plain, "budgeted": True}).budgeted


def test_what_budgets_grant_is_read() -> None:
    granted = {"granted": True, "tokens": 600, "usd": None}
    read = read_verdict({"verdict": "ok", "budgeted": True, "reserved": granted})
    assert (read.budgeted, read.reserved) == (True, Reserved(granted=True, tokens=600))
    refused = {"granted": False, "then": "wait", "delay_ms": 7000, "detail": {"reason": "exceeded"}}
    assert read_verdict({"verdict": "continue", "reserved": refused}).reserved == Reserved(
        granted=False, then="wait", delay_ms=7000, detail={"reason": "exceeded"}
    )
    with pytest.raises(StoreError, match="then"):
        read_verdict({"verdict": "ok", "reserved": {**refused, "then": "perhaps"}})


def test_a_run_is_budgeted_if_the_claim_says_so() -> None:
    assert not read_run(RUN).budgeted
    assert read_run({**RUN, "budgeted": True}).budgeted
