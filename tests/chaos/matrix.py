"""Every crash point, effect and gate in one batch: a cell each, all at the same time, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import courier
import psycopg
from rebuilding import require_rebuildable
from supabase_project import Project
from town import Town

from runhold.testing import ScriptedModel
from runhold.testing.chaos import (
    CrashPoint,
    Effects,
    Fleet,
    ForkServer,
    Reviewer,
    Verdict,
    eventually,
    judge,
)
from runhold.testing.chaos.points import Action

Kind = Literal["read", "idempotent", "unsafe"]

KINDS: tuple[Kind, ...] = ("read", "idempotent", "unsafe")

LEASE_S = 10
"""Long enough that no worker loses it because the machine is busy; others work while a dead one's lease runs out."""

WORKERS = 6
"""One-slot workers at a time; whoever is killed is replaced."""

PATIENCE_S = 240
"""For all runs together. A batch takes a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run, and what is done to its worker.

    ``skip``: how often the point passes first. ``answer``: what the reviewer says about an unknown outcome.
    """

    point: CrashPoint
    effect: Kind
    gated: bool = False
    action: Action = "kill"
    skip: int = 0
    answer: Literal["happened", "again"] = "happened"

    def __str__(self) -> str:
        words = [
            str(self.point).replace(" ", "_"),
            *(["second"] if self.skip else []),
            self.effect,
            "gated" if self.gated else "free",
            *([self.answer] if self.answer == "again" else []),
        ]
        return "-".join(words if self.action == "kill" else [self.action, *words])


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What became of a cell's run.

    ``times``: how often its effect arrived, ``keys``: under how many keys. ``approvals``, ``doubts``: how often people were
    asked before, and about an unknown outcome. ``claims``: how often it was claimed.
    """

    status: str
    fired: int
    times: int
    keys: int
    approvals: int
    doubts: int
    claims: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What became of all of them.

    ``changed``: the cells whose runs changed after they had ended, when the suspended workers went on.
    """

    cells: dict[Cell, Observed]
    changed: list[Cell]
    verdict: Verdict
    logs: str


def run_batch(stack: Project, forks: ForkServer, cells: Sequence[Cell], folder: Path) -> Batch:
    """Run the cells until every run has ended; then let suspended workers go on until they are back."""
    return asyncio.run(_run_batch(stack, forks, cells, folder))


async def _run_batch(stack: Project, forks: ForkServer, cells: Sequence[Cell], folder: Path) -> Batch:
    async with ScriptedModel(courier.script) as model, Effects() as effects:
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        options = ("--capacity", "1", "--lease", str(LEASE_S))
        async with Fleet(forks, courier.__file__, *options, folder=folder, env=env, effects=effects) as fleet:
            town = Town(stack, folder, model.base_url, forks)
            runs = dict(zip(await _submit(town, cells), cells, strict=True))
            armed = {
                cell: fleet.points.arm(cell.point, cell.action, run=run, skip=cell.skip)
                for run, cell in runs.items()
            }

            def decide(review: dict[str, Any]) -> dict[str, Any]:
                if review["kind"] == "approval":
                    return {"status": "approved"}
                outcome = runs[review["execution_id"]].answer
                return {"status": "approved", "answer": {"outcome": outcome}}

            async with Reviewer(await town.reviewer(agent_type="courier"), decide):
                fleet.keep(WORKERS)
                with contextlib.suppress(AssertionError):  # the cells whose runs have not ended say so
                    await eventually(lambda: _all_ended(stack, runs), "the end", patience_s=PATIENCE_S)
            before = _stories(stack, runs)
            await _resume(fleet)
            after = _stories(stack, runs)
            observed = {
                cell: Observed(
                    **_counts(after[run]),
                    fired=len(armed[cell].fired),
                    times=sum(effect.times for effect in effects.all(run)),
                    keys=len(effects.all(run)),
                )
                for run, cell in runs.items()
            }
            require_rebuildable(stack, model, "courier")
            return Batch(
                cells=observed,
                changed=[cell for run, cell in runs.items() if before[run] != after[run]],
                verdict=judge(stack.database_url, runs, effects, thrown=fleet.thrown),
                logs=fleet.logs,
            )


async def _submit(town: Town, cells: Sequence[Cell]) -> list[str]:
    """Insert the runs, before any worker lives: their ids."""
    user = await town.person()
    courier.make_known(town.stack.database_url)
    with psycopg.connect(town.stack.database_url, autocommit=True) as connection:
        connection.execute("delete from agent_executions where agent_type = 'courier'")  # another model's
    rows = [
        {"agent_type": "courier", "input_data": {"tool": cell.effect, "gated": cell.gated}} for cell in cells
    ]
    return [str(row["id"]) for row in (await user.table("agent_executions").insert(rows).execute()).data]


async def _resume(fleet: Fleet) -> None:
    """Let the suspended go on, and what they had sent arrive, until each has found that it is dead, and is back."""
    suspended = [worker for worker in fleet.living if worker.suspended]
    fleet.points.disarm_all()
    for worker in suspended:
        worker.resume()
    for worker in suspended:
        await eventually(
            lambda worker=worker: worker.log.count("worker ready") > 1, f"the return of {worker}"
        )


def _all_ended(stack: Project, runs: Iterable[str]) -> bool:
    query = "select bool_and(completed_at is not null) from agent_executions where id = any (%s::uuid[])"
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute(query, [[*runs]]).fetchone()
    return row is not None and row[0]


def _stories(stack: Project, runs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """All that the database has of each run."""
    query = """
        select x.id::text, jsonb_build_object(
          'run', to_jsonb(x),
          'steps', (select jsonb_agg(s order by s.step_number) from agent_steps s where s.execution_id = x.id),
          'calls', (select jsonb_agg(c order by c.step_number) from agent_tool_calls c where c.execution_id = x.id),
          'reviews', (select jsonb_agg(r order by r.requested_at) from agent_reviews r where r.execution_id = x.id),
          'events', (select jsonb_agg(e order by e.id) from agent_events e where e.execution_id = x.id))
        from agent_executions x where x.id = any (%s::uuid[])"""
    with psycopg.connect(stack.database_url) as connection:
        return dict(connection.execute(query, [[*runs]]).fetchall())


def _counts(story: dict[str, Any]) -> dict[str, Any]:
    kinds = Counter(review["kind"] for review in story["reviews"] or [])
    return {
        "status": story["run"]["status"],
        "approvals": kinds["approval"],
        "doubts": kinds["unknown_outcome"],
        "claims": sum(event["kind"] == "claimed" for event in story["events"]),
    }
