"""Five queues for claims: of which runs, in which order, is in ``queues.sql``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import psycopg

from bench.seed.statements import statements

QUEUES: Final = ("plain", "future", "behind", "capped", "fair")
"""Agent types, which must be registered before; a queue is all runs of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queues:
    """How long they are.

    :ivar runs: of each but ``behind``.
    :ivar users: of ``plain`` and ``future``.
    :ivar behind: runs of that queue.
    :ivar capped_users: who have as many runs as they may have, in ``capped``.
    :ivar single_users: who have one run each, at the end of ``capped`` and of ``fair``.
    """

    runs: int
    users: int
    behind: int
    capped_users: int
    single_users: int

    @classmethod
    def of(cls, runs: int) -> Self:
        """As many users as usually come with so many runs."""
        return cls(
            runs=runs,
            users=max(runs // 10, 1),
            behind=max(runs // 50, 1),
            capped_users=max(runs // 1000, 1),
            single_users=max(runs // 25, 2),
        )


def fill(
    connection: psycopg.Connection[Any], queues: Queues, say: Callable[[str], None] = lambda _: None
) -> None:
    """Fill the queues, behind an autocommit ``connection`` that may switch the triggers of runs off.

    Every queue is a transaction. There is no audit of these inserts, and nobody is woken.
    """
    given = asdict(queues)
    for name, statement in statements("queues.sql").items():
        with connection.transaction():
            connection.execute("alter table public.agent_executions disable trigger user")
            for part in statement.split(";\n"):
                if part.strip():
                    connection.execute(part, given)  # pyright: ignore[reportArgumentType] (parts of constants)
            connection.execute("alter table public.agent_executions enable trigger user")
        say(f"queue: {name}")
