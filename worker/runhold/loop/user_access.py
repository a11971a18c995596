"""What keeps the calls of a run from acting as its user: a fault of the installation, not of the run."""

from __future__ import annotations

from functools import partial
from typing import Final

from runhold.loop.endings import Ending, released
from runhold.loop.ports import Entry, NoteFault, ToolCall

RETRY_DELAY_S: Final = 30.0
"""Until the run is tried again: somebody has to change a key, or a server to learn of it."""


class UserAccess:
    """Notes, per call, why ``ctx.supabase`` could not act as the run's user. Written from any thread."""

    def __init__(self) -> None:
        self._faults: dict[tuple[int, int], str] = {}

    def noter(self, call: ToolCall) -> NoteFault:
        """What the clients of ``call`` note faults with."""
        return partial(self._note, (call.step_number, call.position))

    def has_fault(self, call: ToolCall) -> bool:
        """Whether ``call`` met one: what came of it says nothing that the model may see."""
        return (call.step_number, call.position) in self._faults

    def require(self, entry: Entry | None = None) -> None:
        """:raises Ending: a call met a fault: the run goes back to the queue, with what ``entry`` records."""
        if self._faults:
            ending = released(
                "user_access",
                delay_s=RETRY_DELAY_S,
                detail={
                    "waiting_for": "user_access",
                    "message": "The run waits until its worker can act as its user again; the worker's log says why.",
                },
            )
            raise ending if entry is None else Ending(ending.transition, entry)

    def _note(self, key: tuple[int, int], why: str | None) -> None:
        if why is None:
            self._faults.pop(key, None)
        else:
            self._faults[key] = why
