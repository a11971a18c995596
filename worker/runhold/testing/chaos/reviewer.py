"""A reviewer who decides as fast as a program can: signed in, by the same client and the same rows as a person."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
from postgrest import APIError

from runhold.testing.chaos.patience import is_outage

if TYPE_CHECKING:
    from supabase import AsyncClient

LOOK_S: Final = 0.1
"""Between two looks at what is open."""

DECIDED_ALREADY: Final = "RH007"

Review = dict[str, Any]
Decide = Callable[[Review], Mapping[str, Any] | None]
"""An open row of ``agent_reviews`` → the columns that the reviewer sets; None leaves it open."""


def approve(review: Review) -> Mapping[str, Any]:
    """Approve what is asked, and say about an unknown outcome that it happened."""
    if review["kind"] == "unknown_outcome":
        return {"status": "approved", "answer": {"outcome": "happened", "result": "done"}}
    return {"status": "approved"}


class Reviewer:
    """Decides every open review that its client may see, until it is left. During an outage it tries again.

    :ivar decided: the reviews that it decided, as they were.
    """

    def __init__(self, client: AsyncClient, decide: Decide = approve) -> None:
        """
        :param client: signed in as somebody who is in ``runhold.reviewers``.
        """
        self.decided: list[Review] = []
        self._client = client
        self._decide = decide

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name="reviewer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """:raises Exception: whatever kept it from deciding."""
        if not self._task.cancel():
            self._task.result()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            try:
                for review in await self._open():
                    columns = self._decide(review)
                    if columns is not None:
                        await self._set(review, columns)
            except (APIError, httpx.TransportError) as error:
                if not is_outage(error):
                    raise
            await asyncio.sleep(LOOK_S)

    async def _open(self) -> list[Review]:
        answer: Any = await self._client.table("agent_reviews").select("*").eq("status", "pending").execute()
        return answer.data

    async def _set(self, review: Review, columns: Mapping[str, Any]) -> None:
        table: Any = self._client.table("agent_reviews")
        try:
            await table.update(dict(columns)).eq("id", review["id"]).execute()
        except APIError as error:
            if error.code != DECIDED_ALREADY:
                raise
        else:
            self.decided.append(review)
