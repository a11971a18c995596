"""The agent run that every system does, and the model that all of them ask.

One run is ``steps`` model decisions. Each of them but the last calls the tool ``read`` once, and every text, the
model's and the tool's, has about 300 bytes. The model is in process; it answers at once, or after a latency.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

TEXT_BYTES: Final = 300
TEXTS: Final = 64
"""Different texts, made once: making them is no part of a run."""

_WORDS: Final = """
account agreement amount approval archive balance branch budget carrier channel claim client clause contract
courier credit customer decision delivery deposit document estimate evidence exchange finding freight holding
income insurance interest inventory invoice ledger letter licence limit mandate margin market measure merger
notice offer order office owner parcel partner payment penalty period policy premium price quarter quota rate
receipt record refund register release report reserve review risk sample schedule section service shipment
signature statement supplier tariff tender term title total transfer treasury trial valuation vendor voucher
""".split()  # noqa: SIM905 (a page of words, to be read as one)


class Answer(NamedTuple):
    """What the model says: a text, and the page that it wants to ``read``; None ends the run."""

    text: str
    page: int | None


def _text(seed: int) -> str:
    """Words, so that it compresses as real texts do."""
    chosen = random.Random(seed)
    text = ""
    while len(text) < TEXT_BYTES:
        text += chosen.choice(_WORDS) + " "
    return text[:TEXT_BYTES]


_ANSWERS: Final = [_text(number) for number in range(TEXTS)]
_PAGES: Final = [_text(TEXTS + number) for number in range(TEXTS)]


def read_page(page: int) -> str:
    """What the tool ``read`` returns."""
    return _PAGES[page % TEXTS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One kind of run.

    :ivar steps: model decisions.
    :ivar latency_s: seconds that each of them takes.
    :ivar hold_at: the model never answers at this step, so that runs can be looked at halfway.
    """

    steps: int = 8
    latency_s: float = 0.0
    hold_at: int | None = None


class Model:
    """The model of all systems.

    :param trace: a file descriptor that gets a line per call: the run, the step, the time (Unix), the process.
    :param on_hold: told how many calls are held, at each one more.
    """

    def __init__(
        self, workload: Workload, *, trace: int | None = None, on_hold: Callable[[int], None] = lambda _: None
    ) -> None:
        self._workload = workload
        self._trace = trace
        self._on_hold = on_hold
        self._held = 0
        self._never = asyncio.Event()

    async def decide(self, run: int, step: int) -> Answer:
        """The decision of ``step`` (from 1) of a run."""
        if self._trace is not None:
            os.write(self._trace, f"{run} {step} {time.time():.6f} {os.getpid()}\n".encode())
        if step == self._workload.hold_at:
            self._held += 1
            self._on_hold(self._held)
            await self._never.wait()
        if self._workload.latency_s:
            await asyncio.sleep(self._workload.latency_s)
        page = run + step if step < self._workload.steps else None
        return Answer(_ANSWERS[(run + step) % TEXTS], page)
