"""What a worker process logs: lines for people or for machines, never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import leaky
import pytest
from rebuilding import require_rebuildable
from supabase_project import Project
from town import Town, eventually

from runhold.testing import ScriptedModel


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.usefixtures("signs_tokens")
async def test_secrets_are_in_no_line_whoever_logs_them(
    stack: Project, town: Town, log_format: str, tmp_path: Path
) -> None:
    secrets = {**stack.env(), "OPENAI_API_KEY": "sk-planted-0123456789"}
    async with ScriptedModel(leaky.script) as model:
        town.model_url = model.base_url
        worker = town.worker(
            "--log-format", log_format, module=leaky.__file__, OPENAI_API_KEY=secrets["OPENAI_API_KEY"]
        )
        user = await town.person()
        await eventually(lambda: "worker ready" in worker.log, "the worker")
        run_id = await town.submit(user, agent_type="leaky", input_data={})
        await town.until(user, run_id, "completed")
        assert await worker.terminate() == 0
        assert require_rebuildable(stack, model, "leaky") >= 2

    for name in leaky.SECRETS:
        assert secrets[name] not in worker.log, name
    assert worker.log.count("[secret]") >= len(leaky.SECRETS) + 2
    lines = worker.log.splitlines()
    if log_format == "json":
        said = [json.loads(line) for line in lines]
        [leaked] = [line for line in said if "the keys are" in line["message"]]
        assert (leaked["run_id"], leaked["level"]) == (run_id, "info")
        assert "Traceback" in next(line["trace"] for line in said if line["logger"] == "somebody.else")
    else:
        assert any("run completed" in line and f"run_id={run_id}" in line for line in lines)
