"""``runhold doctor``: is everything right for a worker? And is the database as the release made it?"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from runhold.cli.exits import Exit
from runhold.cli.options import AsJson
from runhold.cli.output import never_show, out, print_json, say
from runhold.cli.project import find_project
from runhold.environment.kinds import passwords_in
from runhold.environment.variables import DATABASE_URL, mistake
from runhold.errors import ConfigError
from runhold.runtime.config import WorkerConfig
from runhold.store.client import Access

if TYPE_CHECKING:
    from runhold.cli.checkup import Finding, State

MARKS: Final[dict[State, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "degraded": ("degraded", "yellow"),
    "failed": ("FAILED", "bold red"),
    "skipped": ("skipped", "dim"),
}

PASTE: Final = (
    "Run this SQL as role postgres, in the SQL editor or with psql; or let "
    "`runhold doctor --repair --database-url postgresql://…` run it."
)
ALL_THERE: Final = "The database has all objects of its release, as they should be."


def doctor(
    as_json: AsJson = False,
    repairs: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Bring back what the database lacks of the release, and set right what differs. Without "
            "--database-url, print the SQL that does.",
        ),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            metavar="URL",
            envvar=DATABASE_URL,
            help="Of role postgres, directly or through the session pooler. It is never shown.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check all that a worker needs: API, key or token, objects of the release, migrations, clock, Realtime, signing
    key, notifications, model.

    It needs what `runhold worker` needs, on the same machine. It registers as a worker for a moment, claims nothing,
    and sends a probe through the database to itself. The exit status is 0 if all is well, 8 if workers work but
    slower, 4 if URL or key are wrong, 1 for the rest.

    After a backup was restored, triggers, policies, memberships of roles and jobs are missing: --repair brings them
    back, in one transaction. It may be repeated. With --database-url it needs nothing else; a local stack's own
    database is repaired without.

    \b
    Examples:
      runhold doctor
      runhold doctor --json | jq '.[] | select(.state != "ok")'
      runhold doctor --repair > repair.sql
      runhold doctor --repair --database-url postgresql://postgres:...@db.abc.supabase.co:5432/postgres
    """
    if database_url:
        never_show([database_url, *passwords_in(database_url)])
        if database_url == os.environ.get(DATABASE_URL) and (wrong := mistake(DATABASE_URL, database_url)):
            raise ConfigError(wrong)
    if repairs and database_url:
        raise typer.Exit(_repair(database_url, as_json=as_json))
    project = find_project()
    if project.local is not None:
        os.environ.update(project.environment)
        database_url = database_url or project.environment["DATABASE_URL"]
    if repairs:
        raise typer.Exit(
            _repair(database_url, as_json=as_json) if database_url else _print_sql(as_json=as_json)
        )
    findings = asyncio.run(_told(WorkerConfig.from_env(), database_url, as_json=as_json))
    if as_json:
        print_json([asdict(each) for each in findings])
    raise typer.Exit(exit_for(findings))


async def _told(config: WorkerConfig, database_url: str | None, *, as_json: bool) -> list[Finding]:
    from runhold.cli.checkup import examine  # and with it all that a worker consists of

    findings: list[Finding] = []
    async for finding in examine(config, os.environ, database_url=database_url):
        findings.append(finding)
        if not as_json:
            _print(finding)
    return findings


def _print(finding: Finding) -> None:
    word, style = MARKS[finding.state]
    line = Text.assemble((f"{word:<9}", style), f"{finding.check:<15}", finding.says)
    out.print(line, soft_wrap=True)
    for detail in finding.details:
        out.print(Text(f"{'':<24}{detail}"), soft_wrap=True)


def exit_for(findings: Sequence[Finding]) -> Exit:
    """The worst of them."""
    failed = [each for each in findings if each.state == "failed"]
    if any(each.unreachable for each in failed):
        return Exit.UNREACHABLE
    if failed:
        return Exit.FAILED
    return Exit.DEGRADED if any(each.state == "degraded" for each in findings) else Exit.OK


def _repair(database_url: str, *, as_json: bool) -> Exit:
    """Repair, and name what was repaired and what still is not as in the release."""
    from runhold.cli.repair import repair  # it needs psycopg

    done = asyncio.run(repair(database_url))
    if as_json:
        left = [fault.line for fault in done.left.named]
        print_json({"repaired": [fault.line for fault in done.repaired], "left": left})
    else:
        for fault in done.repaired:
            out.print(Text.assemble(("repaired ", "green"), fault.line), soft_wrap=True)
        for fault in done.left.named:
            style = "yellow" if fault.optional else "bold red"
            out.print(Text.assemble(("left     ", style), fault.line), soft_wrap=True)
        if not done.left.named:
            say(ALL_THERE)
    if not done.left.named:
        return Exit.OK
    return Exit.DEGRADED if done.left.is_optional else Exit.FAILED


def _print_sql(*, as_json: bool) -> Exit:
    """What a person can run who has no URL of the database."""
    from runhold.cli.installation import FunctionsMissing, ask_api, comparing_sql

    config = WorkerConfig.from_env()
    # a restored database may lack what the role of the worker's token needs
    access = Access(config.secret_key) if config.secret_key else config.access
    try:
        installation = asyncio.run(ask_api(config.url, access))
        script, then = (installation.script, PASTE) if installation.faults else ("", ALL_THERE)
    except FunctionsMissing as error:
        script, then = (
            comparing_sql(),
            f"{error} This SQL makes it: run it as role postgres, then repair again.",
        )
    if as_json:
        print_json({"sql": script})
    else:
        sys.stdout.write(script)
        sys.stdout.flush()
    say(then)
    return Exit.OK
