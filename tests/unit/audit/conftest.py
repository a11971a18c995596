"""A small export to harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runhold.audit import Sealed, seal
from runhold.audit.approvals import input_hash
from runhold.audit.exact import read

Records = list[dict[str, Any]]

PARAMETERS = {"type": "object", "properties": {"to": {"type": "string"}}}
ABOUT: dict[str, Any] = {"execution_id": "run-1", "exported_at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def records() -> Records:
    """A run whose one call was approved, with an edit, by a person."""
    call = {
        "id": "call-1",
        "tool_name": "send",
        "tool_input": {"to": "bob"},
        "step_number": 1,
        "position": 0,
        "tool_output": {"amount": 0.1, "text": "Ünï \u2028 🦀"},
    }
    asked: Any = read(json.dumps({"call": call, "proposed": {"to": "ada"}, "parameters": PARAMETERS}))
    review = {
        "id": "review-1",
        "tool_call_id": "call-1",
        "kind": "approval",
        "status": "approved",
        "approvals_needed": 1,
        "proposed_input": {"to": "ada"},
        "edited_input": {"to": "bob"},
        "input_hash": input_hash(asked["call"], asked["proposed"], asked["parameters"]),
        "answer": None,
        "used_at": "2026-01-01T00:00:00+00:00",
    }
    decision = {
        "review_id": "review-1",
        "decision": "approved",
        "edited_input": {"to": "bob"},
        "reviewer_id": None,
    }
    rows = [
        ("execution", {"id": "run-1", "status": "completed"}),
        ("definition", {"id": "definition-1", "tools": [{"name": "send", "parameters": PARAMETERS}]}),
        ("step", {"step_number": 1, "definition_id": "definition-1"}),
        ("tool_call", call),
        ("review", review),
        ("decision", decision),
        ("event", {"kind": "completed"}),
    ]
    return [{"kind": kind, "row": row} for kind, row in rows]


@pytest.fixture
def sealing() -> Callable[[Records], Sealed]:
    return lambda records: seal(dict(ABOUT), [json.dumps(record) for record in records])


@pytest.fixture
def sealed(records: Records, sealing: Callable[[Records], Sealed]) -> Sealed:
    return sealing(records)
