"""What `runhold dev` holds: a stack and a worker on the newest code, until somebody ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import watchfiles
from rich.text import Text

from runhold.cli.first_start import tell_first_start
from runhold.cli.output import err, out, say
from runhold.cli.parts import has_model, load_script, make_tables, start_worker, tailing
from runhold.cli.project import LOCAL_FOLDER
from runhold.cli.render import fields
from runhold.local.child import Child
from runhold.local.errors import ChildEnded
from runhold.local.follow import follow_migrations
from runhold.local.stack import LocalStack, StackOptions
from runhold.models.scripted import ScriptedModel

LOCAL_LEASE_S: Final = "5"
"""A worker that was restarted roughly is missed soon."""


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
        await parts.enter_async_context(tailing(log, _tell))
        await _first_end(
            asyncio.create_task(_work(module, environment, log, reload=reload), name="worker"),
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


async def _work(module: Path, environment: dict[str, str], log: Path, *, reload: bool) -> None:
    """Keep a worker running on the newest code. One that ends by itself is started again with the next change."""
    if not reload:
        async with _worker(module, environment, log) as worker:
            await (asyncio.Event().wait() if worker is None else worker.ended())
        return
    changes = _changes(module.parent)
    while True:
        async with _worker(module, environment, log) as worker:
            ending = asyncio.create_task(_tell_its_end(worker), name="worker's end")
            try:
                changed = await anext(changes)
            finally:
                ending.cancel()
        names = ", ".join(sorted({path.rpartition("/")[2] for _, path in changed}))
        say(Text(f"{names} changed: a new worker starts.", style="cyan"))


def _changes(folder: Path) -> AsyncIterator[set[tuple[Any, str]]]:
    watch: Any = getattr(watchfiles, "awatch")  # noqa: B009 - typed in part only
    return watch(folder, watch_filter=watchfiles.PythonFilter())


@asynccontextmanager
async def _worker(module: Path, environment: dict[str, str], log: Path) -> AsyncGenerator[Child | None, None]:
    """A worker process while the block lasts; None if it can't start, which its log explains."""
    worker = None
    try:
        options = ["--lease", LOCAL_LEASE_S, "--grace", "2"]
        worker = await start_worker(module, options, environment=environment, log=log)
    except ChildEnded:
        say(
            Text(
                "The worker can't start, as it says itself; it is tried again when a file changes.",
                style="yellow",
            )
        )
    try:
        yield worker
    finally:
        if worker is not None:
            await worker.stop()


async def _tell_its_end(worker: Child | None) -> None:
    if worker is not None:
        await worker.ended()
        say(Text("The worker ended, as it says itself; it starts again when a file changes.", style="yellow"))
