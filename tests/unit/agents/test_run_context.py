"""What tools see of their run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from runhold import RunContext
from runhold.errors import ConfigError


def test_it_can_be_built_in_tests_of_tools() -> None:
    ctx = RunContext(execution_id=uuid4(), user_id=uuid4())
    ctx.state["x"] = 1
    ctx.emit("seen")
    assert (ctx.tenant_id, ctx.state, ctx.fence) == (None, {"x": 1}, 0)


def test_supabase_is_made_once_for_the_runs_user() -> None:
    made: list[Any] = []

    def client(user: Any, tenant: str | None) -> Any:
        made.append((user, tenant))
        return object()

    user = uuid4()
    ctx = RunContext(execution_id=uuid4(), user_id=user, tenant_id="acme", user_client=client)
    assert ctx.supabase is ctx.supabase
    assert made == [(user, "acme")]


def test_supabase_without_a_signing_key_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="signing key"):
        _ = RunContext(execution_id=uuid4(), user_id=uuid4()).supabase


def test_events_carry_a_payload() -> None:
    told: list[tuple[str, Mapping[str, Any]]] = []
    ctx = RunContext(
        execution_id=uuid4(), user_id=uuid4(), emit=lambda event, payload: told.append((event, payload))
    )
    ctx.emit("found", {"n": 1})
    ctx.emit("done")
    assert told == [("found", {"n": 1}), ("done", {})]


def test_log_lines_name_run_and_step(caplog: pytest.LogCaptureFixture) -> None:
    ctx = RunContext(execution_id=uuid4(), user_id=uuid4(), step=3)
    with caplog.at_level(logging.INFO, "runhold.tools"):
        ctx.logger.info("hello")
    assert (caplog.records[0].run_id, caplog.records[0].step) == (str(ctx.execution_id), 3)  # type: ignore
