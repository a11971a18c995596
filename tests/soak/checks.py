"""What must be true besides the rules of the chaos kit: whole plans, failures with a good reason, healthy workers."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from runhold.testing.chaos import WorkerProcess

GOOD_REASONS = {
    "STOPPED_BY_REVIEWER",
    "TOOL_FAILED",
    "TOTAL_TIMEOUT",
    "STEP_TIMEOUT",
    "MODEL_ERROR",
    "WORKER_LOST",
}
"""Why a run may fail in this weather. All others are about limits and mistakes that its plan does not make."""

UNEXPECTED = re.compile(r"^(?!.* tool \w+ raised ).*\nTraceback ", re.MULTILINE)
"""A traceback that is not about a tool: those break on purpose."""

CALLS = """
select x.id::text as run, x.status, x.error, x.error_detail, x.step_count,
  (select coalesce(jsonb_agg(c.tool_name order by c.step_number, c.position), '[]')
   from agent_tool_calls c where c.execution_id = x.id) as calls
from agent_executions x where x.id = any (%s::uuid[])"""

STORY = """
select x.id::text, jsonb_build_object(
  'run', to_jsonb(x),
  'steps', (select jsonb_agg(s order by s.step_number) from agent_steps s where s.execution_id = x.id),
  'calls', (select jsonb_agg(c order by c.step_number, c.position) from agent_tool_calls c
            where c.execution_id = x.id),
  'reviews', (select jsonb_agg(r order by r.requested_at) from agent_reviews r where r.execution_id = x.id),
  'events', (select jsonb_agg(e order by e.id) from agent_events e where e.execution_id = x.id))
from agent_executions x where x.id = any (%s::uuid[])"""


def broken_promises(database_url: str, plans: Mapping[str, Sequence[Any] | None]) -> Iterator[str]:
    """Completed runs that did not do their plan, and failures that the weather does not explain."""
    with psycopg.connect(database_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(CALLS, [[*plans]]).fetchall()
    for row in rows:
        plan = plans[row["run"]]
        planned = [tool for move in plan or [] for tool, _ in move["calls"]]
        if row["status"] == "completed" and plan is not None and row["calls"] != planned:
            yield f"a completed run that did not do its plan: {row['calls']} of {planned} (run {row['run']})"
        if row["status"] == "failed" and row["error"] not in GOOD_REASONS:
            yield f"a run that failed without need: {row['error']} {row['error_detail']} (run {row['run']})"


def worker_trouble(workers: Sequence[WorkerProcess]) -> Iterator[str]:
    """Workers that ended by themselves, unless nothing answered when they started, and exceptions nobody expected."""
    for worker in workers:
        log = worker.log
        ended_well = worker.running or worker.status == -signal.SIGKILL
        if not ended_well and "Nothing answers at SUPABASE_URL" not in log:
            yield f"a worker that ended by itself: {worker.name}, status {worker.status}"
        if UNEXPECTED.search(log):
            yield f"an exception that nobody expected: {worker.name}"


def write_stories(database_url: str, runs: Sequence[str], folder: Path) -> None:
    """All that the database has of these runs, a file each, for whoever looks into it."""
    with psycopg.connect(database_url) as connection:
        for run, story in connection.execute(STORY, [[*runs]]).fetchall():
            (folder / f"run-{run}.json").write_text(json.dumps(story, indent=1))
