"""Retention by hand, or by a timer of one's own."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from runhold.cli.options import AsJson, read_span
from runhold.cli.output import print_json, say
from runhold.cli.project import find_project
from runhold.cli.service import as_service

BATCH: Final = 1000
"""Runs deleted in one transaction: seconds, not minutes, under locks."""


def prune(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="SPAN", help="How long ago they ended: 90d, 12w.", show_default=False
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Delete at most so many, the oldest first; else all.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs that ended long ago, with all that belongs to them. It can't be undone.

    It needs SUPABASE_SECRET_KEY (the running local stack's without). Runs that have not ended stay, however old.

    \b
    Examples:
      runhold prune --older-than 90d
      runhold prune --older-than 52w --limit 10000
    """
    age = read_span(older_than, "--older-than")

    async def work() -> int:
        deleted = 0
        async with as_service(find_project()) as backend:
            while limit is None or deleted < limit:
                asked = BATCH if limit is None else min(BATCH, limit - deleted)
                found = await backend.prune(age, asked)
                deleted += found
                if found < asked:
                    break
        return deleted

    deleted = asyncio.run(work())
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"{'1 run' if deleted == 1 else f'{deleted} runs'} deleted.")
