"""Write how a run leaves this worker, together with what is still to be told."""

from __future__ import annotations

import logging
from typing import Final, Literal

from msgspec.structs import replace

from runhold.errors import ContentRejected, RecordTooLarge, StoreError
from runhold.loop.endings import Ending, Outcome, failed
from runhold.loop.journal import Journal
from runhold.loop.ports import Entry, Result, ToolCall, Transition, Verdict

logger = logging.getLogger(__name__)

_KINDS: Final[dict[str, Literal["completed", "failed", "awaiting_review", "cancelled", "released"]]] = {
    "completed": "completed",
    "failed": "failed",
    "awaiting_review": "awaiting_review",
    "cancelled": "cancelled",
    "pending": "released",
}

_LAST_WORDS: Final = frozenset({"INTERNAL_ERROR", "CONTENT_REJECTED", "OUTPUT_TOO_LARGE"})
"""If not even these can be recorded, nothing can."""

MAX_REFUSALS: Final = 3
"""How often the database may answer an ending with another one: once is usual, more is a fault."""


async def finish(journal: Journal, ending: Ending) -> Outcome | None:
    """Write ``ending`` once all before it is durable; None if the database says to go on instead.

    What the database says meanwhile goes before: a limit that it found, a cancel. If it refuses the data of the
    ending (a result that can't be stored, say) or of an entry before it, the run fails for that.

    :raises Fenced: the run is someone else's.
    :raises StoreError: the database refuses to store even that the run failed.
    """
    refusals = 0
    while refusals < MAX_REFUSALS:
        try:
            await journal.confirm()
        except Ending as commanded:
            ending = commanded.instead_of(ending)
            continue
        except StoreError as error:
            ending = unexpected(journal, error)
            continue
        try:
            verdict = await journal.commit(_closing_entry(journal, ending))
        except Ending as commanded:
            ending = commanded  # what happened is durable by now, only the transition is not
            refusals += 1
        except StoreError as error:
            if ending.transition.error in _LAST_WORDS:
                raise
            ending = unexpected(journal, error)
        else:
            if verdict.kind != "continue":
                return _outcome(journal, ending.transition, verdict)
            return None
    raise StoreError("The database refuses every way to end the run that it asks for.")


def unexpected(journal: Journal, error: Exception) -> Ending:
    """The run failed because what it did can't be recorded, or by a fault of ours."""
    match error:
        case ContentRejected():
            return failed("CONTENT_REJECTED", f"{error}.", step=journal.step_number, **error.facts)
        case RecordTooLarge():
            return failed("OUTPUT_TOO_LARGE", _sentence(error), step=journal.step_number, **error.facts)
        case _:
            return _internal_error(journal, error)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _internal_error(journal: Journal, error: Exception) -> Ending:
    """The run failed by a fault of ours. The traceback is for the worker's log only: users must not see it."""
    logger.error(
        "run %s: unexpected %s after step %d",
        journal.run.id,
        type(error).__name__,
        journal.step_number,
        exc_info=error,
        extra={"run_id": str(journal.run.id), "step": journal.step_number},
    )
    message = f"The worker met an unexpected {type(error).__name__}; its log says where."
    return failed("INTERNAL_ERROR", message, step=journal.step_number)


def _closing_entry(journal: Journal, ending: Ending) -> Entry:
    """The ending's entry, with a word about every call that it leaves behind and that may have happened."""
    entry, transition = ending.entry, ending.transition
    left: list[Result] = []
    if transition.to in ("failed", "cancelled"):
        calls = journal.calls_of(journal.step_number)
        # of the others the database knows that they were cut off: a retry runs them again
        left = [_left_behind(call) for call in calls if call.status == "running" and call.effect == "unsafe"]
    if journal.broken:
        # all that a log still takes after it refused an entry
        return Entry(transition=transition, charge=journal.owes)
    charge = journal.owes and entry.step is None
    return replace(entry, results=[*entry.results, *left], transition=transition, charge=charge)


def _left_behind(call: ToolCall) -> Result:
    error = "the run ended while this call ran"
    return Result(step_number=call.step_number, position=call.position, status="unknown", error=error)


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
