"""What exactly did the model see?"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from runhold.cli.exits import NotFound
from runhold.cli.options import RunId
from runhold.cli.output import print_json, say
from runhold.cli.project import find_project
from runhold.cli.render import plain, short
from runhold.cli.service import as_service
from runhold.loop import rebuild_request
from runhold.models.request import encode


def request(
    run: RunId,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="Its number.", show_default=False)],
    raw: Annotated[
        bool, typer.Option("--raw", help="The very bytes that were sent, not set out for reading.")
    ] = False,
) -> None:
    """Show what the model was asked at a step: the request, rebuilt from the log, byte for byte.

    It needs SUPABASE_SECRET_KEY (the running local stack's without): instructions and tools of an agent are not for
    its users.

    \b
    Examples:
      runhold request 3f2a9c1e 2
      runhold request 3f2a9c1e 2 --raw | sha256sum
      runhold request 3f2a9c1e 2 | jq -r '.messages[-1].content'
    """

    async def work() -> None:
        async with as_service(find_project()) as backend:
            identifier = await backend.find_run(run)
            recorded = await backend.recorded_run(identifier)
        try:
            sent = rebuild_request(recorded, step)
        except LookupError as error:
            count = len(recorded.steps)
            steps = {0: "no step yet", 1: "1 step"}.get(count, f"{count} steps")
            raise NotFound(f"Run {short(identifier)} has {steps}, so there is no request {step}.") from error
        content = encode(sent.body, stream=sent.stream)
        if raw:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
            return
        asked = next(one for one in recorded.steps if one.step_number == step)
        definition = recorded.definitions[asked.definition_id]
        say(
            f"Step {step} of run {short(identifier)}, asked as {plain(definition.agent_type)} "
            f"{plain(definition.version)}: {len(sent.body['messages'])} messages, "
            f"{len(asked.injected)} of them added by Runhold just before, {len(content):,} bytes."
        )
        print_json(sent.body)

    asyncio.run(work())
