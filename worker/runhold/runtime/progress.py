"""What a run is doing, told to whoever watches it: broadcasts on its private topic ``execution:<id>``.

Hints, nothing more: they are sent after the fact, at most four times a second per run, in one request for many runs
of the worker. A worker sends 64 messages a second at most, however many runs it works on: those with the oldest news
first. Several workers share the quota of their project (100 messages a second on Supabase's free plan): when Realtime
says that it is used up, a worker sends less, and more again later. When Realtime is slow or away, or news come faster
than they may be sent, they are dropped. No run ever waits for them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import httpx

from runhold.store.client import Access

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 0.25
"""Four messages a second and run: fast enough to read along."""

MAX_EVENTS: Final = 50
"""Kept per run between two messages; the oldest go first."""

MAX_TEXT_CHARS: Final = 16_000
"""Text kept per run between two messages; what came first goes first."""

MAX_MESSAGES_PER_REQUEST: Final = 16
"""Every message is checked against policies in the database and counts against the project's quota of messages,
whether anybody listens or not (the server does not tell)."""

MAX_MESSAGE_BYTES: Final = 200_000
"""Of one message. Supabase's smallest plan takes 256 kB; one message over it costs its whole request."""

LONGEST_PAUSE_S: Final = 30.0
"""Between two requests while the project's quota is used up."""

MAX_RUNS_WAITING: Final = 256
"""Runs with news; of more, those with the oldest are dropped."""

_ABOUT_A_MESSAGE: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""Realtime refuses a request for one message that is too large, or that it can't read."""

TIMEOUT_S: Final = 5.0
COMPLAIN_EVERY_S: Final = 60.0


@dataclass(slots=True)
class _Pending:
    """What one run has to tell."""

    events: deque[bytes] = field(default_factory=lambda: deque[bytes](maxlen=MAX_EVENTS))  # as JSON
    text: str = ""
    text_step: int | None = None

    def after(self, older: _Pending) -> _Pending:
        """This, with what ``older`` had to tell before."""
        text = older.text + self.text if self.text_step in (None, older.text_step) else self.text
        events = deque([*older.events, *self.events], MAX_EVENTS)
        step = older.text_step if self.text_step is None else self.text_step
        return _Pending(events, text[-MAX_TEXT_CHARS:], step)


