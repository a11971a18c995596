"""As whom a command acts: a person who is signed in, or the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from runhold.cli.backend import Backend
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.service import as_service

AsService = Annotated[
    bool,
    typer.Option(
        "--service", help="Act with the project's secret key (SUPABASE_SECRET_KEY), not as a person."
    ),
]


@asynccontextmanager
async def acting(*, service: bool, email: str | None) -> AsyncGenerator[Backend, None]:
    """The project, called by the service, or by the person who is signed in (as ``email``, if several are)."""
    project = find_project()
    if service:
        async with as_service(project) as backend:
            yield backend
    else:
        async with sign_in_as(project, email) as person:
            yield Backend(person)
