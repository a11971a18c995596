"""The cast signs up once, in a stack of its own: what stands in the database is what the product put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from cast import Cast, Vault
from stack_thread import running_stack
from supabase_project import Project
from world import World


@pytest.fixture(scope="session")
def stack(external: Project | None) -> Iterator[Project]:
    """Nobody else's tables, functions or rows are in it, unless it is an external project."""
    if external is not None:
        yield external
        return
    with running_stack() as running:
        yield running


@pytest.fixture(scope="session")
def cast(stack: Project, signs_tokens: None) -> Cast:
    return Cast.assembled(stack)


@pytest.fixture(scope="module")
def vault(cast: Cast) -> Iterator[Vault]:
    with closing(World(cast.stack.database_url)) as world:
        filled = Vault.filled(cast, world)
        yield filled
        filled.emptied()
