"""What must stay fast at a million is measured by a program that works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bench.scale.__main__ import Answered, main, parse
from bench.scale.explain import once_each
from bench.scale.questions import Question

FILES = {
    *(f"claim-{queue}.txt" for queue in ("plain", "future", "behind", "capped", "fair")),
    "health-metrics.txt",
    "health-metrics-of-a-user.txt",
    "list-of-runs.txt",
    "timeline.txt",
}


def test_all_questions_are_answered_with_their_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(main(parse(["--executions", "300", "--queue", "300", "--output", str(tmp_path)])))
    assert {page.name for page in tmp_path.iterdir()} == FILES
    claim = (tmp_path / "claim-plain.txt").read_text()
    assert "A claim of 64 from: 300 runs of 30 users" in claim
    assert "A claim of 1 from: 300 runs of 30 users" in claim
    assert "Index Scan using agent_executions_" in claim
    assert "agent_metrics_hourly" in (tmp_path / "health-metrics.txt").read_text()
    assert "agent_executions_of_user_idx" in (tmp_path / "list-of-runs.txt").read_text()
    assert "agent_steps_pkey" in (tmp_path / "timeline.txt").read_text()
    assert capsys.readouterr().out.count(" ms  best ") == 14


@pytest.mark.parametrize(("target_ms", "missed"), [(10.0, True), (20.0, False), (None, False)])
def test_a_missed_target_is_told(target_ms: float | None, missed: bool) -> None:
    question = Question(file="", title="?", query="select 1", given={}, target_ms=target_ms)
    answered = Answered(question=question, median_ms=15, best_ms=10, cpu_ms=9)
    assert answered.missed is missed
    assert ("MISSED" in str(answered)) is missed


def test_of_a_statement_s_plans_the_first_is_kept() -> None:
    told = [
        "duration: 1 ms  plan:\nQuery Text: select 1\nResult  (cost=0.00..0.01) (actual rows=1)",
        "duration: 1 ms  plan:\nQuery Text: select 1\nResult  (cost=0.00..0.01) (actual rows=2)",
        "duration: 1 ms  plan:\nQuery Text: \nSort  (cost=0.00..0.01) (actual rows=1)",
        "duration: 1 ms  plan:\nQuery Text: \nSort  (cost=0.00..0.02) (actual rows=2)",
        "duration: 1 ms  plan:\nQuery Text: \nLimit  (cost=0.00..0.01) (actual rows=1)",
        "something else",
    ]
    assert [plan.splitlines()[-1].split()[0] for plan in once_each(told)] == ["Result", "Sort", "Limit"]
    assert "rows=1" in once_each(told)[0]
