"""The :class:`~runhold.agents.RunContext` of each tool call."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import to_jsonable_python

from runhold.agents import RunContext
from runhold.loop.canonical import canonical_json, clean, clean_text
from runhold.loop.ports import ProgressSink, Run, ToolCall, UserClientFactory
from runhold.loop.redaction import NOTHING, Redaction, hide_everywhere
from runhold.loop.state import RunState
from runhold.loop.user_access import UserAccess

if TYPE_CHECKING:
    from supabase import AsyncClient

logger = logging.getLogger(__name__)


class Contexts:
    """Makes contexts for the calls of one run."""

    def __init__(
        self,
        run: Run,
        state: RunState,
        progress: ProgressSink | None,
        user_client: UserClientFactory | None,
        access: UserAccess,
        redaction: Redaction = NOTHING,
    ) -> None:
        self._run = run
        self._state = state
        self._progress = progress
        self._user_client = user_client
        self._access = access
        self._redaction = redaction
        self._loop = asyncio.get_running_loop()

    def __call__(self, call: ToolCall) -> RunContext:
        return RunContext(
            execution_id=self._run.id,
            user_id=self._run.user_id,
            tenant_id=self._run.tenant_id,
            state=self._state.values,
            idempotency_key=partial(self.idempotency_key, call),
            fence=self._run.fence,
            step=call.step_number,
            emit=partial(self._emit, call),
            user_client=None if self._user_client is None else partial(self._client, self._user_client, call),
        )

    def idempotency_key(self, call: ToolCall) -> str:
        """``execution:step:position:hash(tool, arguments)``: the same for each attempt of the same call.

        The hash makes it another call when a reviewer changed the arguments.
        """
        said = hashlib.sha256(canonical_json([call.tool_name, call.input]).encode()).hexdigest()[:16]
        return f"{self._run.id}:{call.step_number}:{call.position}:{said}"

    def _client(
        self, make: UserClientFactory, call: ToolCall, user_id: UUID, tenant_id: str | None
    ) -> AsyncClient:
        return make(self._access.noter(call))

    def _emit(self, call: ToolCall, event: str, payload: Mapping[str, Any]) -> None:
        """Called by tools, in the event loop or in a thread; whoever listens is called in the event loop."""
        if self._progress is None:
            return
        try:
            said = clean(to_jsonable_python(payload, fallback=str))
            hidden = self._redaction.texts(call.tool_name, call.input)
            said = hide_everywhere(self._redaction.masked(call.tool_name, said), hidden)
            told = {"step": call.step_number, "event": clean_text(event), "payload": said}
            self._loop.call_soon_threadsafe(self._progress, "custom", told)
        except Exception:
            logger.warning("an event %r of a tool could not be sent", event, exc_info=True)
