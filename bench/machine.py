"""What the machine is, and what processes cost on it: /proc, and the disk's commit latency."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Final

import psycopg

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PROBES: Final = 40
SLEEPS: Final = 15


def commit_latency_ms(connection: psycopg.Connection) -> float:
    """The p50 of tiny insert-and-commit transactions, in milliseconds: what one fsync costs now."""
    connection.execute("create table if not exists commit_probe (at timestamptz)")
    took: list[float] = []
    for _ in range(PROBES):
        began = time.perf_counter()
        connection.execute("insert into commit_probe values (now())")
        took.append((time.perf_counter() - began) * 1000)
    connection.execute("truncate commit_probe")
    return statistics.median(took)


def cpu_s(pid: int, *, reaped: bool = True) -> float:
    """CPU seconds of a process so far, with those of its children that ended; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(fields[index]) for index in ((11, 12, 13, 14) if reaped else (11, 12))) / TICKS_PER_S


def busy_s() -> float:
    """CPU seconds that this machine has spent on anything so far, all cores together; what a hypervisor took, too."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


class Others:
    """How busy other programs keep this machine: all that is neither this process nor a descendant of it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._spent_s()

    @property
    def share(self) -> float:
        """Of all its cores, since this was made."""
        spent_s, seconds = self._spent_s() - self._before, time.monotonic() - self._began
        return max(0.0, spent_s / (os.cpu_count() or 1) / seconds)

    def _spent_s(self) -> float:
        return busy_s() - family_cpu_s(os.getpid())


async def sleep_ms(seconds: float) -> float:
    """The p50 of what ``asyncio.sleep`` takes: timers of an event loop are a millisecond late."""
    took: list[float] = []
    for _ in range(SLEEPS):
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def parents() -> dict[int, int]:
    """The parent of every process."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parent_of = parents()
    members = [pid]
    for member in members:
        members.extend(child for child, parent in parent_of.items() if parent == member)
    return members


def family_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants, also of those that ended."""
    return sum(cpu_s(member) for member in family(pid))


def command(pid: int) -> str:
    """A process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory_mib(pid: int) -> float:
    """Memory of a process and its descendants in MiB; shared pages count in parts (PSS)."""
    total = 0
    for member in family(pid):
        try:
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1024


def facts() -> dict[str, object]:
    """What numbers mean nothing without."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
