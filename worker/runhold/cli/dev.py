"""``runhold dev``: the local Supabase in the foreground, and a worker that starts anew when code changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from runhold.cli.exits import CommandError
from runhold.cli.options import USUAL_PORT
from runhold.cli.output import say

USUAL_MODULES: Final = ("agent.py", "agents.py")


def dev(
    module: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODULE.py]",
            help="Where the agents are; agent.py or agents.py, if there is one.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the API; 0 picks a free one.")] = USUAL_PORT,
    reload: Annotated[
        bool, typer.Option(" /--no-reload", help="Don't restart the worker when code changes.")
    ] = True,
) -> None:
    """A whole Supabase on your machine, and your worker beside it, until Ctrl-C.

    Applies Runhold's migrations, those in supabase/migrations/ and a migration.sql beside the agent. The database
    stays in .runhold/. Migrations that you add while it runs are applied at once.
    The worker starts anew whenever a .py file in the agent's folder changes.
    Without OPENAI_API_KEY and OPENAI_BASE_URL a file script.py beside the agent plays the model, if there is one.

    \b
    Examples:
      runhold dev
      runhold dev examples/compliance/agent.py --port 0
    """
    from runhold.cli.holding import hold  # it needs the extra [local]
    from runhold.cli.prerequisites import require_environment

    require_environment()  # else the worker would fail again and again, beside a stack that runs
    chosen = module or next((Path(name) for name in USUAL_MODULES if Path(name).is_file()), None)
    if chosen is not None and not chosen.is_file():
        raise CommandError(f"There is no file {chosen}: give the path of a Python file with agents.")
    try:
        asyncio.run(hold(chosen and chosen.absolute(), port=port, reload=reload))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("\nStopped; nothing is left running. The database stays in .runhold/.")
