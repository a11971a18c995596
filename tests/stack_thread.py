"""A local stack for tests of every kind: it lives in a thread with an event loop of its own.

So it serves synchronous tests, and asynchronous ones whose event loop changes from test to test.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from preload import safe_update_settings

from runhold.local.control import erase
from runhold.local.stack import LocalStack, StackOptions

T = TypeVar("T")
_loops: WeakKeyDictionary[LocalStack, asyncio.AbstractEventLoop] = WeakKeyDictionary()


async def on_its_loop(stack: LocalStack, doing: Coroutine[Any, Any, T]) -> T:
    """Do something with a running stack's parts, in the event loop that they belong to."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(doing, _loops[stack]))


@contextmanager
def running_stack(
    *,
    api: bool = True,
    realtime: bool = True,
    durable: bool = False,
    config: str | None = None,
    migrations: bool = True,
) -> Iterator[LocalStack]:
    """Start a stack on free ports in a folder of its own, migrations applied, no seed; stop and delete it at the end.

    `durable`: a crash of its PostgreSQL loses nothing that was committed; slower. Sessions of the API refuse an
    UPDATE or DELETE without WHERE, as on hosted projects, where a C compiler is installed. `config`: the
    `config.toml` of a project that has nothing else; without it the project is this repository. `migrations`: False
    leaves the database as a new Supabase project is.
    """
    folder = Path(tempfile.mkdtemp(prefix="runhold-test-"))
    folder.chmod(0o755)  # so that the database files can be beside the rest also when root runs the tests
    project = folder / "project"
    if config is not None:
        (project / "supabase").mkdir(parents=True)
        (project / "supabase" / "config.toml").write_text(config)
    if not migrations:
        (project / "supabase" / "migrations").mkdir(parents=True)
        for path in Path("supabase", "migrations").glob("*.sql"):  # a project's own copies count
            (project / "supabase" / "migrations" / path.name).touch()
    options = StackOptions(
        folder=folder / "stack",
        project=project if project.exists() else Path(),
        port=0,
        api=api,
        realtime=realtime,
        seed=False,
        durable=durable,
        postgres_settings=safe_update_settings() if api else {},
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local stack", daemon=True)
    thread.start()
    try:
        stack = asyncio.run_coroutine_threadsafe(LocalStack.start(options), loop).result()
        _loops[stack] = loop
        try:
            yield stack
        finally:
            asyncio.run_coroutine_threadsafe(stack.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        erase(folder / "stack")
        shutil.rmtree(folder)
