"""The worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Annotated

import typer

from runhold.cli.project import find_project
from runhold.cli.render import short
from runhold.errors import ConfigError
from runhold.runtime.config import (
    DEFAULT_CAPACITY,
    DEFAULT_GRACE_S,
    DEFAULT_LEASE_S,
    DEFAULT_POLL_S,
    MIN_POLL_S,
    WorkerConfig,
)
from runhold.runtime.loading import load_agents


def worker(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE", help="Where the agents are: agent.py, or my.module.", show_default=False
        ),
    ],
    capacity: Annotated[int, typer.Option(min=1, help="Runs at once.")] = DEFAULT_CAPACITY,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a shutdown waits for steps to end.")
    ] = DEFAULT_GRACE_S,
    lease: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="After this silence its runs go to others.")
    ] = DEFAULT_LEASE_S,
    realtime: Annotated[
        bool,
        typer.Option(" /--no-realtime", envvar="RUNHOLD_REALTIME", help="Don't listen for wake-ups: poll."),
    ] = True,
    poll: Annotated[
        float,
        typer.Option(
            min=MIN_POLL_S,
            metavar="SECONDS",
            envvar="RUNHOLD_POLL",
            help="Between looks for work while Realtime is not heard.",
        ),
    ] = DEFAULT_POLL_S,
) -> None:
    """Work on runs until SIGTERM or Ctrl-C. Start as many as you like, on any machines.

    It takes runs of all agents in MODULE. It needs SUPABASE_URL and SUPABASE_SECRET_KEY (the running local stack's
    without), SUPABASE_JWT_SECRET or SUPABASE_JWT_SIGNING_KEY for ctx.supabase, and OPENAI_API_KEY or OPENAI_BASE_URL.
    A second signal ends it at once; other workers then take over its runs.

    \b
    Examples:
      runhold worker agent.py
      runhold worker my_company.agents --capacity 16 --grace 60
    """
    from runhold.runtime.worker import run_worker

    _say_what_happens()
    _use_the_local_stack()
    config = WorkerConfig.from_env(
        capacity=capacity, grace_s=grace, lease_s=lease, poll_s=poll, realtime=realtime
    )
    raise typer.Exit(asyncio.run(run_worker(config, load_agents(module))) or 0)


class _RunFormatter(logging.Formatter):
    """One line per record, with the run that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        run_id: str | None = getattr(record, "run_id", None)
        return f"{line} [run {short(run_id)}]" if run_id else line


def _say_what_happens() -> None:
    """Log to standard error: what Runhold does, and what goes wrong elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RunFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("runhold").setLevel(logging.INFO)


def _use_the_local_stack() -> None:
    """Where nothing else is configured, work for the local stack that runs here."""
    try:
        project = find_project()
    except ConfigError as error:
        if os.environ.get("SUPABASE_URL"):
            raise
        raise ConfigError(
            "No project to work for: set SUPABASE_URL and SUPABASE_SECRET_KEY (or write them into .env), "
            "or start a local stack with `runhold stack start`."
        ) from error
    if project.local is not None:
        os.environ.update(project.environment)
