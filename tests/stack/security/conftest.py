"""The cast signs up once; the vault is filled anew for every file, as tests of others empty the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from cast import Cast, Vault
from world import World

from runhold.local.stack import LocalStack


@pytest.fixture(scope="session")
def cast(stack: LocalStack) -> Cast:
    return Cast.assembled(stack)


@pytest.fixture(scope="module")
def vault(cast: Cast) -> Iterator[Vault]:
    with closing(World(cast.stack.database_url)) as world:
        filled = Vault.filled(cast, world)
        yield filled
        filled.emptied()
