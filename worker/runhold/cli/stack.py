"""The local stack in the background."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Final

import typer

from runhold.cli.exits import Exit, UsageError
from runhold.cli.first_start import tell_first_start
from runhold.cli.options import USUAL_PORT, AsJson
from runhold.cli.output import hint, out, print_json, program, say
from runhold.cli.project import LOCAL_FOLDER
from runhold.cli.render import fields

app: Final = typer.Typer(no_args_is_help=True)

Folder = Annotated[
    Path,
    typer.Option(
        "--folder", metavar="PATH", help="Where its database, keys and logs are.", show_default=True
    ),
]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Of the API on loopback; 0 picks a free one.")
]
FOLDER: Final = Path(LOCAL_FOLDER)

# The modules of the stack are imported where they are used: they need the extra [local], which workers do without.


@app.callback()
def stack() -> None:
    """A whole Supabase on your machine, without Docker: PostgreSQL 17, REST, Auth and Realtime.

    Its migrations are Runhold's and those in supabase/migrations/ of this folder.
    `runhold dev` is the same in the foreground, with a worker.
    """


@app.command()
def start(port: Port = USUAL_PORT, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Start the stack in the background; it outlives this terminal.

    \b
    Examples:
      runhold stack start
      runhold stack start --port 0 && eval "$(runhold stack env --export)"
    """
    from runhold.local import control
    from runhold.local.stack import StackOptions

    tell_first_start()
    running = asyncio.run(control.start_background(StackOptions(folder=folder, port=port)))
    if as_json:
        print_json({"url": running.url, "database_url": running.database_url, "pid": running.pid})
    else:
        say(f"The local Supabase is up at {running.url}.")
        hint(f"Its keys: {program()} stack env. Its end: {program()} stack stop.")


@app.command()
def stop(folder: Folder = FOLDER) -> None:
    """Stop the stack. Its data stay in its folder.

    \b
    Example:
      runhold stack stop
    """
    from runhold.local import control

    asyncio.run(control.stop_background(folder))
    say("The local Supabase is stopped; its data are kept.")


@app.command()
def status(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Say whether the stack runs. The exit status is 0 if it does, else 1.

    \b
    Example:
      runhold stack status || runhold stack start
    """
    from runhold.local import control

    found = control.status(folder)
    running = found.running
    if as_json:
        print_json(
            {
                "running": running is not None,
                "created": found.created,
                "folder": str(found.folder),
                "url": running.url if running else None,
                "pid": running.pid if running else None,
            }
        )
    elif running is not None:
        values = {
            "url": running.url,
            "database": running.database_url,
            "process": running.pid,
            "folder": found.folder,
        }
        out.print(fields({name: str(value) for name, value in values.items()}))
    else:
        say("It does not run; " + ("its data are kept." if found.created else "it never did in this folder."))
    raise typer.Exit(Exit.OK if running else Exit.FAILED)


@app.command()
def env(
    folder: Folder = FOLDER,
    export: Annotated[
        bool, typer.Option("--export", help="With `export` before each, for eval in a shell.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the running stack's URL and keys as KEY=value lines.

    \b
    Examples:
      runhold stack env > .env
      eval "$(runhold stack env --export)"
    """
    from runhold.local import control

    values = control.read_env(folder)
    if as_json:
        print_json(values)
        return
    for name, value in values.items():
        line = f"{name}={shlex.quote(value)}"
        out.print(f"export {line}" if export else line, soft_wrap=True, markup=False)


@app.command()
def erase(
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete it all.")] = False, folder: Folder = FOLDER
) -> None:
    """Delete the stopped stack with its database, keys and logs.

    \b
    Example:
      runhold stack erase --yes
    """
    from runhold.local import control

    if not yes:
        raise UsageError(f"This deletes {folder} with its database for good: say --yes.")
    control.erase(folder)
    say(f"{folder} is deleted.")
