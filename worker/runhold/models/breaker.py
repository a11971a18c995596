"""A breaker per model, shared by all runs of a worker: a provider that is down is asked by one of them, not by all.

    closed ──FAILURES_TO_OPEN outages in a row──> open ──its time is up──> one call is let through as a probe
       ▲                                            ▲                        │
       └──────────────an answer─────────────────────┼────────────────────────┘
                                                    └──another outage, for twice as long

While it is open, calls fail at once as if the provider had been asked. The loop then gives the run back with a time to
wake up, and that is spread here: hundreds of runs shall not be claimed and given back again and again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runhold.errors import ModelRejected, ModelUnavailable
from runhold.loop.ports import ChatModel, JsonObject, ModelReply

logger = logging.getLogger(__name__)

FAILURES_TO_OPEN: Final = 5
"""Outages in a row, each after the client's own attempts: more than one busy moment, less than every run's."""

FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
"""An open breaker lets a probe through after this long; each one that fails doubles the pause, up to the second."""

RETURNS_PER_S: Final = 10.0
"""So many of the runs that were turned away come back per second: what it costs to claim them and give them back."""

LONGEST_WAIT_S: Final = 120.0
"""However many runs wait: the last of them looks again after this long."""


@dataclass(slots=True)
class _State:
    """What is known of one model.

    :ivar failures: outages since the last answer.
    :ivar open_until: when the next probe may go; None: closed.
    :ivar last_return: when the last run that was turned away comes back.
    """

    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    open_until: float | None = None
    opened_at: float = 0.0
    last_return: float = float("-inf")
    probing: bool = False
    turned_away: int = 0
    why: str = ""


class Breaker:
    """A :class:`~runhold.loop.ports.ChatModel` that asks another one, as long as that answers.

    :ivar opened: how often the breaker opened, by model.
    :ivar turned_away: calls that were not made, by model.
    """

    def __init__(self, model: ChatModel, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.opened: Counter[str] = Counter()
        self.turned_away: Counter[str] = Counter()
        self._model = model
        self._clock = clock
        self._states: dict[str, _State] = {}

    async def complete(
        self, body: JsonObject, *, timeout_s: float, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """As the model's own; while the breaker is open, the model is not asked.

        :raises ModelUnavailable: also then.
        """
        name = str(body.get("model"))
        state = self._states.setdefault(name, _State())
        is_probe = self._admit(name, state)
        try:
            reply = await self._model.complete(body, timeout_s=timeout_s, on_text=on_text)
        except ModelUnavailable as error:
            self._failed(name, state, error, is_probe=is_probe)
            raise
        except ModelRejected:
            self._answered(name, state)  # it refuses, so it is there
            raise
        else:
            self._answered(name, state)
            return reply
        finally:
            if is_probe:
                state.probing = False  # also when it was cancelled: the next call is the probe then

    def _admit(self, name: str, state: _State) -> bool:
        """Whether the call is a probe.

        :raises ModelUnavailable: the breaker is open, and it is not this call's turn.
        """
        if state.open_until is None:
            return False
        now = self._clock()
        if state.open_until <= now and not state.probing:
            state.probing = True
            return True
        state.turned_away += 1
        self.turned_away[name] += 1
        comes_back = max(state.last_return, state.open_until, now) + 1 / RETURNS_PER_S
        state.last_return = min(comes_back, now + LONGEST_WAIT_S)
        raise ModelUnavailable(
            f"not asked, as it was unavailable {state.failures} times in a row: {state.why}",
            retry_after_s=state.last_return - now,
        )

    def _answered(self, name: str, state: _State) -> None:
        if state.open_until is not None:
            logger.info(
                "model %s answers again after %.0f s; %d calls were not made meanwhile",
                name,
                self._clock() - state.opened_at,
                state.turned_away,
                extra={"action": "breaker_closed"},
            )
        self._states[name] = _State()

    def _failed(self, name: str, state: _State, error: ModelUnavailable, *, is_probe: bool) -> None:
        if state is not self._states[name]:
            return  # asked before the model answered somebody else
        if state.open_until is not None and not is_probe:
            return  # asked before the breaker opened: says nothing new
        state.failures += 1
        state.why = str(error)
        if state.failures < FAILURES_TO_OPEN:
            return
        now = self._clock()
        if state.open_until is None:
            state.opened_at = now
            self.opened[name] += 1
            logger.warning(
                "model %s was unavailable %d times in a row, its runs wait: %s",
                name,
                state.failures,
                error,
                extra={"action": "breaker_opened"},
            )
        else:
            state.pause_s = min(state.pause_s * 2, LONGEST_PAUSE_S)
        state.open_until = now + max(state.pause_s, error.retry_after_s or 0)
