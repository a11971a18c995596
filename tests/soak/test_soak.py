"""The soak itself, for seconds: it throws all that it has, loses nothing, and finds what was broken on purpose."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from processes import descendants, wait_until_gone

TESTS = Path(__file__).parents[1]
STORMS = ("API down", "API frozen", "database stopped immediately", "Realtime frozen", "Realtime killed")

BREAK = """
set session_replication_role = replica;
delete from agent_executions where id = (select id from agent_executions where status = 'completed' limit 1);
update agent_executions set status = 'running', completed_at = null, worker_id = gen_random_uuid(), result = null
where id = (select id from agent_executions where status = 'completed' limit 1);
delete from agent_tool_calls where tool_name = 'save';
insert into agent_events (execution_id, user_id, actor_kind, kind)
select id, user_id, 'system', 'completed' from agent_executions where status = 'completed' limit 1"""
"""A run that is gone, one whose worker never was, effects that nobody knows of, and a run that ended twice."""


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "soak", "--shortened", "0.1", *options],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )


def count(table: str, name: str) -> int:
    """The number beside a name in the table that a soak ends with."""
    found = re.search(rf"^{name} +(\d+)$", table, re.MULTILINE)
    return int(found[1]) if found else 0


def test_seconds_of_bad_weather_lose_nothing() -> None:
    soak = start("--minutes", "0.1", "--seed", "1")
    said, _ = soak.communicate()
    assert soak.returncode == 0, said
    assert "SEED=1" in said
    assert count(said, "worker killed") > 0
    assert any(count(said, storm) for storm in STORMS), said
    assert count(said, "LOST, DOUBLED OR STUCK") == 0
    assert count(said, "run completed") > 0


def test_what_was_lost_is_found_and_told() -> None:
    soak = start("--minutes", "0.02", "--seed", "2", "--planted", BREAK)
    said, _ = soak.communicate()
    assert soak.returncode == 1, said
    assert count(said, "LOST, DOUBLED OR STUCK") >= 4
    for problem in (
        "a run that is not there any more",
        "a run that nothing will ever change",
        "a run that has not ended",
        "a run that ended twice",
        "an effect without a call",
        "a completed run that did not do its plan",
    ):
        assert f"\n{problem}: " in said, said
    (kept,) = re.findall(r"stories of runs: (\S+)", said)
    assert [*Path(kept).glob("run-*.json")]
    shutil.rmtree(kept)


def test_ctrl_c_judges_what_there_is_and_leaves_no_process() -> None:
    soak = start("--minutes", "10", "--seed", "3")
    assert soak.stdout is not None
    assert "seed 3" in soak.stdout.readline()
    while not any("runhold.testing.chaos.fork_server" in p.command for p in descendants(soak.pid)):
        assert soak.poll() is None
    below = descendants(soak.pid)
    soak.send_signal(signal.SIGINT)
    said, _ = soak.communicate()
    assert soak.returncode == 0, said
    assert count(said, "LOST, DOUBLED OR STUCK") == 0
    wait_until_gone(below)
