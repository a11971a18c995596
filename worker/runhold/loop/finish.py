"""Write how a run leaves this worker, together with what is still to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from runhold.loop.endings import Ending, Outcome
from runhold.loop.journal import Journal
from runhold.loop.ports import Entry, JsonObject, Result, ToolCall, Transition, Verdict

_KINDS: Final[dict[str, Literal["completed", "failed", "awaiting_review", "cancelled", "released"]]] = {
    "completed": "completed",
    "failed": "failed",
    "awaiting_review": "awaiting_review",
    "cancelled": "cancelled",
    "pending": "released",
}


async def finish(journal: Journal, ending: Ending) -> Outcome | None:
    """Write ``ending`` once all before it is durable; None if the database says to go on instead.

    :raises Fenced: the run is someone else's.
    :raises StoreError: the database refuses the ending's data.
    """
    while True:
        try:
            await journal.confirm()
        except Ending as commanded:
            ending = commanded.instead_of(ending)
            continue
        try:
            verdict = await journal.commit(_closing_entry(journal, ending))
        except Ending as commanded:
            ending = commanded  # what happened is durable by now, only the transition is not
            continue
        if verdict.kind == "continue":
            journal.replace_calls(verdict.calls, verdict.reviews)
            return None
        return _outcome(journal, ending.transition, verdict)


def _closing_entry(journal: Journal, ending: Ending) -> Entry:
    """The ending's entry, with a word about every call that it leaves behind."""
    entry, transition = ending.entry, ending.transition
    if transition.to in ("failed", "cancelled"):
        calls = journal.calls_of(journal.step_number)
        left = [_left_behind(call) for call in calls if call.status == "running"]
        entry = replace(entry, results=[*entry.results, *left])
    if transition.to == "cancelled":
        transition = replace(transition, detail=_cancel_detail(journal, entry.results))
    return replace(entry, transition=transition)


def _left_behind(call: ToolCall) -> Result:
    status: Literal["unknown", "failed"] = "unknown" if call.effect == "unsafe" else "failed"
    error = "the run ended while this call ran"
    return Result(step_number=call.step_number, position=call.position, status=status, error=error)


def _cancel_detail(journal: Journal, left: Sequence[Result]) -> JsonObject:
    """Which calls of the last step took effect, before and after the cancel was known, and which may have."""
    calls = journal.calls_of(journal.step_number)
    late = list(journal.finished_late)
    finished = [call.tool_name for call in calls if call.status == "succeeded"]
    for name in late:
        if name in finished:
            finished.remove(name)
    lost = {(result.step_number, result.position) for result in left if result.status == "unknown"}
    unknown = [
        call.tool_name
        for call in calls
        if call.status == "unknown" or (call.step_number, call.position) in lost
    ]
    return {
        "step": journal.step_number,
        "finished": finished,
        "finished_after_request": late,
        "unknown": unknown,
    }


def _outcome(journal: Journal, transition: Transition, verdict: Verdict) -> Outcome:
    kind = _KINDS[transition.to]
    if verdict.cancel_requested and transition.to != "awaiting_review":
        kind = "cancelled"  # the request came before the record: the database made it so
    return Outcome(
        kind=kind,
        code=transition.error or transition.reason,
        detail=transition.detail,
        steps=journal.step_number,
    )
