"""What becomes of a run whose model can't be reached."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Final

from runhold.errors import ModelUnavailable
from runhold.loop.canonical import clean_text
from runhold.loop.endings import Ending, failed, released

SHORTEST_S: Final = 2.0
LONGEST_S: Final = 60.0
JITTER: Final = 0.25
"""Runs that an outage sent away together shall not come back together."""


def outage_ending(
    error: ModelUnavailable, model: str, outage_since: datetime | None, now: datetime, patience_s: float
) -> Ending:
    """Wait in the queue and try again, for up to ``patience_s`` seconds since the first failure in a row.

    The pause is what the provider asks for, else half the time that the outage has lasted.
    """
    lasted_s = 0.0 if outage_since is None else max(0.0, (now - outage_since).total_seconds())
    if lasted_s >= patience_s:
        return failed(
            "MODEL_ERROR",
            clean_text(f"The model could not be reached for {lasted_s:.0f} s: {error}"),
            limit="model_outage_max_s",
            allowed=patience_s,
            used=round(lasted_s),
        )
    pause_s = min(max(lasted_s / 2, SHORTEST_S), LONGEST_S)
    pause_s = max(pause_s, error.retry_after_s or 0)
    pause_s = min(pause_s * random.uniform(1, 1 + JITTER), max(patience_s - lasted_s, SHORTEST_S))
    message = clean_text(f"The run waits for an answer of its model: {error}")
    return released(
        "model_outage",
        delay_s=pause_s,
        detail={"waiting_for": "model", "model": model, "message": message},
    )
