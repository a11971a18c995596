"""The ways in which a run leaves the loop.

An :class:`Ending` is raised wherever it becomes clear and written in one place (``run.py``): the code in
between need not know that a run may end there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from runhold.loop.ports import Entry, Json, JsonObject, ReleaseReason, Transition, Verdict

ErrorCode = Literal[
    "MAX_STEPS_EXCEEDED",
    "MAX_TOKENS_EXCEEDED",
    "MAX_COST_EXCEEDED",
    "MAX_TOOL_CALLS_EXCEEDED",
    "TOTAL_TIMEOUT",
    "STEP_TIMEOUT",
    "LOOP_DETECTED",
    "TOOL_FAILED",
    "MODEL_ERROR",
    "MODEL_REFUSED",
    "CONTENT_FILTERED",
    "INVALID_INPUT",
    "INVALID_OUTPUT",
    "REVIEW_EXPIRED",
    "BUDGET_EXCEEDED",
    "STOPPED_BY_REVIEWER",
    "CONTENT_REJECTED",
    "OUTPUT_TOO_LARGE",
    "INTERNAL_ERROR",
]
"""What ``agent_executions.error`` may say when the loop ends a run."""

_NOTHING: Final = Entry()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a claimed run left this worker, for logs and metrics. The database already knows.

    :ivar code: the error code of a failed run, the reason of a released one.
    :ivar steps: steps in the run's log by now.
    """

    kind: Literal["completed", "failed", "awaiting_review", "cancelled", "released", "fenced"]
    code: str | None = None
    detail: JsonObject | None = None
    steps: int = 0


class Ending(Exception):
    """The run is to leave this worker by ``transition``; ``entry`` is written together with it."""

    def __init__(self, transition: Transition, entry: Entry = _NOTHING) -> None:
        super().__init__(f"{transition.to} {transition.error or transition.reason or ''}".strip())
        self.transition = transition
        self.entry = entry

    def instead_of(self, other: Ending) -> Ending:
        """This ending, which the database commands, with what ``other`` had to tell of what happened."""
        if other.transition.to == "completed" and self.transition.to == "cancelled":
            return other  # the database turns it into `cancelled` by itself, and keeps the result
        happened = other.entry
        return Ending(
            self.transition, Entry(step=happened.step, results=happened.results, state=happened.state)
        )


class Fenced(Exception):
    """The run belongs to someone else now: end without another word."""


def completed(result: Json, entry: Entry = _NOTHING, *, final: bool = False) -> Ending:
    """The run has its result; ``final``: also if somebody spoke meanwhile, as the model can't answer any more."""
    return Ending(Transition(to="completed", result=result, final=final), entry)


def failed(code: ErrorCode, message: str, entry: Entry = _NOTHING, **facts: Any) -> Ending:
    """The run failed with ``code``; ``message`` is one sentence for people, ``facts`` are for programs."""
    return Ending(Transition(to="failed", error=code, detail={"message": message, **facts}), entry)


def cancelled() -> Ending:
    """Somebody asked for it. What its calls came to, the database tells by its rows."""
    return Ending(Transition(to="cancelled"))


def paused(entry: Entry = _NOTHING) -> Ending:
    """The run waits for a person and gives up its slot."""
    return Ending(Transition(to="awaiting_review"), entry)


def released(reason: ReleaseReason, *, delay_s: float = 0, detail: JsonObject | None = None) -> Ending:
    """Another worker, or this one later, goes on; not counted as an attempt. ``detail`` tells the run's owner why."""
    delay_ms = round(delay_s * 1000)
    return Ending(Transition(to="pending", reason=reason, delay_ms=delay_ms, detail=detail))


def stopped(verdict: Verdict) -> Ending:
    """What the verdict ``stop`` commands."""
    if verdict.code == "CANCELLED":
        return cancelled()
    return Ending(Transition(to="failed", error=verdict.code, detail=verdict.detail))
