"""From outcomes to medians and ratios: a markdown page, a JSON file and a plot."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bench.cells import CELLS
from bench.place import ROOT, python_of
from bench.systems import PEERS, load

OURS: Final = "runhold"

BUSY_SHARE: Final = 0.05
"""Of the machine's cores, taken by other programs in the worst tenth of the cells: more, and the numbers say little."""


@dataclass
class Outcome:
    """What one cell said of one system in one repeat; ``note`` instead of values if it can't."""

    system: str
    cell: str
    repeat: int
    values: dict[str, float] = field(default_factory=dict[str, float])
    note: str = ""
    took_s: float = 0.0


@dataclass
class Results:
    """Everything that a benchmark measured.

    :ivar machine: what it was measured on; :func:`bench.machine.facts`.
    :ivar took_s: all of it, in seconds.
    """

    machine: dict[str, object]
    systems: list[str]
    cells: list[str]
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    took_s: int = 0

    def of(self, system: str, cell: str) -> list[Outcome]:
        """The repeats of a cell, of one system."""
        return [each for each in self.outcomes if (each.system, each.cell) == (system, cell)]

    def median(self, system: str, cell: str, value: str) -> float | None:
        """Of all repeats that measured it."""
        found = [each.values[value] for each in self.of(system, cell) if value in each.values]
        return statistics.median(found) if found else None

    def ratio(
        self, cell: str, value: str, *, more_is_better: bool, among: Sequence[str] = PEERS
    ) -> float | None:
        """Ours to the best peer's: the median of what each repeat says, since repeats are minutes apart."""
        ratios: list[float] = []
        for ours in self.of(OURS, cell):
            peers = [
                each.values[value]
                for peer in among
                for each in self.of(peer, cell)
                if each.repeat == ours.repeat and value in each.values
            ]
            best = (max(peers) if more_is_better else min(peers)) if peers else 0.0
            if best and value in ours.values:  # peers have no API server whose costs were to be compared
                ratios.append(ours.values[value] / best)
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Some values of some cells, a column per system.

    :ivar values: (value, what its rows are called); ``{}`` is the cell's title.
    :ivar among: the peers that do the same thing.
    """

    title: str
    text: str
    cells: Sequence[str]
    values: Sequence[tuple[str, str]]
    more_is_better: bool = False
    among: Sequence[str] = PEERS


RUNS: Final = [cell.name for cell in CELLS if cell.kind == "runs"]

TABLES: Final = (
    Table(
        title="Runs per second",
        text="From the first claim to the last durable end.",
        cells=RUNS,
        values=[("runs_per_s", "{}")],
        more_is_better=True,
    ),
    Table(
        title="Latency of a run, ms",
        text="From its claim to its durable end.",
        cells=RUNS,
        values=[("latency_p50_ms", "{}: p50"), ("latency_p95_ms", "p95")],
    ),
    Table(
        title="One run alone",
        text="Its latency (p50) ÷ the model's own time: 8 times 20 ms, and what eight such sleeps took on this "
        "machine.",
        cells=["runs1-20ms", "runs1-20ms-far"],
        values=[("overhead", "{}"), ("overhead_of_sleeps", "÷ eight sleeps")],
    ),
    Table(
        title="Insert → first model call, ms",
        text="From the call that submits a run, into an idle system. Without a queue (LangGraph, floors) from the "
        "call that starts it: nobody has to be woken, so the ratio leaves them out.",
        cells=["start"],
        values=[("start_p50_ms", "p50"), ("start_p95_ms", "p95")],
        among=[name for name in PEERS if load(name).queue],
    ),
    Table(
        title="What a run costs",
        text="CPU milliseconds and WAL, per run.",
        cells=["runs64", "runs64-20ms"],
        values=[
            ("client_cpu_ms", "{}: workers' CPU"),
            ("api_cpu_ms", "API server's CPU"),
            ("realtime_cpu_ms", "Realtime's CPU"),
            ("postgres_cpu_ms", "PostgreSQL's CPU"),
            ("wal_kib", "WAL, KiB"),
        ],
    ),
    Table(
        title="Stored, KiB per run",
        text="All tables and indexes, after vacuum.",
        cells=["size8", "size25", "size100"],
        values=[("stored_kib", "{}")],
    ),
    Table(
        title="Memory of one worker, MiB",
        text="PSS.",
        cells=["memory256", "memory1000"],
        values=[("memory_mib", "{}")],
    ),
    Table(
        title="After kill -9, s",
        text="Until its runs are at the model again.",
        cells=["recovery"],
        values=[("recovery_p50_s", "{}: median run"), ("recovery_last_s", "last run")],
    ),
)


def line(outcome: Outcome) -> str:
    """One outcome, as it comes."""
    what = outcome.note or "  ".join(f"{name} {number(value)}" for name, value in outcome.values.items())
    return f"{outcome.cell:14} {outcome.system:10} {outcome.took_s:5.1f} s  {what}"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def markdown(results: Results) -> str:
    """The page."""
    repeats = 1 + max((each.repeat for each in results.outcomes), default=0)
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    parts = [
        "# Results of the benchmark",
        f"Medians of {repeats}. Machine: {machine}. It took {results.took_s // 60} min. "
        "What is measured and how: [the guide](../../docs/guides/benchmark.md). The last column is Runhold ÷ the best "
        "peer, the median of each repeat's own ratio.",
    ]
    parts += _others(results)
    for table in TABLES:
        parts += _table(results, table)
    parts += _commits(results)
    parts += ["## What each of them guarantees", *_guarantees(results)]
    return "\n\n".join(parts) + "\n"


def _others(results: Results) -> list[str]:
    """How much of the machine other programs had while it measured."""
    shares = sorted(each.values["others"] for each in results.outcomes if "others" in each.values)
    if not shares:
        return []
    bad = shares[int(0.9 * (len(shares) - 1))]
    verdict = " **That is much: these numbers are provisional.**" if bad > BUSY_SHARE else ""
    return [
        f"Other programs had {statistics.median(shares):.1%} of this machine's processors meanwhile (median of all "
        f"measurements; {bad:.1%} in the worst tenth).{verdict}"
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(results: Results, table: Table) -> list[str]:
    cells = [name for name in table.cells if name in results.cells]
    if not cells:
        return []
    titles = {cell.name: cell.title for cell in CELLS}
    rows = [
        _row(["", *(load(name).title for name in results.systems), "÷ best peer"]),
        _row(["---"] * (len(results.systems) + 2)),
    ]
    for cell in cells:
        for value, name in table.values:
            numbers = [_cell(results, system, cell, value) for system in results.systems]
            ratio = results.ratio(cell, value, more_is_better=table.more_is_better, among=table.among)
            rows.append(_row([name.format(titles[cell]), *numbers, number(ratio)]))
    if table.title.startswith("Stored") and {"size8", "size100"} <= set(cells):
        rows.append(_row(["100 steps ÷ 8 steps", *(_growth(results, name) for name in results.systems), ""]))
    text = table.text + (" More is better." if table.more_is_better else " Less is better.")
    return [f"## {table.title}", text, "\n".join(rows)]


def _cell(results: Results, system: str, cell: str, value: str) -> str:
    median = results.median(system, cell, value)
    if median is not None:
        return number(median)
    return next((each.note for each in results.of(system, cell) if each.note), "–")


def _growth(results: Results, system: str) -> str:
    short, long = (results.median(system, cell, "stored_kib") for cell in ("size8", "size100"))
    return "–" if not short or not long else f"× {long / short:.3g}"


def _commits(results: Results) -> list[str]:
    """What a commit took beside each cell, so that nobody compares a calm minute with a stormy one."""
    rows = [
        _row(["", *(load(name).title for name in results.systems)]),
        _row(["---"] * (len(results.systems) + 1)),
    ]
    for cell in results.cells:
        columns: list[str] = []
        for system in results.systems:
            found = [
                each.values["commit_ms"] for each in results.of(system, cell) if "commit_ms" in each.values
            ]
            columns.append(" / ".join(number(value) for value in found) or "–")
        rows.append(_row([f"`{cell}`", *columns]))
    text = "The p50 of 40 tiny transactions just before each measurement, one number per repeat."
    return ["## The disk meanwhile: a commit, ms", text, "\n".join(rows)]


def _guarantees(results: Results) -> list[str]:
    systems = [load(name) for name in results.systems]
    return ["\n".join(f"- **{system.title}**: {system.guarantee} *{system.note}*" for system in systems)]


def read(file: Path) -> Results:
    """Results from their JSON file."""
    told = json.loads(file.read_text())
    return Results(**{**told, "outcomes": [Outcome(**each) for each in told["outcomes"]]})


def save(results: Results, folder: Path) -> None:
    """Write the JSON file: after every cell, so that what was measured is kept whatever comes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps(asdict(results), indent=1) + "\n")


def write(results: Results, folder: Path | None) -> None:
    """Print the page; write it with the JSON file and the plot into ``folder``, unless that is None."""
    print("\n" + markdown(results))
    if folder is None:
        return
    save(results, folder)
    (folder / "latest.md").write_text(markdown(results))
    plot = [
        python_of(in_project=False),
        "-m",
        "bench.plot",
        str(folder / "latest.json"),
        str(folder / "latest.svg"),
    ]
    subprocess.run(plot, cwd=ROOT, check=True)
    print(f"Written: {folder}/latest.md, latest.json, latest.svg")
