"""`python -m soak --minutes 30 --seed 7`: soak, print what was thrown and what was lost, and exit with 1 if anything was.

Ctrl-C calls the weather off and judges what there is so far; a second one ends everything at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from soak.soak import Outcome, run_soak


def main(arguments: list[str] | None = None) -> int:
    """Soak as the command line says; the exit status."""
    parser = argparse.ArgumentParser(
        prog="soak", description="Hundreds of runs in bad weather: is anything lost?"
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None, help="draws the same again; by default a new one")
    parser.add_argument("--shortened", type=float, default=1.0, help="outages take so much of their time")
    parser.add_argument("--planted", default="", help="SQL that breaks something: is it found?")
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    # Every worker that ever lived keeps its proxy's socket.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # connections are cut on purpose
    folder = Path(tempfile.mkdtemp(prefix="runhold-soak-"))
    folder.chmod(0o755)  # so that the database files can be beside the rest also when root soaks
    print(f"Soaking for {given.minutes:g} minutes with seed {seed} in {folder} …", flush=True)
    outcome = asyncio.run(
        _until_interrupted(given.minutes * 60, seed, folder, given.shortened, given.planted)
    )
    print(outcome)
    print(f"Again: make soak MINUTES={given.minutes:g} SEED={seed}")
    if outcome.problems:
        print(f"Logs of workers and stories of runs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


async def _until_interrupted(
    seconds: float, seed: int, folder: Path, shortened: float, planted: str
) -> Outcome:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    soaking = asyncio.current_task()
    assert soaking is not None

    def interrupt() -> None:
        if stop.is_set():
            soaking.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return await run_soak(
        seconds=seconds, seed=seed, folder=folder, stop=stop, shortened=shortened, planted=planted
    )


if __name__ == "__main__":
    sys.exit(main())
