"""The process that holds a stack in the background: `python -m runhold.local.supervise OPTIONS`, OPTIONS being JSON.

Says `ready` on its standard output when everything runs, or `failed` and one sentence. Then it stays until it is told
to stop (SIGTERM, SIGINT) or a part of the stack ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from runhold.local.errors import StackError
from runhold.local.stack import LocalStack, StackOptions, run_until_stopped

READY = "ready"
FAILED = "failed "
STDOUT = 1

log = logging.getLogger("runhold.local")


def main() -> int:
    """Hold the stack until the end; answers the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    values: dict[str, Any] = json.loads(sys.argv[1])
    values.update(folder=Path(values["folder"]), project=Path(values["project"]))
    options = StackOptions(**values)
    try:
        asyncio.run(run_until_stopped(options, _announce))
    except StackError as error:
        log.error("%s", error)
        _say(FAILED + json.dumps(str(error)))
        return 1
    return 0


def _announce(stack: LocalStack) -> None:
    log.info("the stack of %s is up", stack.folder)
    _say(READY)


def _say(line: str) -> None:
    """Tell the starter, who may not be there any more, and let go of its pipe: it waits for the end."""
    try:
        os.write(STDOUT, f"{line}\n".encode())
    except BrokenPipeError:
        log.info("nobody heard: %s", line)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, STDOUT)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
