"""One run's unsent entries, merged into one: what ``agent_worker_record`` takes per run and flush."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from runhold.errors import RecordTooLarge
from runhold.loop.ports import MAX_RECORD_BYTES, Entry, Verdict
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

MAX_BYTES: Final = MAX_RECORD_BYTES - 1024
"""Of the parts of one entry. The rest is for its envelope."""


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

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by what they are for, about, and not less."""
        calls = sum(len(call.intent) + len(call.outcome) for call in self.calls.values())
        results = sum(len(key) + len(outcome) for key, outcome in self.results.values())
        return {
            "message": sum(map(len, self.steps)) + len(self.steps),
            "calls": calls + sum(map(len, self.starts)) + sum(map(len, self.reviews)),
            "results": results,
            "state": len(self.state or b""),
            "end": len(self.transition or b"") + len(self.reserve or b""),
            "commas": sum(map(len, (self.steps, self.calls, self.reviews, self.starts, self.results))),
        }

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


@dataclass(frozen=True, slots=True)
class Encoded:
    """An entry whose parts are encoded: what the loop or a tool does to its objects later changes nothing."""

    entry: Entry
    parts: _Parts
    size: int

    @classmethod
    def of(cls, entry: Entry) -> Encoded:
        """:raises RecordTooLarge: it is more than gateways are sure to let pass."""
        parts = _Parts.of(entry)
        sizes = parts.sizes
        size = sum(sizes.values())
        if size > MAX_BYTES:
            part = max(sizes, key=lambda name: sizes[name])
            raise RecordTooLarge(
                f"what is to be recorded has {size} bytes and at most {MAX_BYTES} are allowed, most of it in the "
                f"{part}: keep large values in Supabase Storage and pass on where they are",
                facts={"part": part, "bytes": size, "allowed": MAX_BYTES},
            )
        return cls(entry, parts, size)


def encoded_in_pieces(entry: Entry) -> list[Encoded]:
    """``entry``; or, if it is too large, the model's message before the rest.

    A message may be recorded before what follows from it, except its calls: between the two the worker may die, and the
    next one finds an answer that did not end its run yet. A final answer is in both, so it may be half as large else.

    :raises RecordTooLarge: that does not help.
    """
    try:
        return [Encoded.of(entry)]
    except RecordTooLarge:
        if entry.step is None or entry.calls:
            raise
        return [Encoded.of(Entry(step=entry.step)), Encoded.of(replace(entry, step=None))]


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
        """Bytes of JSON, about, and not less."""

    def accepts(self, added: Encoded) -> bool:
        """Whether ``added`` can be merged into this one without changing what either means."""
        entry = added.entry
        if self.ends or self._parts.reserve is not None:
            return False  # whoever reserves does nothing before it knows what it got
        if self.size + added.size > MAX_BYTES:
            return False
        results = self._parts.results
        return not any((start.step_number, start.position) in results for start in entry.starts) and not any(
            (result.step_number, result.position) in results
            or (result.step_number, result.position) in self._started
            for result in entry.results
        )

    def add(self, encoded: Encoded, future: asyncio.Future[Verdict]) -> None:
        """Merge ``encoded``; ``future`` gets the verdict."""
        entry, added = encoded.entry, encoded.parts
        parts = self._parts
        self._note_what_cannot_be_merged(entry)
        self.size += encoded.size
        parts.steps += added.steps
        parts.reviews += added.reviews
        parts.starts += added.starts
        parts.calls.update(added.calls)
        for key, result in added.results.items():
            unsent = parts.calls.get(key)
            if unsent is None or key in self._unmergeable:
                parts.results[key] = result
            else:
                unsent.outcome = result[1]
        if added.state is not None:
            parts.state = added.state
        if added.reserve is not None:
            parts.reserve = added.reserve
        parts.charge = parts.charge or added.charge
        if added.transition is not None:
            parts.transition = added.transition
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
