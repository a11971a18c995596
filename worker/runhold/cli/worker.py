"""The worker process."""

from __future__ import annotations

import asyncio
import os
import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from runhold.cli.output import never_show
from runhold.cli.project import NoProject, find_project
from runhold.environment.variables import secrets_in
from runhold.errors import ConfigError
from runhold.runtime.config import (
    DEFAULT_CAPACITY,
    DEFAULT_GIVE_UP_S,
    DEFAULT_GRACE_S,
    DEFAULT_LEASE_S,
    DEFAULT_POLL_S,
    DEFAULT_START_TIMEOUT_S,
    MIN_POLL_S,
    SECRET_VARIABLES,
    WorkerConfig,
)
from runhold.runtime.loading import load_agents
from runhold.telemetry import configure_logging

MIN_GIVE_UP_S: Final = 0.1


class LogFormat(StrEnum):
    """How logs are written."""

    TEXT = "text"
    JSON = "json"


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
    start_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            envvar="RUNHOLD_START_TIMEOUT",
            help="How long a start is tried again while the project does not answer or rejects the key.",
        ),
    ] = DEFAULT_START_TIMEOUT_S,
    give_up: Annotated[
        float,
        typer.Option(
            min=MIN_GIVE_UP_S,
            metavar="SECONDS",
            envvar="RUNHOLD_GIVE_UP",
            help="How long the key may stay rejected before a worker that was ready ends.",
        ),
    ] = DEFAULT_GIVE_UP_S,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="RUNHOLD_LOG_FORMAT", help="For people, or a JSON object a line.")
    ] = LogFormat.TEXT,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Start a new worker when a .py file or .env changes. For development."),
    ] = False,
) -> None:
    """Work on runs until SIGTERM or Ctrl-C. Start as many as you like, on any machines.

    It takes runs of all agents in MODULE. It needs SUPABASE_URL and SUPABASE_SECRET_KEY (the running local stack's
    without), or RUNHOLD_WORKER_TOKEN with SUPABASE_PUBLISHABLE_KEY, of a role that may do less; SUPABASE_JWT_SECRET
    or SUPABASE_JWT_SIGNING_KEY for ctx.supabase, and OPENAI_API_KEY or OPENAI_BASE_URL.
    With --reload it starts anew when a .py file here or in MODULE's folder changes, or .env: for `supabase start` or
    a project in the cloud. It needs the extra [local].
    A second signal ends it at once; other workers then take over its runs. Logs go to standard error, without secrets.

    \b
    Examples:
      runhold worker agent.py
      runhold worker my_company.agents --capacity 16 --grace 60 --log-format json
      runhold worker agent.py --reload
    """
    if reload:
        from runhold.cli.reloading import RELOAD, run_reloading  # it needs the extra [local]

        configure_logging(as_json=log_format is LogFormat.JSON)
        arguments = [argument for argument in sys.argv[1:] if argument != RELOAD]
        raise typer.Exit(asyncio.run(run_reloading(arguments, module, grace_s=grace)))
    from runhold.runtime.garbage import pause_less
    from runhold.runtime.worker import run_worker

    _use_the_local_stack()
    config = WorkerConfig.from_env(
        capacity=capacity,
        grace_s=grace,
        lease_s=lease,
        poll_s=poll,
        realtime=realtime,
        start_timeout_s=start_timeout,
        give_up_s=give_up,
    )
    configure_logging(
        as_json=log_format is LogFormat.JSON,
        secrets=[*config.secrets, *secrets_in(os.environ)],
    )
    agents = load_agents(module)
    never_show(config.secrets)
    _forget_keys(config)
    pause_less()
    raise typer.Exit(asyncio.run(run_worker(config, agents)) or 0)


def _forget_keys(config: WorkerConfig) -> None:
    """Take the project's keys and the secrets of webhooks out of the environment, so that no tool, and no program that
    one starts, inherits them.

    The module of the agents was imported before: there whoever needs a key can read it.
    """
    for name in (*SECRET_VARIABLES, *config.webhook_secrets):
        os.environ.pop(name, None)


def _use_the_local_stack() -> None:
    """Where nothing else is configured, work for the local stack that runs here."""
    try:
        project = find_project()
    except NoProject as error:
        raise ConfigError(
            "No project to work for: set SUPABASE_URL and SUPABASE_SECRET_KEY (or write them into .env), "
            "or start a local stack with `runhold stack start`."
        ) from error
    if project.local is not None:
        os.environ.update(project.environment)
