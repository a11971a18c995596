"""The agents of a project, and their kill switch."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from runhold.cli.backend import Backend
from runhold.cli.caller import AsService, acting
from runhold.cli.options import As, AsJson
from runhold.cli.output import out, print_json, say
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.render import agents_table, plain

app = typer.Typer(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})

Type = Annotated[str, typer.Argument(metavar="TYPE", help="The agent's type.", show_default=False)]


@app.callback()
def agents(context: typer.Context, as_json: AsJson = False, email: As = None) -> None:
    """List the agents that workers have registered; disable one, or enable it again.

    \b
    Examples:
      runhold agents
      runhold agents --json | jq -r '.[] | select(.enabled) | .name'
      runhold agents disable letter_writer
    """
    if context.invoked_subcommand is not None:
        return

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            rows = await Backend(person).agents()
        if as_json:
            print_json(rows)
        elif rows:
            out.print(agents_table(rows))
        else:
            say("No worker has registered an agent yet: start one with `runhold worker agent.py`.")

    asyncio.run(work())


@app.command()
def disable(
    agent_type: Type,
    fail_pending: Annotated[
        bool, typer.Option("--fail-pending", help="Also end what waits in the queue (AGENT_DISABLED).")
    ] = False,
    service: AsService = False,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Pull the kill switch: no new run of TYPE is taken, and workers give back those that they hold.

    What waits stays in the queue until the type is enabled again. Only operators of the type may do it, and the
    service.

    \b
    Examples:
      runhold agents disable letter_writer
      runhold agents disable letter_writer --fail-pending --service
    """

    async def work() -> None:
        async with acting(service=service, email=email) as backend:
            answer = await backend.disable(agent_type, fail_pending=fail_pending)
            failed = answer["failed"]
            while fail_pending and answer["failed"] and answer["pending"]:  # so many at a time
                answer = await backend.disable(agent_type, fail_pending=True)
                failed += answer["failed"]
        answer["failed"] = failed
        if as_json:
            print_json(answer)
            return
        ended = f" {_runs(failed, 'was', 'were')} ended." if fail_pending else ""
        waits = f" {_runs(answer['pending'], 'stays', 'stay')} in the queue." if answer["pending"] else ""
        say(f"{plain(agent_type)} is disabled: nothing new of it starts.{ended}{waits}")

    asyncio.run(work())


@app.command()
def enable(agent_type: Type, service: AsService = False, as_json: AsJson = False, email: As = None) -> None:
    """Let a disabled agent work again.

    \b
    Example:
      runhold agents enable letter_writer
    """

    async def work() -> None:
        async with acting(service=service, email=email) as backend:
            answer = await backend.enable(agent_type)
        if as_json:
            print_json(answer)
        else:
            say(f"{plain(agent_type)} is enabled.")

    asyncio.run(work())


def _runs(count: int, one: str, many: str) -> str:
    return f"1 waiting run {one}" if count == 1 else f"{count} waiting runs {many}"
