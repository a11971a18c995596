"""The clock that leases are counted on."""

from __future__ import annotations

import time
from typing import Final

_BOOT_TIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def lease_now() -> float:
    """Seconds that only ever grow, also while the machine sleeps, where there is such a clock (Linux).

    A laptop that wakes up, a virtual machine that is resumed: the database has counted on meanwhile, and so must a
    worker that asks itself whether its lease still holds. Elsewhere it is the monotonic clock; then a worker that
    slept finds out by the first answer of the database, and records nothing before.
    """
    if _BOOT_TIME is None:
        return time.monotonic()
    return time.clock_gettime(_BOOT_TIME)
