"""What the commands ask of a project, as the person who is signed in: plain Supabase, like any frontend."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, cast

import httpx
from postgrest.exceptions import APIError
from supabase import AsyncClient

from runhold.cli.exits import CommandError, NotFound
from runhold.errors import ConfigError, Refused, StoreUnavailable

Row = dict[str, Any]

RUN_COLUMNS: Final = (
    "id, user_id, agent_type, status, input_data, result, error, error_detail, step_count, token_count, "
    "cost_usd, tool_call_count, review_count, attempt, worker_id, created_at, started_at, completed_at, state_since, "
    "cancel_requested_at, active_ms, queued_ms, review_ms, limits, wake_at, forked_from, copied_steps"
)
LIST_COLUMNS: Final = (
    "id, agent_type, status, error, step_count, token_count, cost_usd, created_at, completed_at, wake_at, forked_from, "
    "cancel_requested_at"
)

_HEX: Final = re.compile(r"[0-9a-f-]{4,36}")
_MIN_PREFIX: Final = 4
_TOKEN_CODES: Final = frozenset({"PGRST300", "PGRST301", "PGRST302", "PGRST303"})


class _Executes(Protocol):
    def execute(self) -> Awaitable[Any]: ...


class Caller(Protocol):
    """Who calls: a person who is signed in, or the service."""

    @property
    def client(self) -> AsyncClient:
        """Acts as them."""
        ...

    async def keep_signed_in(self) -> None:
        """Called before every request."""
        ...


class Backend:
    """Calls as one person, or as the service."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def submit(
        self,
        agent_type: str,
        input_data: Any,
        *,
        limits: Any = None,
        idempotency_key: str | None = None,
        wake_at: datetime | None = None,
    ) -> Row:
        """Insert a run; with a key that was used before, the run that this started."""
        arguments = {
            "agent_type": agent_type,
            "input_data": input_data,
            "limits": limits,
            "idempotency_key": idempotency_key,
            "wake_at": wake_at and wake_at.isoformat(),
        }
        return await self._rpc("agent_submit", arguments)

    async def runs(self, *, agent_type: str | None, status: str | None, limit: int) -> list[Row]:
        query = self._table("agent_executions").select(LIST_COLUMNS)
        if agent_type:
            query = query.eq("agent_type", agent_type)
        if status:
            query = query.eq("status", status)
        return await self._rows(query.order("created_at", desc=True).limit(limit))

    async def run(self, execution_id: str) -> Row:
        query = self._table("agent_executions").select(RUN_COLUMNS).eq("id", execution_id)
        rows = await self._rows(query)
        if not rows:
            raise NotFound(f"There is no run {execution_id}, or it is not yours.")
        return rows[0]

    async def find_run(self, prefix: str) -> str:
        """The id of the one run that begins so."""
        query = _between(self._table("agent_executions").select("id"), "id", prefix).limit(3)
        return _only([str(row["id"]) for row in await self._rows(query)], prefix, "run")

    async def timeline(self, execution_id: str) -> list[Row]:
        return await self._rpc("agent_timeline", {"execution_id": execution_id})

    async def export(self, execution_id: str) -> Row:
        """Everything of a run; ``records`` are JSON texts, so that no number loses digits on the way."""
        return await self._rpc("agent_export", {"execution_id": execution_id})

    async def cancel(self, execution_id: str, reason: str | None) -> Row:
        return await self._rpc("agent_cancel", {"execution_id": execution_id, "reason": reason})

    async def retry(self, execution_id: str, limits: Row | None) -> Row:
        return await self._rpc("agent_retry", {"execution_id": execution_id, "limits": limits})

    async def fork(self, execution_id: str, from_step: int) -> Row:
        return await self._rpc("agent_fork", {"execution_id": execution_id, "from_step": from_step})

    async def send(self, execution_id: str, content: str) -> Row:
        return await self._rpc("agent_send", {"execution_id": execution_id, "content": content})

    async def agents(self) -> list[Row]:
        query = self._table("agent_types").select("name, description, enabled, input_schema")
        return await self._rows(query.order("name"))

    async def disable(self, agent_type: str, *, fail_pending: bool) -> Row:
        return await self._rpc("agent_disable", {"agent_type": agent_type, "fail_pending": fail_pending})

    async def enable(self, agent_type: str) -> Row:
        return await self._rpc("agent_enable", {"agent_type": agent_type})

    async def reviews(self, *, all_of_them: bool, limit: int) -> list[Row]:
        query = self._table("agent_reviews").select("*")
        if not all_of_them:
            query = query.eq("status", "pending")
        return await self._rows(query.order("requested_at", desc=all_of_them).limit(limit))

    async def find_review(self, prefix: str) -> Row:
        """The one review that begins so, or the one open review of the run that does."""
        table = self._table("agent_reviews")
        found = await self._rows(_between(table.select("*"), "id", prefix).limit(3))
        if not found:
            query = _between(table.select("*"), "execution_id", prefix).eq("status", "pending")
            found = await self._rows(query.limit(3))
        chosen = _only([str(row["id"]) for row in found], prefix, "review")
        return next(row for row in found if row["id"] == chosen)

    async def decide(self, review_id: str, changes: Row) -> Row:
        """Update a review, as a reviewer's console does."""
        rows = await self._rows(self._table("agent_reviews").update(changes).eq("id", review_id))
        if not rows:
            raise NotFound(f"There is no review {review_id}, or you are not one of its reviewers.")
        return rows[0]

    async def decide_all(self, review_ids: Sequence[str], status: str, comment: str | None) -> list[Row]:
        """One decision about many reviews; a verdict for each."""
        return await self._rpc(
            "agent_decide", {"ids": list(review_ids), "status": status, "comment": comment}
        )

    async def review_context(self, review_id: str) -> Row:
        return await self._rpc("agent_review_context", {"review_id": review_id})

    async def health(self, agent_type: str | None, since: datetime) -> Row:
        return await self._rpc("agent_health_metrics", {"agent_type": agent_type, "since": since.isoformat()})

    # -------------------------------------------------------------------------------------------- details

    @property
    def client(self) -> AsyncClient:
        """The client that calls."""
        return self._caller.client

    def _table(self, name: str) -> Any:  # its methods are typed in part only
        return self.client.table(name)

    async def _rpc(self, name: str, arguments: Row) -> Any:
        given = {key: value for key, value in arguments.items() if value is not None}
        return (await self._execute(self.client.rpc(name, given))).data

    async def _rows(self, query: _Executes) -> list[Row]:
        return cast("list[Row]", (await self._execute(query)).data)

    async def _execute(self, query: _Executes) -> Any:
        await self._caller.keep_signed_in()
        return await answered(query.execute(), self.client)


