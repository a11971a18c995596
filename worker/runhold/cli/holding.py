"""What `runhold dev` holds: a stack and a worker on the newest code, until somebody ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from rich.text import Text

from runhold.cli.first_start import tell_first_start
from runhold.cli.output import err, out, say
from runhold.cli.parts import has_model, load_script, make_tables
from runhold.cli.project import LOCAL_FOLDER
from runhold.cli.reloading import RestartedWorker, changes
from runhold.cli.render import fields
from runhold.cli.worker_process import tailing, without_project, worker_spec
from runhold.local.child import Child
from runhold.local.errors import ChildEnded
from runhold.local.follow import follow_migrations
from runhold.local.stack import LocalStack, StackOptions
from runhold.models.scripted import ScriptedModel

LOCAL_LEASE_S: Final = "5"
"""A worker that was restarted roughly is missed soon."""
LOCAL_GRACE_S: Final = 2.0


async def hold(module: Path | None, *, port: int, reload: bool) -> None:
    """Run the stack, and a worker for ``module`` if there is one, until a signal or until a part of the stack ends."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with AsyncExitStack() as parts:
        options = StackOptions(folder=Path(LOCAL_FOLDER), port=port)
        tell_first_start()
        stack = await parts.enter_async_context(await LocalStack.start(options))
        out.print(Text("The local Supabase is up. Ctrl-C ends it.", style="bold green"))
        out.print(fields(stack.env()), soft_wrap=True)
        out.print()
        if module is None:
            say(
                "No agent here yet: write agent.py and start again, or give its path: runhold dev path/to/agent.py."
            )
            await _first_end(*_holding(stack))
            return
        await make_tables(stack.database_url, module.parent)
        environment = {**stack.env(), **await _scripted_model(parts, module)}
        log = stack.folder / "logs" / "worker.log"
        show_log = await parts.enter_async_context(tailing(log, _tell))
        await _first_end(
            asyncio.create_task(_work(module, environment, log, show_log, reload=reload), name="worker"),
            *_holding(stack),
        )


def _holding(stack: LocalStack) -> tuple[asyncio.Task[None], ...]:
    """Wait for the stack's end, and apply the project's new migrations until then."""
    migrations = follow_migrations(stack.database_url, stack.options.project, _tell_migration)
    return (
        asyncio.create_task(stack.wait(), name="stack"),
        asyncio.create_task(migrations, name="migrations"),
    )


def _tell_migration(sentence: str) -> None:
    say(Text(f"migrations │ {sentence}"))


async def _first_end(*tasks: asyncio.Task[None]) -> None:
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _tell(line: str) -> None:
    err.print(Text(f"worker │ {line}"), soft_wrap=True)


async def _scripted_model(parts: AsyncExitStack, module: Path) -> dict[str, str]:
    """The worker's variables for a script beside the agent, which plays the model where none is configured."""
    if has_model():
        return {}
    script = load_script(module.parent)
    if script is None:
        say(
            Text(
                "No model: set OPENAI_API_KEY or OPENAI_BASE_URL, or put a script.py beside the agent.",
                style="yellow",
            )
        )
        return {}
    server = await parts.enter_async_context(ScriptedModel(script, record=False))
    say(f"No OPENAI_API_KEY: script.py beside {module.name} plays the model at {server.base_url}.")
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "scripted", "RUNHOLD_MODEL": "scripted"}


async def _work(
    module: Path, environment: dict[str, str], log: Path, show_log: Callable[[], None], *, reload: bool
) -> None:
    """Keep a worker running, on the newest code unless ``reload`` is false."""
    options = ["--lease", LOCAL_LEASE_S, "--grace", str(LOCAL_GRACE_S)]
    spec = worker_spec(
        ["worker", str(module), *options],
        environment={**without_project(), **environment},
        log=log,
        grace_s=LOCAL_GRACE_S,
    )

    def tell(sentence: str) -> None:
        show_log()
        say(Text(sentence, style="cyan"))

    if reload:
        await RestartedWorker(spec, tell).keep(changes([module.parent]))
    try:
        worker, _ = await Child.start(spec)
    except ChildEnded:
        tell("The worker can't start, as its log says.")
        await asyncio.Event().wait()
        return
    try:
        await worker.ended()
    finally:
        await worker.stop()
