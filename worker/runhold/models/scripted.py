"""The scripted model server: OpenAI's chat completions on loopback, answered by a function of yours.

In a test:

    async with ScriptedModel(script) as model:
        client = OpenAIChatModel(api_key="any", base_url=model.base_url)

As a process of its own, which prints ``scripted model ready on http://127.0.0.1:PORT/v1``:

    python -m runhold.models.scripted MODULE:FUNCTION --port 0

It ends at SIGTERM and SIGINT, and with ``RUNHOLD_EXIT_ON_STDIN_EOF=1`` also when its standard input ends, so
that it never outlives who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

from runhold.errors import ConfigError
from runhold.models.script import Player, Request, Script

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

HOST: Final = "127.0.0.1"
SHUTDOWN_S: Final = 0.1
"""Answers still on their way get so long when the server closes; nobody waits for one that hangs."""


class ScriptedModel:
    """A model server in this process, on loopback. Needs aiohttp: ``pip install 'runhold[local]'``.

    :ivar base_url: what ``OPENAI_BASE_URL`` must be; known once it runs.
    :ivar requests: every request that came, in order; empty with ``record=False``.
    """

    def __init__(
        self,
        script: Script,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        record: bool = True,
        strict: bool = True,
    ) -> None:
        """
        :param port: 0 picks a free one.
        :param latency_s: seconds that each answer takes; a streamed one comes in even steps.
        :param record: keep every request; off for servers that run for long.
        :param strict: refuse conversations that OpenAI refuses, such as a tool call without its result.
        """
        self.requests: list[Request] = []
        self.base_url = ""
        self._port = port
        self._latency_s = latency_s
        self._record = record
        self._player = Player(script, strict=strict)
        self._runner: AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Start to listen.

        :raises ConfigError: aiohttp is not installed, or the port is taken.
        """
        try:
            from aiohttp import web

            from runhold.models.scripted_app import scripted_app
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise ConfigError("ScriptedModel needs aiohttp: pip install 'runhold[local]'.") from error
        app = scripted_app(self._player, latency_s=self._latency_s, on_request=self._took)
        # Cancelled handlers: an answer that hangs ends when its client has gone.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, self._port, backlog=1024).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"Port {self._port} of {HOST} can't be used: {error.strerror}.") from error
        self.base_url = f"http://{HOST}:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _took(self, raw: bytes) -> None:
        if self._record:
            self.requests.append(Request(raw))


def load_script(path: str) -> Script:
    """Import ``MODULE:FUNCTION``.

    :raises ConfigError: there is no such module or function.
    """
    module_name, _, name = path.partition(":")
    try:
        script: object = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"No script at {path!r} (MODULE:FUNCTION): {error}.") from error
    if not callable(script):
        raise ConfigError(f"{path!r} is not a function.")
    return cast("Script", script)


async def serve(script: Script, *, port: int, latency_s: float) -> None:
    """Serve until SIGTERM, SIGINT or, if asked for, the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if os.environ.get("RUNHOLD_EXIT_ON_STDIN_EOF") == "1":
        _at_end_of_stdin(lambda: loop.call_soon_threadsafe(stop.set))
    async with ScriptedModel(script, port=port, latency_s=latency_s, record=False) as model:
        sys.stdout.write(f"scripted model ready on {model.base_url}\n")
        sys.stdout.flush()
        await stop.wait()


def _at_end_of_stdin(then: Callable[[], object]) -> None:
    # A thread, because standard input may be a file, which event loops can't watch; os.read, because a daemon
    # thread inside sys.stdin would block the interpreter's end.
    def watch() -> None:
        while os.read(0, 4096):
            pass
        then()

    threading.Thread(target=watch, name="stdin-watch", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exits with status 2 and one sentence if it can't serve."""
    parser = argparse.ArgumentParser(
        prog="python -m runhold.models.scripted", description="Scripted model server"
    )
    parser.add_argument(
        "script", metavar="MODULE:FUNCTION", help="(messages, tools) -> say(…), call(…) or a fault"
    )
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default)")
    parser.add_argument("--latency-s", type=float, default=0.0, help="seconds that each answer takes")
    given = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    try:
        asyncio.run(serve(load_script(given.script), port=given.port, latency_s=given.latency_s))
    except ConfigError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
