"""Who holds the project's secret key: sees what no person is shown, such as what agents are told."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from supabase import AsyncClient

from runhold.cli.backend import Backend, Row
from runhold.cli.project import Project
from runhold.environment.variables import REDACT_KEY, require
from runhold.errors import ConfigError
from runhold.loop import RecordedRun
from runhold.store.client import Access, connect
from runhold.store.records import read_recorded_run
from runhold.store.redact import RedactKeyMissing, Vault, open_recorded, split_keys

PAGE_ROWS: Final = 500
"""Below what projects answer at once (1,000 rows unless set otherwise)."""

TIMEOUT_S: Final = 30.0

_STEPS: Final = (
    "step_number, definition_id, message, injected, max_output_tokens, streamed, landing, finish_reason, input_tokens, "
    "output_tokens, cached_tokens, usage_estimated, cost_usd, latency_ms"
)
_CALLS: Final = (
    "step_number, position, call_id, tool_name, input:tool_input, effect, status, output:tool_output, shown, error, "
    "edited, attempt, latency_ms"
)
_DEFINITIONS: Final = "id, agent_type, version, model, instructions, tools, params, limits"


class Service:
    """Calls with the secret key, past row level security."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def keep_signed_in(self) -> None:
        """Nothing to do: keys do not end."""


class ServiceBackend(Backend):
    """What the commands ask as the service."""

    async def recorded_run(self, execution_id: str) -> RecordedRun:
        """All that requests to the model were made of.

        :raises NotFound: there is no such run.
        :raises ConfigError: the key to its redacted fields is not here.
        """
        run = await self.run(execution_id)
        steps = await self._all("agent_steps", _STEPS, execution_id, "step_number")
        calls = await self._all("agent_tool_calls", _CALLS, execution_id, "step_number", "position")
        ids = sorted({str(step["definition_id"]) for step in steps})
        definitions = await self._rows(self._table("agent_definitions").select(_DEFINITIONS).in_("id", ids))
        recorded = read_recorded_run(
            {"input": run["input_data"], "steps": steps, "calls": calls, "definitions": definitions}
        )
        require(os.environ, REDACT_KEY)
        keys = split_keys(os.environ.get(REDACT_KEY, ""))
        try:
            return open_recorded(recorded, UUID(run["user_id"]), Vault(keys) if keys else None)
        except RedactKeyMissing as error:
            raise ConfigError(
                f"The run holds redacted fields, and what its model was asked is made of them: set {REDACT_KEY} to "
                "the key of its workers."
            ) from error

    async def prune(self, age: timedelta, limit: int) -> int:
        """Delete the oldest runs that ended longer ago than ``age``, at most ``limit``. Answers how many there were."""
        seconds = age.total_seconds()
        return await self._rpc("agent_prune", {"older_than": f"{seconds} seconds", "limit": limit})

    async def _all(self, table: str, columns: str, execution_id: str, *order: str) -> list[Row]:
        found: list[Row] = []
        while True:
            query: Any = self._table(table).select(columns).eq("execution_id", execution_id)
            for column in order:
                query = query.order(column)
            page = await self._rows(query.range(len(found), len(found) + PAGE_ROWS - 1))
            found += page
            if len(page) < PAGE_ROWS:
                return found


@asynccontextmanager
async def as_service(project: Project) -> AsyncGenerator[ServiceBackend, None]:
    """The project, called with its secret key.

    :raises ConfigError: there is no such key here.
    """
    client = await connect(project.url, Access(project.secret_key), timeout_s=TIMEOUT_S, connections=2)
    try:
        yield ServiceBackend(Service(client))
    finally:
        await client.postgrest.aclose()
