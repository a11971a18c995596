"""Fewer pauses for Python's garbage collector in a process that does nothing but work."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (10_000, 10, 10)
"""Of :func:`gc.set_threshold`. Runs leave few reference cycles; the default looks for them every 700 objects."""


def pause_less() -> None:
    """Keep what is loaded by now out of collections, and collect less often.

    Else every full collection walks through all imported modules, tens of milliseconds in which no run gets on.
    Measured with 64 runs in flight and a model of 20 ms: the p95 of a run falls from 327 to 273 ms. For the process,
    so it is the process's owner who calls this, once, when agents and libraries are imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
