"""Every crash point, effect and gate in one batch: a cell each, all at the same time, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import courier
import psycopg
from town import Town

from runhold.local.stack import LocalStack
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

LEASE_S = 3
WORKERS = 8
"""One-slot workers at a time; whoever is killed is replaced."""


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
    """What became of all of them."""

    cells: dict[Cell, Observed]
    verdict: Verdict
    logs: str


def run_batch(stack: LocalStack, forks: ForkServer, cells: Sequence[Cell], folder: Path) -> Batch:
    """Run the cells, until every run has ended."""
    return asyncio.run(_run_batch(stack, forks, cells, folder))


async def _run_batch(stack: LocalStack, forks: ForkServer, cells: Sequence[Cell], folder: Path) -> Batch:
    async with ScriptedModel(courier.script, record=False) as model, Effects() as effects:
        env = {**stack.env(), "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "scripted"}
        options = ("--capacity", "1", "--lease", str(LEASE_S))
        async with Fleet(forks, courier.__file__, *options, folder=folder, env=env, effects=effects) as fleet:
            town = Town(stack, folder, model.base_url)
            user, client = await town.person(), await town.reviewer(agent_type="courier")
            courier.make_known(stack.database_url)
            rows = [
                {"agent_type": "courier", "input_data": {"tool": cell.effect, "gated": cell.gated}}
                for cell in cells
            ]
            inserted = (await user.table("agent_executions").insert(rows).execute()).data
            runs: dict[str, Cell] = {row["id"]: cell for row, cell in zip(inserted, cells, strict=True)}
            armed = {
                run: fleet.points.arm(cell.point, cell.action, run=run, skip=cell.skip)
                for run, cell in runs.items()
            }

            def decide(review: dict[str, Any]) -> dict[str, Any]:
                if review["kind"] == "approval":
                    return {"status": "approved"}
                outcome = runs[review["execution_id"]].answer
                return {"status": "approved", "answer": {"outcome": outcome}}

            async with Reviewer(client, decide):
                fleet.keep(WORKERS)
                with contextlib.suppress(AssertionError):  # the cells whose runs have not ended say so
                    await eventually(lambda: _ended(stack, runs) == len(runs), "the end of all runs")
            verdict = judge(stack.database_url, runs, effects, thrown=fleet.thrown)
            counts = _counts(stack, runs)
            observed = {
                cell: Observed(
                    **counts[run],
                    fired=len(armed[run].fired),
                    times=sum(effect.times for effect in effects.all(run)),
                    keys=len(effects.all(run)),
                )
                for run, cell in runs.items()
            }
            return Batch(cells=observed, verdict=verdict, logs=fleet.logs)


def _ended(stack: LocalStack, runs: Iterable[str]) -> int:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        query = (
            "select count(*) from agent_executions where id = any (%s::uuid[]) and completed_at is not null"
        )
        row = connection.execute(query, [[*runs]]).fetchone()
        assert row is not None
        return row[0]


def _counts(stack: LocalStack, runs: Iterable[str]) -> dict[str, dict[str, Any]]:
    query = """
        select x.id::text, x.status,
          (select count(*) from agent_reviews r where r.execution_id = x.id and r.kind = 'approval'),
          (select count(*) from agent_reviews r where r.execution_id = x.id and r.kind = 'unknown_outcome'),
          (select count(*) from agent_events e where e.execution_id = x.id and e.kind = 'claimed')
        from agent_executions x where x.id = any (%s::uuid[])"""
    with psycopg.connect(stack.database_url) as connection:
        found = connection.execute(query, [[*runs]]).fetchall()
    return {
        run: {"status": status, "approvals": approvals, "doubts": doubts, "claims": claims}
        for run, status, approvals, doubts, claims in found
    }
