"""Runs: submit, watch, list, show; and how they are doing as a whole."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from runhold.cli.backend import Backend
from runhold.cli.exits import Exit, UsageError
from runhold.cli.health import health_view
from runhold.cli.live import UntilReview, Watch, watch_run
from runhold.cli.options import As, AsJson, RunId, read_json, read_object, read_since, read_start
from runhold.cli.output import hint, out, print_json, say, tell
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.render import day_and_clock, result_panel, run_header, runs_table, short
from runhold.cli.story import Story

STATUSES: Final = ("pending", "running", "awaiting_review", "completed", "failed", "cancelled")


def submit(
    agent_type: Annotated[str, typer.Argument(metavar="TYPE", help="The agent's type.", show_default=False)],
    input: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option("--input", "-i", metavar="JSON|@FILE|-", help="The run's input, a JSON object."),
    ] = "{}",
    limits: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="Tighter limits for this run: '{\"max_steps\": 5}'.", show_default=False
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same key again answers the first run.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not before this time: 2026-01-31T09:00.", show_default=False),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--in", metavar="SPAN", help="Not before this has passed: 30m, 24h, 7d.", show_default=False
        ),
    ] = None,
    watch: Watch = False,
    until_review: UntilReview = False,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Start a run.

    Prints the run's id. With --watch it goes on as `runhold watch` does.

    \b
    Examples:
      runhold submit compliance_document_generator -i '{"project": "billing"}' --watch
      runhold submit letter_writer -i @input.json --idempotency-key order-17
      runhold submit letter_writer -i @input.json --in 24h
      RUN=$(echo '{"customer": "Ada"}' | runhold submit letter_writer -i -)
    """
    wake_at = read_start(at, within)
    value, tighter = read_json(input, "--input"), None if limits is None else read_object(limits, "--limits")

    async def work() -> Exit:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            run = await backend.submit(
                agent_type, value, limits=tighter, idempotency_key=idempotency_key, wake_at=wake_at
            )
            if watch:
                say(f"Run {run['id']}, submitted as {person.email}.")
                return await watch_run(backend, person, run["id"], as_json=as_json, until_review=until_review)
            if as_json:
                print_json(run)
            else:
                out.print(run["id"])
                starts = f", starts {day_and_clock(run['wake_at'])}" if run.get("wake_at") else ""
                hint(f"Submitted as {person.email}{starts}. Watch it: runhold watch {short(run['id'])}")
            return Exit.OK

    raise typer.Exit(asyncio.run(work()))


def watch(run: RunId, until_review: UntilReview = False, as_json: AsJson = False, email: As = None) -> None:
    """Watch a run until it ends.

    The exit status tells how: 0 completed, 5 failed, 6 cancelled. Ctrl-C stops watching, not the run.
    With --json it prints every event, step, call and review as a line when it changes, and the run as the last line.

    \b
    Examples:
      runhold watch 3f2a9c1e
      runhold watch 3f2a9c1e --json | jq -r 'select(.kind == "step") | .step_number'
      runhold watch 3f2a9c1e --until-review || runhold reviews
    """

    async def work() -> Exit:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            identifier = await backend.find_run(run)
            return await watch_run(backend, person, identifier, as_json=as_json, until_review=until_review)

    raise typer.Exit(asyncio.run(work()))


def list_runs(
    agent_type: Annotated[
        str | None, typer.Option("--type", "-t", help="Only of this type.", show_default=False)
    ] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", "-s", help=f"Only these: {', '.join(STATUSES)}.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """List your runs, the newest first.

    \b
    Examples:
      runhold list --status failed
      runhold list --json | jq -r '.[].id'
    """
    if status is not None and status not in STATUSES:
        raise UsageError(f"There is no status {status!r}: one of {', '.join(STATUSES)}.")

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            rows = await Backend(person).runs(agent_type=agent_type, status=status, limit=limit)
        if as_json:
            print_json(rows)
        elif rows:
            out.print(runs_table(rows, full_ids=not out.is_terminal))
        else:
            say(f"{person.email} has no such runs.")

    asyncio.run(work())


def show(run: RunId, as_json: AsJson = False, email: As = None) -> None:
    """Tell a run's whole story: who did what, every step, call and decision.

    \b
    Examples:
      runhold show 3f2a9c1e
      runhold show 3f2a9c1e --json | jq '.timeline[] | select(.kind == "tool_call") | .tool_name'
    """

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            identifier = await backend.find_run(run)
            row, timeline = await backend.run(identifier), await backend.timeline(identifier)
        if as_json:
            print_json({"run": row, "timeline": timeline})
            return
        names = {person.user_id: "you"}
        out.print(run_header(row, names={person.user_id: f"{person.email} (you)"}))
        out.print()
        for line in Story(names, width=out.width).more(timeline):
            tell(line)
        if row["status"] == "completed":
            out.print()
            out.print(result_panel(row))

    asyncio.run(work())


def health(
    agent_type: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Of this type alone.", show_default=False)
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="SPAN|TIME", help="From when on: 30m, 24h, 7d, 2w or a date.")
    ] = "7d",
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """How agents are doing: completion, steps, tools, reviews, tokens, times.

    Over the runs that you may see, which are your own.

    \b
    Examples:
      runhold health
      runhold health compliance_document_generator --since 24h --json | jq .completion_rate
    """
    start = read_since(since)

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            metrics = await Backend(person).health(agent_type, start)
        if as_json:
            print_json(metrics)
        else:
            out.print(health_view(metrics))

    asyncio.run(work())