async def answered(call: Awaitable[Any], client: AsyncClient) -> Any:
    """The answer of a request, its failures as errors of ours."""
    try:
        return await call
    except APIError as error:
        raise refusal(error, client) from error
    except httpx.TransportError as error:
        raise StoreUnavailable(
            f"Nothing answers at {client.supabase_url}: {error or type(error).__name__}."
        ) from error


def refusal(error: APIError, client: AsyncClient) -> Exception:
    """What the database said, as one sentence."""
    code, message = str(error.code or ""), str(error.message or "the request was refused").rstrip(".")
    if code in ("PGRST202", "PGRST205", "42P01"):
        return ConfigError(
            f"The project at {client.supabase_url} lacks Runhold's tables and functions ({message}): "
            "apply supabase/migrations to it first."
        )
    if "api key" in message.lower():
        return ConfigError(
            f"The project at {client.supabase_url} refuses SUPABASE_PUBLISHABLE_KEY: {message}."
        )
    if code in _TOKEN_CODES:
        return NotFound(f"The session is not valid any more ({message}): `runhold login` again.")
    hint = f" {error.hint}" if error.hint else ""
    return Refused(f"{message}.{hint}", code=code, hint=error.hint)


def _between(query: Any, column: str, prefix: str) -> Any:
    """Narrow a query to ids that begin with ``prefix``: uuids are ordered as they are written."""
    digits = prefix.lower().replace("-", "")
    if not _HEX.fullmatch(prefix.lower()) or not _MIN_PREFIX <= len(digits) <= 32:
        raise NotFound(f"{prefix!r} is no id: give a uuid, or at least its first {_MIN_PREFIX} digits.")
    return query.gte(column, _uuid(digits.ljust(32, "0"))).lte(column, _uuid(digits.ljust(32, "f")))


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _only(ids: Sequence[str], prefix: str, what: str) -> str:
    if not ids:
        raise NotFound(f"There is no {what} {prefix}, or it is not yours to see.")
    if len(ids) > 1:
        raise CommandError(f"Several {what}s begin with {prefix}: give more digits.")
    return ids[0]
