"""What ``redact`` names is in no row and no log, and the run goes on with it: after a decision, a crash, a new key."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import teller
from cryptography.fernet import Fernet
from psycopg import sql
from rebuilding import require_rebuildable
from supabase_project import Project as SupabaseProject
from town import Town, eventually

from runhold.cli.project import Project
from runhold.cli.service import as_service
from runhold.errors import ConfigError
from runhold.store.redact import Vault
from runhold.testing import ScriptedModel

PLANTED = (teller.CARD, teller.STREET)


def tables_with(stack: SupabaseProject, text: str) -> list[str]:
    """Every table of the database with ``text`` in a row."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        names = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname in ('public', 'runhold', 'auth', 'realtime')"
        ).fetchall()
        assert ("public", "agent_steps") in names
        found: list[str] = []
        for schema, table in names:
            name = sql.Identifier(schema, table)
            query = sql.SQL("select exists (select from {} t where strpos(t::text, %s) > 0)").format(name)
            if connection.execute(query, [text]).fetchone() == (True,):
                found.append(f"{schema}.{table}")
        return found


async def test_redacted_values_are_in_no_row_and_no_log_of_a_run_that_survives(
    stack: SupabaseProject, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, newer = (Fernet.generate_key().decode() for _ in range(2))
    async with ScriptedModel(teller.script) as model:
        town.model_url = model.base_url
        first = town.worker(module=teller.__file__, RUNHOLD_REDACT_KEY=key)
        user, reviewer = await town.person(), await town.reviewer(agent_type="teller")
        await eventually(lambda: "worker ready" in first.log, "the worker")
        run_id = await town.submit(user, agent_type="teller", input_data={})
        await town.until(user, run_id, "awaiting_review")

        reviews: Any = reviewer.table("agent_reviews")
        (review,) = (await reviews.select("*").eq("execution_id", run_id).execute()).data
        assert review["summary"] == (
            'charge(card_number=[redacted], address={"city":"Ulm","street":"[redacted]"}, amount=5)'
        )
        edited = {**review["proposed_input"], "amount": 6}  # the tokens come back as they are
        await reviews.update({"status": "approved", "edited_input": edited}).eq("id", review["id"]).execute()

        await town.holding("book")
        first.kill()
        town.worker(module=teller.__file__, RUNHOLD_REDACT_KEY=f"{newer},{key}")
        town.let_go("book")
        await town.until(user, run_id, "completed")

        assert ["charge", f"{teller.CARD} {teller.STREET} 6"] in town.ledger
        booked = [text for kind, text in town.ledger if kind == "book"]
        assert (set(booked), len(booked) >= 2) == ({teller.CARD}, True), "begun by both workers"
        assert len({text for kind, text in town.ledger if kind == "key"}) == 1, "the same idempotency key"
        assert require_rebuildable(stack, model, "teller", vault=Vault([key, newer])) == 5

    async with as_service(Project(environment=stack.env())) as service:
        with pytest.raises(ConfigError, match="set RUNHOLD_REDACT_KEY to the key of its workers"):
            await service.recorded_run(run_id)
        monkeypatch.setenv("RUNHOLD_REDACT_KEY", f"{newer}, {key}")
        recorded = await service.recorded_run(run_id)
    assert recorded.calls[1].input["card_number"] == teller.CARD

    for planted in PLANTED:
        assert any(planted.encode() in request.raw for request in model.requests), "the model saw it"
        assert tables_with(stack, planted) == []
        for worker in town.workers:
            assert planted not in worker.log
    assert any("no bank knows '[redacted]'" in worker.log for worker in town.workers)
    calls: Any = (await user.table("agent_tool_calls").select("*").eq("execution_id", run_id).execute()).data
    (failed,) = [row for row in calls if row["tool_name"] == "verify"]
    assert failed["error"] == "ValueError: no bank knows '[redacted]'"
