"""The log against the model server: every recorded step answers a request that it received, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg.rows import dict_row
from supabase_project import Project, began_at

from runhold.loop import RecordedRun, rebuild_request
from runhold.models.request import encode
from runhold.store.records import read_recorded_run
from runhold.store.redact import Vault, open_recorded
from runhold.testing import ScriptedModel

_RUNS = """
select x.id, x.user_id, x.input_data as input, runhold.steps_json(x.id) as steps, runhold.calls_json(x.id) as calls,
  (select jsonb_agg(to_jsonb(d)) from public.agent_definitions d
   where d.id in (select s.definition_id from public.agent_steps s where s.execution_id = x.id)) as definitions
from public.agent_executions x
where x.agent_type = any (%s) and x.created_at >= %s and exists (select from public.agent_steps s where s.execution_id = x.id)
"""


def recorded_runs(
    stack: Project, agent_types: Iterable[str], vault: Vault | None = None
) -> dict[str, RecordedRun]:
    """Every run of these types that took a step, from its rows; ``vault`` opens what is redacted there."""
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        rows = cursor.execute(_RUNS, [list(agent_types), began_at(stack)]).fetchall()
    return {str(row["id"]): open_recorded(read_recorded_run(row), row.pop("user_id"), vault) for row in rows}


def require_rebuildable(
    stack: Project, model: ScriptedModel, *agent_types: str, vault: Vault | None = None
) -> int:
    """Rebuild the request of every step of every run of these types, all of whose steps ``model`` decided.

    :return: how many steps were compared.
    """
    received = {request.raw for request in model.requests}
    count = 0
    for run_id, run in recorded_runs(stack, agent_types, vault).items():
        for step in run.steps:
            sent = rebuild_request(run, step.step_number)
            rebuilt = encode(sent.body, stream=sent.stream)
            assert rebuilt in received, (
                f"step {step.step_number} of run {run_id}: nobody sent {rebuilt.decode()!r}\n"
                f"of {len(received)} requests"
            )
            count += 1
    return count
