"""The command."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.rule import Rule
from rich.text import Text

from runhold.cli.exits import RUN_EXITS, CommandError, Exit
from runhold.cli.output import out, say


class Decide(StrEnum):
    """Who decides at the gate."""

    ask = "ask"
    approve = "approve"
    reject = "reject"


def demo(
    decide: Annotated[
        Decide | None,
        typer.Option(
            help="Decide at the gate without asking; `ask` needs a terminal.", show_default="ask, or approve"
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of the local Supabase.", show_default="54321, or a free one"),
    ] = None,
    realtime: Annotated[
        bool, typer.Option(" /--no-realtime", help="The worker polls instead: the same, only slower.")
    ] = True,
) -> None:
    """Watch a real run, from a row that a user inserts to an e-mail that another person approved.

    Everything is local: a Supabase in .runhold/ of this folder (or the one that runs there), a worker process, a mail
    server on loopback and a scripted model. With OPENAI_API_KEY or OPENAI_BASE_URL set it uses that model
    (RUNHOLD_MODEL names it). Ctrl-C ends all of it.

    \b
    Examples:
      runhold demo
      runhold demo --decide reject
      OPENAI_BASE_URL=http://127.0.0.1:11434/v1 RUNHOLD_MODEL=qwen3 runhold demo
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if decide is Decide.ask and not terminal:
        raise CommandError("There is no terminal to ask at: choose --decide approve or --decide reject.")
    chosen = decide or (Decide.ask if terminal else Decide.approve)
    try:
        raise typer.Exit(
            asyncio.run(_stoppable(_show(chosen, given=decide is not None, port=port, realtime=realtime)))
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("\nStopped; nothing is left running.")
        raise typer.Exit(Exit.INTERRUPTED) from None


async def _stoppable(work: Coroutine[Any, Any, Exit]) -> Exit:
    """SIGTERM and a closed terminal end it as Ctrl-C does: in order."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


async def _show(decide: Decide, *, given: bool, port: int | None, realtime: bool) -> Exit:
    from runhold.cli.demo.cast import REVIEWER, USER, appoint, enter
    from runhold.cli.demo.play import AGENT_TYPE, play, tell_the_end
    from runhold.cli.demo.stage import put_up
    from runhold.cli.prerequisites import require_environment

    require_environment()
    out.print(Rule("the parts", align="left", style="dim"))

    def told(part: str, what: str) -> None:
        out.print(
            Text.assemble(("  ✓ ", "green"), (f"{part:<12}", "bold"), what), soft_wrap=not out.is_terminal
        )

    async with AsyncExitStack() as open_parts:
        with out.status(Text("starting", style="dim"), spinner="dots"):
            stage = await open_parts.enter_async_context(put_up(port=port, realtime=realtime, told=told))
            user = await open_parts.enter_async_context(enter(stage.project, USER, main=True))
            reviewer = await open_parts.enter_async_context(enter(stage.project, REVIEWER, main=False))
            await appoint(stage.project, reviewer, AGENT_TYPE)
        told("people", f"{USER} (user), {REVIEWER} (reviewer), signed in")
        out.print()
        if decide is not Decide.ask and not given:
            out.print(
                Text("  There is no terminal here, so the reviewer will approve by herself.", style="yellow")
            )
        run = await _unless_a_part_ends(play(stage, user, reviewer, decide=decide), stage.watch())
        await tell_the_end(stage, user, run)
        return RUN_EXITS[run["status"]]


async def _unless_a_part_ends(work: Coroutine[Any, Any, Any], watch: Coroutine[Any, Any, None]) -> Any:
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(watch)
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait({working, watching})
