"""The people of the demo. They sign up and in like anybody, with the publishable key."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from runhold.cli.exits import NotFound
from runhold.cli.person import Person, sign_in, sign_in_as, sign_up
from runhold.cli.project import Project
from runhold.cli.sessions import Sessions

USER: Final = "ada@example.com"
REVIEWER: Final = "grace@example.com"

PASSWORD: Final = "runhold-demo"
"""The same every time: the accounts are still there when the demo runs again."""


@asynccontextmanager
async def enter(project: Project, email: str, *, main: bool) -> AsyncGenerator[Person, None]:
    """The person, signed in (for ``runhold show`` afterwards, too); a new account the first time."""
    try:
        session = await sign_in(project, email, PASSWORD)
    except NotFound:
        session = await sign_up(project, email, PASSWORD)
    Sessions(project.sessions_folder, project.url).put(session, make_current=main)
    async with sign_in_as(project, email) as person:
        yield person


async def appoint(project: Project, reviewer: Person, agent_type: str) -> None:
    """Let somebody decide about the runs of an agent. Out of the API's reach: an operator does it by SQL."""
    async with await psycopg.AsyncConnection.connect(project.environment["DATABASE_URL"]) as connection:
        await connection.execute(
            "insert into runhold.reviewers (user_id, agent_type) values (%s, %s) on conflict do nothing",
            [reviewer.user_id, agent_type],
        )
