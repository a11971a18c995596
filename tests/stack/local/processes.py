"""Which processes a stack consists of, by the operating system's own account (Linux)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process. `started` tells it from a later one with the same number."""

    pid: int
    started: str
    command: str


def look(pid: int) -> tuple[int, Process] | None:
    """The parent's number and the process; None if there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return int(fields[1]), Process(pid, fields[19], command.strip())


def descendants(pid: int) -> set[Process]:
    """All living processes below this one."""
    parents: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := look(int(entry.name))):
            parents.setdefault(found[0], []).append(found[1])
    below: set[Process] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            below.add(child)
            waiting.append(child.pid)
    return below


def wait_until_gone(processes: set[Process]) -> None:
    """Wait for the end of them all; the test's own time-out ends a vain wait."""
    while any((found := look(process.pid)) and found[1].started == process.started for process in processes):
        time.sleep(0.02)


def find(processes: set[Process], words: str) -> Process:
    """The one of them whose command line contains the words."""
    matches = [process for process in processes if words in process.command]
    assert len(matches) == 1, (words, processes)
    return matches[0]
