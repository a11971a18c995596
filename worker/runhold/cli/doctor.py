"""``runhold doctor``: is everything right for a worker?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import typer
from rich.text import Text

from runhold.cli.exits import Exit
from runhold.cli.options import AsJson
from runhold.cli.output import out, print_json
from runhold.cli.project import find_project
from runhold.runtime.config import WorkerConfig

if TYPE_CHECKING:
    from runhold.cli.checkup import Finding, State

MARKS: Final[dict[State, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "degraded": ("degraded", "yellow"),
    "failed": ("FAILED", "bold red"),
    "skipped": ("skipped", "dim"),
}


def doctor(as_json: AsJson = False) -> None:
    """Check all that a worker needs: API, key or token, migrations, clock, Realtime, signing key, notifications, model.

    It needs what `runhold worker` needs, on the same machine. It registers as a worker for a moment, claims nothing,
    and sends a probe through the database to itself. The exit status is 0 if all is well, 8 if workers work but
    slower, 4 if URL or key are wrong, 1 for the rest.

    \b
    Examples:
      runhold doctor
      runhold doctor --json | jq '.[] | select(.state != "ok")'
    """
    project = find_project()
    if project.local is not None:
        os.environ.update(project.environment)
    findings = asyncio.run(_told(WorkerConfig.from_env(), as_json=as_json))
    if as_json:
        print_json([asdict(each) for each in findings])
    raise typer.Exit(exit_for(findings))


async def _told(config: WorkerConfig, *, as_json: bool) -> list[Finding]:
    from runhold.cli.checkup import examine  # and with it all that a worker consists of

    findings: list[Finding] = []
    async for finding in examine(config, os.environ):
        findings.append(finding)
        if not as_json:
            word, style = MARKS[finding.state]
            line = Text.assemble((f"{word:<9}", style), f"{finding.check:<15}", finding.says)
            out.print(line, soft_wrap=True)
    return findings


def exit_for(findings: Sequence[Finding]) -> Exit:
    """The worst of them."""
    failed = [each for each in findings if each.state == "failed"]
    if any(each.unreachable for each in failed):
        return Exit.UNREACHABLE
    if failed:
        return Exit.FAILED
    return Exit.DEGRADED if any(each.state == "degraded" for each in findings) else Exit.OK
