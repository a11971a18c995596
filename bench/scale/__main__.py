"""Fill a database of its own with a long history and long queues, and measure what must stay fast.

    make bench-scale                                            a million of each: about 8 minutes, 20 GB of disk
    python -m bench.scale --executions 20000 --queue 20000      smaller

Times are printed; at a million, plans and times go to docs/plans, else to ``--output`` if that is given.
The exit status is 1 if a target of design §11 was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.machine import Others, cpu_s, facts
from bench.place import ROOT, Place, end_on_signals, folder
from bench.scale.explain import explaining, once_each
from bench.scale.questions import Question, asking, claims, reads, register
from bench.seed.past import Past, seed
from bench.seed.queues import Queues, fill

MILLION: Final = 1_000_000

TIMES: Final = 15
"""How often each question is asked, after once that does not count: PostgREST's connections have asked before."""

USUAL: Final = {
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "5min",
    "track_commit_timestamp": "off",
}
"""PostgreSQL's own defaults, not the benchmark's."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """How long a question took: the clock's median and best, and the backend's mean processor time. Milliseconds."""

    question: Question
    median_ms: float
    best_ms: float
    cpu_ms: float

    @property
    def missed(self) -> bool:
        target = self.question.target_ms
        return target is not None and self.median_ms > target

    def __str__(self) -> str:
        target = self.question.target_ms
        against = "" if target is None else f"  target {target:g}{'  MISSED' if self.missed else ''}"
        return (
            f"{self.median_ms:8.1f} ms  best {self.best_ms:7.1f}  processor {self.cpu_ms:6.1f}{against}  "
            f"{self.question.title}"
        )


def answer(connection: psycopg.Connection[Any], question: Question) -> Answered:
    """Ask, again and again; nothing that it does stays."""
    took: list[float] = []
    pid = connection.info.backend_pid
    spent = 0.0
    for turn in range(1 + TIMES):
        if turn == 1:
            spent = cpu_s(pid)
        with asking(connection, question.user):
            began = time.perf_counter()
            connection.execute(question.query, question.given).fetchall()
            took.append((time.perf_counter() - began) * 1000)
    return Answered(
        question=question,
        median_ms=statistics.median(took[1:]),
        best_ms=min(took[1:]),
        cpu_ms=(cpu_s(pid) - spent) * 1000 / TIMES,
    )


def plans(connection: psycopg.Connection[Any], question: Question) -> str:
    """Of all statements that the question runs, once each."""
    with explaining(connection) as told, asking(connection, question.user):
        told.clear()  # how the role was taken
        connection.execute(question.query, question.given).fetchall()
    return "\n\n".join(once_each(told))


def write(output: Path, about: str, answers: Iterable[Answered], shown: dict[str, str]) -> None:
    """A page per file: the questions with their times, and the plans."""
    for file, text in shown.items():
        mine = [each for each in answers if each.question.file == file]
        titles = "\n".join(str(each) for each in mine)
        (output / file).write_text(f"{mine[0].question.query}\n\n{titles}\n\n{about}\n\n{text}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--executions", type=int, default=MILLION, help="ended runs, eight tool calls each on average"
    )
    parser.add_argument("--queue", type=int, default=MILLION, help="runs in each queue")
    parser.add_argument(
        "--output", type=Path, help="folder for the plans; docs/plans, or none where it is smaller"
    )
    given = parser.parse_args(arguments)
    if given.output is None and given.executions >= MILLION and given.queue >= MILLION:
        given.output = ROOT / "docs" / "plans"
    return given


async def main(given: argparse.Namespace) -> int:
    """Fill, ask, write; the exit status."""
    task = asyncio.current_task()
    assert task is not None
    end_on_signals(task)
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {line}\n")

    with folder() as path:
        async with Place(Path(path), settings=USUAL) as place:
            missed = await asyncio.to_thread(work, place.url("postgres"), given, say)
    return 1 if missed else 0


def work(url: str, given: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Whether a target was missed."""
    lengths = Queues.of(given.queue)
    with psycopg.connect(url, autocommit=True) as connection:
        past = Past(
            executions=given.executions,
            paused=2000,
            running=200,
            users=5000,
            days=7,
            end=datetime.now(UTC),
        )
        seed(connection, past, say)
        registered = register(connection)
        connection.execute("set synchronous_commit = off")
        fill(connection, lengths, say)
        connection.execute("vacuum (analyze) public.agent_executions")
        connection.execute("checkpoint")
        connection.execute("reset synchronous_commit")
        say("filled")
        about = _about(connection, past, lengths)
    others = Others()
    answers: list[Answered] = []
    shown: dict[str, str] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        asked = [*claims(registered, lengths), *reads(connection)]
    for question in asked:
        # a connection of its own, as it should not matter what others asked on it
        with psycopg.connect(url, autocommit=True) as connection:
            answers.append(answer(connection, question))
            print(answers[-1], flush=True)
            if question.file not in shown:
                shown[question.file] = plans(connection, question)
    busy = f"{about}\nOther programs had {others.share:.1%} of the processors meanwhile."
    print(busy)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        write(given.output, busy, answers, shown)
    return any(each.missed for each in answers)


def _about(connection: psycopg.Connection[Any], past: Past, lengths: Queues) -> str:
    row = connection.execute(
        "select current_setting('server_version'), (select count(*) from public.agent_steps), "
        "(select count(*) from public.agent_tool_calls), "
        "(select count(*) from public.agent_executions where status = 'pending'), "
        "pg_size_pretty(pg_database_size(current_database()))"
    ).fetchone()
    assert row is not None
    version, steps, calls, pending, size = row
    machine = facts()
    return (
        f"PostgreSQL {version.split()[0]}, {machine['cpu']}, {machine['cores']} cores, fsync on; "
        f"{past.executions:,} ended runs of {past.days:g} days, {calls:,} tool calls, {steps:,} steps, "
        f"{pending:,} pending ({lengths.runs:,} in a queue); {size}.\n"
        f"{datetime.now(UTC):%Y-%m-%d}. By the clock, median of {TIMES} after a first one; each is rolled back."
    )


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parse(None))))
    except asyncio.CancelledError:
        sys.exit(INTERRUPTED)
