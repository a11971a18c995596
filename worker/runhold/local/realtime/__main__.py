"""`python -m runhold.local.realtime`: the server as a process of its own.

Secrets come from the environment, never from the command line, which other users of the machine can read:
RUNHOLD_REALTIME_DATABASE_URL, RUNHOLD_JWT_SECRET, RUNHOLD_PUBLISHABLE_KEY, RUNHOLD_SECRET_KEY.

Prints one line when ready. Ends with 0 after SIGTERM or SIGINT, or, if RUNHOLD_EXIT_ON_STDIN_EOF=1 and its
standard input is a pipe, when that pipe closes: its parent has died. Any other end is a failure: 1, or 2 for
wrong settings.
"""

import argparse
import asyncio
import logging
import os
import signal
import stat
import sys

from runhold.local.realtime.config import RealtimeConfig
from runhold.local.realtime.errors import RealtimeError, RealtimeStartError
from runhold.local.realtime.server import RealtimeServer

logger = logging.getLogger("runhold.realtime")


def main() -> int:
    """Run the server; answers the exit status."""
    arguments = _arguments()
    logging.basicConfig(
        stream=sys.stderr,
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        config = RealtimeConfig(
            database_url=_setting("RUNHOLD_REALTIME_DATABASE_URL"),
            jwt_secret=_setting("RUNHOLD_JWT_SECRET"),
            publishable_key=_setting("RUNHOLD_PUBLISHABLE_KEY"),
            secret_key=_setting("RUNHOLD_SECRET_KEY"),
            host=arguments.host,
            port=arguments.port,
        )
    except RealtimeStartError as exc:
        sys.stderr.write(f"realtime: {exc}\n")
        return 2
    try:
        asyncio.run(_serve(config))
    except RealtimeError as exc:
        sys.stderr.write(f"realtime: {exc}\n")
        return 1
    return 0


async def _serve(config: RealtimeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waiting: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait(), name="realtime-stop-signal")]
    if os.environ.get("RUNHOLD_EXIT_ON_STDIN_EOF") == "1" and _stdin_is_pipe():
        waiting.append(asyncio.create_task(_stdin_closed(), name="realtime-stdin"))
    serving = asyncio.create_task(_serve_until_failure(config), name="realtime-serve")
    try:
        await asyncio.wait({serving, *waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not serving.done():
            serving.cancel()
        for task in waiting:
            task.cancel()
        await asyncio.wait({serving, *waiting})
    if not serving.cancelled():
        serving.result()


async def _serve_until_failure(config: RealtimeConfig) -> None:
    async with RealtimeServer(config) as server:
        sys.stdout.write(f"realtime ready on {server.url}\n")
        sys.stdout.flush()
        await server.wait_failed()


def _stdin_is_pipe() -> bool:
    # asyncio (up to Python 3.11) and Node give their children a socket pair where a shell gives a pipe.
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


async def _stdin_closed() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runhold.local.realtime", description="Local Realtime server"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser.parse_args()


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise RealtimeStartError(f"{name} is not set")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
