"""The parts of the demo, put up in order and taken down in reverse, whatever happens."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runhold.cli.exits import CommandError
from runhold.cli.first_start import tell_first_start
from runhold.cli.parts import example_folder, has_model, load_script, make_tables
from runhold.cli.project import LOCAL_FOLDER, Project, local_project
from runhold.cli.worker_process import without_project, worker_spec
from runhold.environment.variables import MODEL, MODEL_URL
from runhold.local.child import Child
from runhold.local.ports import is_free
from runhold.local.stack import DEFAULT_PORT, LocalStack, StackOptions, environment_of
from runhold.local.state import load_state
from runhold.models.scripted import ScriptedModel
from runhold.testing.mailbox import HOST, Mailbox

EXAMPLE: Final = "compliance"
SCRIPTED_LATENCY_S: Final = 0.2
"""How long the scripted model thinks: long enough to see that somebody does."""

SCRIPTED: Final = "scripted"

_CLAIMED: Final = re.compile(r"claimed \d+ by (\w+)")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is up.

    :ivar stack: the stack that this demo started; None if one ran already.
    :ivar model: how the model is called in what is told.
    """

    project: Project
    stack: LocalStack | None
    mailbox: Mailbox
    model: str
    worker: Child
    worker_log: Path
    log_start: int

    def claims(self) -> list[str]:
        """Why the worker looked, each time that it found something, as its log says."""
        log = self.worker_log.read_text(encoding="utf-8", errors="replace")
        return _CLAIMED.findall(log[self.log_start :])

    async def watch(self) -> None:
        """For as long as all parts run; raises ChildEnded, with the last lines of its log, when one ends."""
        waiting = [asyncio.create_task(self._worker_ended())]
        if self.stack is not None:
            waiting.append(asyncio.create_task(self.stack.wait()))
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in waiting:
                task.cancel()

    async def _worker_ended(self) -> None:
        raise await self.worker.ended()


@asynccontextmanager
async def put_up(
    *, port: int | None, realtime: bool, told: Callable[[str, str], None]
) -> AsyncGenerator[Stage, None]:
    """Start what is missing.

    :param port: of the stack's API; None takes the usual one, or a free one if that is taken.
    :param told: is called with the name of a part and what to say about it, when it is up.
    """
    folder = local_folder()
    async with AsyncExitStack() as parts:
        project = local_project(folder)
        stack = None
        if project is None:
            tell_first_start()
            stack = await parts.enter_async_context(await LocalStack.start(_options(folder, port)))
            state = load_state(folder)
            assert state is not None, "a started stack has its state"
            project = Project(environment=environment_of(state, stack.url, stack.database_url), local=folder)
        told(
            "Supabase",
            f"{project.url}  PostgreSQL 17, REST, Auth, Realtime" + ("" if stack else " (it ran already)"),
        )
        await make_tables(project.environment["DATABASE_URL"], example_folder(EXAMPLE))
        model, environment = await _model(parts)
        told("model", model)
        mailbox = await parts.enter_async_context(Mailbox())
        told("mail server", f"smtp://{HOST}:{mailbox.port}")
        environment |= {"SMTP_HOST": HOST, "SMTP_PORT": str(mailbox.port)}
        log = folder / "logs" / "worker.log"
        log_start = len(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else 0
        options = [] if realtime else ["--no-realtime"]
        worker, _ = await Child.start(
            worker_spec(
                ["worker", str(example_folder(EXAMPLE) / "agent.py"), *options],
                environment={**without_project(), **project.environment, **environment},
                log=log,
                grace_s=0,  # no longer: a person waits for the demo's end
            )
        )
        parts.push_async_callback(worker.stop)
        told(
            "worker",
            f"a process of its own; it logs to {_shown(log)}",
        )
        yield Stage(
            project=project,
            stack=stack,
            mailbox=mailbox,
            model=model,
            worker=worker,
            worker_log=log,
            log_start=log_start,
        )


def local_folder() -> Path:
    """Where the demo's stack is: in the present folder."""
    return Path(LOCAL_FOLDER).absolute()


def _options(folder: Path, port: int | None) -> StackOptions:
    if port is None:
        port = DEFAULT_PORT if is_free(DEFAULT_PORT) else 0
    return StackOptions(folder=folder, port=port)


async def _model(parts: AsyncExitStack) -> tuple[str, dict[str, str]]:
    """The model that the environment names, else the scripted one: what to call it, and the worker's variables."""
    if has_model():
        name = os.environ.get(MODEL, "gpt-5-mini")
        return f"{name} at {urlsplit(os.environ.get(MODEL_URL, '')).hostname or 'OpenAI'}", {}
    script = load_script(example_folder(EXAMPLE))
    if script is None:
        raise CommandError(
            "The example's script.py is missing from this installation; install runhold again."
        )
    server = await parts.enter_async_context(
        ScriptedModel(script, latency_s=SCRIPTED_LATENCY_S, record=False)
    )
    variables = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": SCRIPTED, "RUNHOLD_MODEL": SCRIPTED}
    return f"{server.base_url}  scripted (OPENAI_API_KEY is not set)", variables


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
