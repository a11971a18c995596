"""What the benchmark's page says of what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from bench.report import Outcome, Results, markdown, read


def results(*outcomes: tuple[str, int, float], cell: str = "runs64", value: str = "runs_per_s") -> Results:
    systems = list(dict.fromkeys(system for system, *_ in outcomes))
    found = [
        Outcome(system=system, cell=cell, repeat=repeat, values={value: measured, "commit_ms": 0.5})
        for system, repeat, measured in outcomes
    ]
    return Results(machine={"cores": 2}, systems=systems, cells=[cell], outcomes=found)


def test_a_ratio_compares_within_one_repeat_only() -> None:
    """The disk was slow in the second repeat, for everybody: the medians (100, 100) would say 1."""
    measured = results(
        *(("runhold", 0, 200.0), ("runhold", 1, 20.0), ("runhold", 2, 100.0)),
        *(("absurd", 0, 100.0), ("absurd", 1, 10.0), ("absurd", 2, 100.0)),
    )
    assert measured.ratio("runs64", "runs_per_s", more_is_better=True) == 2.0


def test_the_best_peer_is_the_fastest_or_the_cheapest_and_no_floor() -> None:
    measured = results(("runhold", 0, 90.0), ("dbos", 0, 30.0), ("absurd", 0, 60.0), ("floor", 0, 600.0))
    assert measured.ratio("runs64", "runs_per_s", more_is_better=True) == 1.5
    assert measured.ratio("runs64", "runs_per_s", more_is_better=False) == 3.0


def test_who_was_not_measured_takes_no_part() -> None:
    measured = results(("runhold", 0, 90.0), ("absurd", 1, 60.0))
    assert measured.ratio("runs64", "runs_per_s", more_is_better=True) is None


def test_nothing_is_compared_with_a_cost_that_peers_do_not_have() -> None:
    measured = results(("runhold", 0, 2.5), ("absurd", 0, 0.0), value="api_cpu_ms")
    assert measured.ratio("runs64", "api_cpu_ms", more_is_better=False) is None


def test_the_page_has_medians_ratios_and_the_commits_beside_them() -> None:
    page = markdown(
        results(("runhold", 0, 90.0), ("runhold", 1, 110.0), ("absurd", 0, 45.0), ("absurd", 1, 55.0))
    )
    assert "| 64 in flight, instant model | 100 | 50 | 2 |" in page
    assert "| `runs64` | 0.5 / 0.5 | 0.5 / 0.5 |" in page


@pytest.mark.parametrize(("share", "provisional"), [(0.01, False), (0.3, True)])
def test_the_page_says_how_busy_others_kept_the_machine(share: float, provisional: bool) -> None:
    measured = results(("runhold", 0, 90.0), ("absurd", 0, 45.0))
    for outcome in measured.outcomes:
        outcome.values["others"] = share
    page = markdown(measured)
    assert f"Other programs had {share:.1%} of this machine's processors" in page
    assert ("provisional" in page) == provisional


def test_the_page_says_what_a_system_cannot_do() -> None:
    measured = results(("runhold", 0, 31.0), cell="recovery", value="recovery_last_s")
    measured.systems.append("floor")
    measured.outcomes.append(Outcome(system="floor", cell="recovery", repeat=0, note="nobody goes on"))
    assert "| last run | 31 | nobody goes on | – |" in markdown(measured)


@pytest.mark.parametrize(("short", "long", "said"), [(10.0, 130.0, "× 13")])
def test_growth_is_what_a_long_run_stores_to_a_short_one(short: float, long: float, said: str) -> None:
    measured = results(("runhold", 0, short), cell="size8", value="stored_kib")
    measured.cells.append("size100")
    measured.outcomes.append(
        Outcome(system="runhold", cell="size100", repeat=0, values={"stored_kib": long, "commit_ms": 1.0})
    )
    assert f"| 100 steps ÷ 8 steps | {said} |" in markdown(measured)


def test_results_are_read_back_as_written(tmp_path: Path) -> None:
    measured = results(("runhold", 0, 90.0))
    file = tmp_path / "latest.json"
    file.write_text(json.dumps(asdict(measured)))
    assert read(file) == measured