class _Pace:
    """How much is sent, and how often: less while the project's quota is used up.

    :ivar messages: per request.
    :ivar pause_s: until the next request.
    """

    def __init__(self) -> None:
        self.messages = MAX_MESSAGES_PER_REQUEST
        self.pause_s = INTERVAL_S

    def slower(self, retry_after_s: float) -> None:
        self.messages = max(1, self.messages // 2)
        self.pause_s = min(max(self.pause_s * 2, retry_after_s), LONGEST_PAUSE_S)

    def faster(self) -> None:
        self.messages = min(self.messages + 1, MAX_MESSAGES_PER_REQUEST)
        self.pause_s = max(self.pause_s / 2, INTERVAL_S)


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
        self._pace = _Pace()
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
        try:
            encoded = b"" if event == "text" else json.dumps({"event": event, **payload}).encode()
        except (ValueError, TypeError) as error:  # a tool may emit what is no JSON
            self._drop(1, f"what a tool emitted is no JSON: {error}")
            return
        if len(encoded) > MAX_MESSAGE_BYTES:
            self._drop(
                1, f"what a tool emitted has {len(encoded)} bytes, and {MAX_MESSAGE_BYTES} may be sent"
            )
            return
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
            pending.events.append(encoded)
        self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled: a task of the worker."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._send(self._next_runs())
                await asyncio.sleep(self._pace.pause_s)

    def _next_runs(self) -> dict[UUID, _Pending]:
        """Runs with as many messages as fit a request, one run at least; they are not pending any more."""
        runs: dict[UUID, _Pending] = {}
        count = 0
        for run, pending in list(self._pending.items()):
            count += bool(pending.events) + bool(pending.text)
            if runs and count > self._pace.messages:
                break
            runs[run] = self._pending.pop(run)
        return runs

    async def _send(self, runs: dict[UUID, _Pending]) -> None:
        """Send what these runs have to tell. A message that Realtime refuses for itself must not cost the others: they
        go in halves."""
        messages = [message for run, pending in runs.items() for message in _messages(run, pending)]
        answer = await self._post(messages)
        if answer is None:
            return
        if answer.is_success:
            self.sent += len(messages)
            self._pace.faster()
        elif answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            self._pace.slower(_retry_after_s(answer))
            self._complain(
                "the project's quota of Realtime messages is used up [429]; less is sent until it has room"
            )
            self._put_back(runs)
        elif answer.status_code in _ABOUT_A_MESSAGE and len(messages) > 1:
            first, second = _halves(runs)
            await self._send(first)
            await asyncio.sleep(self._pace.pause_s)
            await self._send(second)
        else:
            self._drop(len(messages), f"Realtime answered {answer.status_code} {answer.text[:200]}".rstrip())

    def _put_back(self, runs: dict[UUID, _Pending]) -> None:
        """In front of what came meanwhile."""
        later, self._pending = self._pending, runs
        for run, pending in later.items():
            older = self._pending.get(run)
            self._pending[run] = pending if older is None else pending.after(older)

    async def _post(self, messages: Sequence[bytes]) -> httpx.Response | None:
        """What Realtime answers; None: nothing, and they are dropped."""
        body = b'{"messages":[' + b",".join(messages) + b"]}"
        headers = {**self._access().headers, "content-type": "application/json"}
        try:
            return await self._http.post(self._endpoint, content=body, headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            self._drop(len(messages), f"{type(error).__name__}: {error}")
            return None

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._complain(why)

    def _complain(self, why: str) -> None:
        if self._clock() - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at = self._clock()
            logger.warning("progress is not being heard (%d messages dropped so far): %s", self.dropped, why)


class RunProgress:
    """One run's ``ProgressSink``."""

    wants_text = True

    def __init__(self, progress: Progress, execution_id: UUID) -> None:
        self._progress = progress
        self._execution_id = execution_id

    def __call__(self, event: str, payload: Mapping[str, Any]) -> None:
        self._progress.add(self._execution_id, event, payload)


def _halves(runs: Mapping[UUID, _Pending]) -> tuple[dict[UUID, _Pending], dict[UUID, _Pending]]:
    """Half of the runs and the other half; of one run, its events and its text."""
    if len(runs) > 1:
        items, middle = list(runs.items()), len(runs) // 2
        return dict(items[:middle]), dict(items[middle:])
    ((run, pending),) = runs.items()
    return {run: _Pending(events=pending.events)}, {
        run: _Pending(text=pending.text, text_step=pending.text_step)
    }


def _messages(execution_id: UUID, pending: _Pending) -> list[bytes]:
    """What one run has to tell, as JSON; the newest if not all of it fits."""
    messages: list[bytes] = []
    events: list[bytes] = []
    size = 0
    for event in reversed(pending.events):
        size += len(event) + 1
        if events and size > MAX_MESSAGE_BYTES:
            break
        events.append(event)
    if events:
        payload = b'{"events":[' + b",".join(reversed(events)) + b"]}"
        messages.append(_message(execution_id, b"progress", payload))
    if pending.text:
        payload = json.dumps({"step": pending.text_step, "text": pending.text}).encode()
        messages.append(_message(execution_id, b"text", payload))
    return messages


def _message(execution_id: UUID, event: bytes, payload: bytes) -> bytes:
    topic = f"execution:{execution_id}".encode()
    return b'{"topic":"%b","event":"%b","private":true,"payload":%b}' % (topic, event, payload)


def _retry_after_s(answer: httpx.Response) -> float:
    """Seconds that the answer asks to wait, 0 if it does not say."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
