"""What a run is doing, told to whoever watches it: broadcasts on its private topic ``execution:<id>``.

Hints, nothing more: they are sent after the fact, at most four times a second per run, in one request for many runs
of the worker. A worker tells of 64 runs a second at most, however many it works on: those with the oldest news first.
When Realtime is slow or away, or news come faster than that for long, they are dropped. No run ever waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from uuid import UUID

import httpx

from runhold.store.client import Access

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 0.25
"""Four messages a second and run: fast enough to read along, and far below Realtime's quotas."""

MAX_EVENTS: Final = 50
"""Kept per run between two messages; the oldest go first."""

MAX_TEXT_CHARS: Final = 16_000
"""Text kept per run between two messages; what came first goes first."""

MAX_RUNS_PER_REQUEST: Final = 16
"""Every message is checked against policies in the database and counts against the project's quota of messages,
whether anybody listens or not (the server does not tell)."""

MAX_RUNS_WAITING: Final = 256
"""Runs with news; of more, those with the oldest are dropped."""

TIMEOUT_S: Final = 5.0
COMPLAIN_EVERY_S: Final = 60.0


@dataclass(slots=True)
class _Pending:
    """What one run has to tell."""

    events: deque[dict[str, Any]] = field(default_factory=lambda: deque[dict[str, Any]](maxlen=MAX_EVENTS))
    text: str = ""
    text_step: int | None = None


class Progress:
    """Sends the progress of a worker's runs. ``run()`` is its task.

    :param url: the project's URL.
    :param access: what the worker presents now.
    :param http: the client that sends; its owner closes it.
    """

    def __init__(
        self,
        url: str,
        access: Callable[[], Access],
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = f"{url.rstrip('/')}/realtime/v1/api/broadcast"
        self._access = access
        self._http = http
        self._clock = clock
        self._pending: dict[UUID, _Pending] = {}
        self._wake = asyncio.Event()
        self._complained_at = float("-inf")
        self.sent = 0
        """Messages that Realtime took."""
        self.dropped = 0
        """Messages that it did not, and news of runs that were never sent."""

    def sink(self, execution_id: UUID) -> RunProgress:
        """The ``ProgressSink`` of one run."""
        return RunProgress(self, execution_id)

    def add(self, execution_id: UUID, event: str, payload: Mapping[str, Any]) -> None:
        """Note something to tell. Returns at once and never raises."""
        pending = self._pending.get(execution_id)
        if pending is None:
            pending = self._pending[execution_id] = _Pending()
            if len(self._pending) > MAX_RUNS_WAITING:
                self._pending.pop(next(iter(self._pending)))
                self.dropped += 1
        if event == "text":
            if pending.text_step != payload.get("step"):
                pending.text, pending.text_step = "", payload.get("step")
            pending.text = (pending.text + str(payload.get("text", "")))[-MAX_TEXT_CHARS:]
        else:
            pending.events.append({"event": event, **payload})
        self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled: a task of the worker."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                runs = list(islice(self._pending, MAX_RUNS_PER_REQUEST))
                await self._send([one for run in runs for one in _messages(run, self._pending.pop(run))])
                await asyncio.sleep(INTERVAL_S)

    async def _send(self, messages: list[dict[str, Any]]) -> None:
        try:
            response = await self._http.post(
                self._endpoint, json={"messages": messages}, headers=self._access().headers, timeout=TIMEOUT_S
            )
            response.raise_for_status()
        except (httpx.HTTPError, ValueError, TypeError) as error:  # a tool may emit what is no JSON
            self.dropped += len(messages)
            self._complain(error)
        else:
            self.sent += len(messages)

    def _complain(self, error: Exception) -> None:
        if self._clock() - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at = self._clock()
            logger.warning(
                "progress is not being heard (%d messages dropped so far): %s: %s",
                self.dropped,
                type(error).__name__,
                error,
            )


class RunProgress:
    """One run's ``ProgressSink``."""

    wants_text = True

    def __init__(self, progress: Progress, execution_id: UUID) -> None:
        self._progress = progress
        self._execution_id = execution_id

    def __call__(self, event: str, payload: Mapping[str, Any]) -> None:
        self._progress.add(self._execution_id, event, payload)


def _messages(execution_id: UUID, pending: _Pending) -> list[dict[str, Any]]:
    topic = f"execution:{execution_id}"
    messages: list[dict[str, Any]] = []
    if pending.events:
        payload = {"events": list(pending.events)}
        messages.append({"topic": topic, "event": "progress", "payload": payload, "private": True})
    if pending.text:
        payload = {"step": pending.text_step, "text": pending.text}
        messages.append({"topic": topic, "event": "text", "payload": payload, "private": True})
    return messages
