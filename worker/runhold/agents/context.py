"""What a tool sees of the run that it works for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from runhold.errors import ConfigError

if TYPE_CHECKING:
    from supabase import AsyncClient

    Logger = logging.LoggerAdapter[logging.Logger]

STATE_MAX_BYTES = 8 * 1024
"""``state`` is rewritten whole with every change of it: what is larger belongs into a table of its own."""

_tool_logger = logging.getLogger("runhold.tools")


class RunContext:
    """The first argument of a tool: for whom, and as which call, it runs.

    The worker builds one per tool call. In tests of your own tools, build it yourself:
    ``RunContext(execution_id=uuid4(), user_id=uuid4())``.

    :ivar execution_id: the run (``agent_executions.id``).
    :ivar user_id: whose run it is.
    :ivar tenant_id: the tenant of the run's user, if the project has tenants.
    :ivar state: a small dict that the run keeps from step to step (JSON, at most 8 KiB). Change it in place;
        it is stored with the call's result, and only when it changed. Parallel calls of a step share it.
    :ivar idempotency_key: the same for every attempt of this very call, and for no other call: hand it to an
        API that deduplicates by key.
    :ivar fence: rises with every claim of the run. A system that remembers the highest fence it saw can
        refuse a worker that lost the run without knowing it yet.
    :ivar logger: writes with ``run_id`` and ``step`` as fields.
    """

    __slots__ = (
        "_emit",
        "_idempotency_key",
        "_logger",
        "_step",
        "_user_client",
        "_user_client_factory",
        "execution_id",
        "fence",
        "state",
        "tenant_id",
        "user_id",
    )

    def __init__(
        self,
        *,
        execution_id: UUID,
        user_id: UUID,
        tenant_id: str | None = None,
        state: dict[str, Any] | None = None,
        idempotency_key: str | Callable[[], str] = "",
        fence: int = 0,
        step: int = 0,
        emit: Callable[[str, Mapping[str, Any]], None] | None = None,
        user_client: Callable[[UUID, str | None], AsyncClient] | None = None,
    ) -> None:
        self.execution_id = execution_id
        self.user_id = user_id
        self.tenant_id = tenant_id
        self.state: dict[str, Any] = {} if state is None else state
        self.fence = fence
        # Made when they are asked for: most calls ask for neither.
        self._idempotency_key = idempotency_key
        self._logger: Logger | None = None
        self._step = step
        self._emit = emit
        self._user_client_factory = user_client
        self._user_client: AsyncClient | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this very call, and for no other call."""
        if not isinstance(self._idempotency_key, str):
            self._idempotency_key = self._idempotency_key()
        return self._idempotency_key

    @property
    def logger(self) -> Logger:
        """Writes with ``run_id`` and ``step`` as fields."""
        if self._logger is None:
            fields = {"run_id": str(self.execution_id), "step": self._step}
            self._logger = logging.LoggerAdapter(_tool_logger, fields)
        return self._logger

    @property
    def supabase(self) -> AsyncClient:
        """A Supabase client that acts **as the run's user**: row-level security decides what it may do.

        Its token carries what the user's own token would carry. It is signed when the first request needs it. If the
        project refuses it, requests raise :class:`~runhold.errors.UserAccessFault` and the run goes back to the queue.

        :raises ConfigError: the worker has no signing key to act as a user with.
        """
        if self._user_client is None:
            if self._user_client_factory is None:
                raise ConfigError(
                    "ctx.supabase acts as the run's user, which takes the project's JWT signing key: "
                    "give the worker one, or use a client of your own."
                )
            self._user_client = self._user_client_factory(self.user_id, self.tenant_id)
        return self._user_client

    def emit(self, event: str, payload: Mapping[str, Any] | None = None) -> None:
        """Tell whoever watches the run (topic ``execution:<id>``) that something happened.

        A hint: sent once, stored nowhere, dropped first when there is too much to send. It never fails.
        """
        if self._emit is not None:
            self._emit(event, payload or {})
