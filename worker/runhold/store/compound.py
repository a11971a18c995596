"""One run's unsent entries, merged into one: what ``agent_worker_record`` takes per run and flush."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from runhold.loop.ports import Entry, Verdict
from runhold.store.codec import (
    CallKey,
    encode_call,
    encode_key,
    encode_outcome,
    encode_reserve,
    encode_review,
    encode_state,
    encode_step,
    encode_transition,
    splice,
)

MAX_SIZE: Final = 1024 * 1024
"""Bytes from which on nothing is merged behind an entry: many large outputs in one could be too much for a gateway."""


@dataclass(slots=True)
class _Call:
    """A call whose intent is unsent: its outcome may still be replaced."""

    intent: bytes
    outcome: bytes


@dataclass(slots=True)
class _Parts:
    """One entry, encoded, before it is known that all of it can be."""

    steps: list[bytes] = field(default_factory=list[bytes])
    calls: dict[CallKey, _Call] = field(default_factory=dict[CallKey, _Call])
    reviews: list[bytes] = field(default_factory=list[bytes])
    starts: list[bytes] = field(default_factory=list[bytes])
    results: dict[CallKey, tuple[bytes, bytes]] = field(default_factory=dict[CallKey, tuple[bytes, bytes]])
    state: bytes | None = None
    reserve: bytes | None = None
    charge: bool = False
    transition: bytes | None = None

    @classmethod
    def of(cls, entry: Entry) -> _Parts:
        parts = cls()
        if entry.step is not None:
            parts.steps.append(encode_step(entry.step))
        for call in entry.calls:
            parts.calls[call.step_number, call.position] = _Call(*encode_call(call))
        parts.reviews.extend(map(encode_review, entry.reviews))
        parts.starts.extend(map(encode_key, entry.starts))
        for result in entry.results:
            key = (result.step_number, result.position)
            parts.results[key] = encode_key(result), encode_outcome(result)
        if entry.state is not None:
            parts.state = encode_state(entry.state)
        if entry.reserve is not None:
            parts.reserve = encode_reserve(entry.reserve)
        parts.charge = entry.charge
        if entry.transition is not None:
            parts.transition = encode_transition(entry.transition)
        return parts


class Compound:
    """Entries of one run that go out together, and those who wait for the verdict on them.

    The database applies the parts of an entry in an order of its own (calls before results, say). Entries may
    be merged as long as no order of the parts changes what they mean.
    """

    __slots__ = ("_active_ms", "_parts", "_started", "_unmergeable", "ends", "futures", "size")

    def __init__(self) -> None:
        self._parts = _Parts()
        self._active_ms = 0
        # Calls whose result must stay a result: SQL does more with it than store it.
        self._unmergeable: set[CallKey] = set()
        self._started: set[CallKey] = set()
        self.futures: list[asyncio.Future[Verdict]] = []
        self.ends = False
        """Whether it takes the run off this worker: nothing can be merged behind it."""
        self.size = 0
        """Bytes of JSON, about."""

    def accepts(self, entry: Entry) -> bool:
        """Whether ``entry`` can be merged into this one without changing what either means."""
        if self.ends or self._parts.reserve is not None:
            return False  # whoever reserves does nothing before it knows what it got
        if self.size >= MAX_SIZE:
            return False
        results = self._parts.results
        return not any((start.step_number, start.position) in results for start in entry.starts) and not any(
            (result.step_number, result.position) in results
            or (result.step_number, result.position) in self._started
            for result in entry.results
        )

    def add(self, entry: Entry, future: asyncio.Future[Verdict]) -> None:
        """Merge ``entry``; ``future`` gets the verdict.

        :raises StoreError: a part of it is too large; nothing was merged.
        """
        added = _Parts.of(entry)
        parts = self._parts
        self._note_what_cannot_be_merged(entry)
        self.size += sum(map(len, added.steps)) + sum(map(len, added.reviews)) + 48 * len(added.starts)
        parts.steps += added.steps
        parts.reviews += added.reviews
        parts.starts += added.starts
        for key, call in added.calls.items():
            parts.calls[key] = call
            self.size += len(call.intent) + len(call.outcome)
        for key, result in added.results.items():
            self.size += len(result[0]) + len(result[1])
            unsent = parts.calls.get(key)
            if unsent is None or key in self._unmergeable:
                parts.results[key] = result
            else:
                unsent.outcome = result[1]
        if added.state is not None:
            parts.state = added.state
            self.size += len(added.state)
        if added.reserve is not None:
            parts.reserve = added.reserve
            self.size += len(added.reserve)
        parts.charge = parts.charge or added.charge
        if added.transition is not None:
            parts.transition = added.transition
            self.size += len(added.transition)
            self.ends = True
        self._active_ms += entry.active_ms
        self.futures.append(future)

    def encode(self, execution: str, fence: int, seq: int) -> bytes:
        """The whole as one item of ``entries``, under its number."""
        parts = self._parts
        fields = [b'{"execution":"%s","fence":%d,"seq":%d' % (execution.encode(), fence, seq)]
        if parts.steps:
            fields.append(b'"steps":[%s]' % b",".join(parts.steps))
        if parts.calls:
            calls = [splice(call.intent, call.outcome) for call in parts.calls.values()]
            fields.append(b'"calls":[%s]' % b",".join(calls))
        if parts.reviews:
            fields.append(b'"reviews":[%s]' % b",".join(parts.reviews))
        if parts.starts:
            fields.append(b'"starts":[%s]' % b",".join(parts.starts))
        if parts.results:
            results = [splice(key, outcome) for key, outcome in parts.results.values()]
            fields.append(b'"results":[%s]' % b",".join(results))
        if parts.state is not None:
            fields.append(b'"state":%s' % parts.state)
        if self._active_ms:
            fields.append(b'"active_ms":%d' % self._active_ms)
        if parts.reserve is not None:
            fields.append(b'"reserve":%s' % parts.reserve)
        if parts.charge:
            fields.append(b'"charge":true')
        if parts.transition is not None:
            fields.append(b'"transition":%s' % parts.transition)
        return b",".join(fields) + b"}"

    def _note_what_cannot_be_merged(self, entry: Entry) -> None:
        for review in entry.reviews:
            self._unmergeable.add((review.step_number, review.position))
        for start in entry.starts:
            self._unmergeable.add((start.step_number, start.position))
            self._started.add((start.step_number, start.position))
        for result in entry.results:
            if result.status == "unknown":  # opens a review
                self._unmergeable.add((result.step_number, result.position))
