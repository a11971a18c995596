"""Runs that workers give back because something is missing: they wait longer each time, and everybody can see for what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from world import DEFINITION, Row, Worker, World, call, step

STUCK = (Path(__file__).parents[2] / "sql" / "stuck.sql").read_text()
TOOL = {
    "waiting_for": "tool",
    "tool": "send",
    "message": "The run waits for a worker with the tool send of writer.",
}
MODEL = {"waiting_for": "model", "model": "m", "message": "The run waits for an answer of its model: 503"}
KEY = {"waiting_for": "redact_key", "message": "The run waits for a worker that can read it."}
USER = {"waiting_for": "user_access", "message": "The run waits until its worker can act as its user again."}
RECORD = {"waiting_for": "worker", "message": "The run could not go on."}

# what the worker says when it gives a run back: every release that is not counted as an attempt
RELEASES: dict[str, Row] = {
    "missing_tool": {"delay_ms": 5000, "detail": TOOL},
    "missing_key": {"delay_ms": 30_000, "detail": KEY},
    "user_access": {"delay_ms": 30_000, "detail": USER},
    "its record can't be read": {"delay_ms": 30_000, "detail": RECORD},
    "shutdown": {},
    "agent_disabled": {},
    "lease_ending": {},
}


def claimed(world: World, worker: Worker, run_id: str, at: float) -> tuple[Row, float]:
    """The run, claimed as soon as it may be: not before its pause is over."""
    wake_at = world.run(run_id)["wake_at"]
    if wake_at is not None:
        due = at + (wake_at - world.one("select runhold.now()")).total_seconds()
        world.at(due - 0.5)
        worker.heartbeat()
        assert worker.claim() == []
        at = due + 0.5
        world.at(at)
    worker.heartbeat()
    (run,) = worker.claim()
    return run, at


def claimed_again(world: World, releases: int) -> tuple[Worker, Row, float]:
    """A run that waited for a tool so many times, and is claimed once more."""
    worker, run_id, at = world.worker(), world.submit(world.person()), 0.0
    world.at(at)
    for _ in range(releases):
        run, at = claimed(world, worker, run_id, at)
        worker.end(run, "pending", reason="missing_tool", delay_ms=5000, detail=TOOL)
    run, at = claimed(world, worker, run_id, at)
    return worker, run, at


def events(world: World, run_id: str) -> list[Row]:
    return world.sql("select kind, data, at from agent_events where execution_id = %s order by id", run_id)


@pytest.mark.parametrize("reason", RELEASES)
def test_each_release_in_a_row_waits_longer_and_the_audit_tells_one_an_hour(
    world: World, reason: str
) -> None:
    worker, run_id = world.worker(), world.submit(world.person())
    at, pauses, row = 0.0, list[float](), world.run(run_id)
    world.at(at)
    while at < 4 * 3600:
        run, at = claimed(world, worker, run_id, at)
        worker.end(run, "pending", reason=reason, **RELEASES[reason])
        row = world.run(run_id)
        pauses.append((row["wake_at"] - row["updated_at"]).total_seconds() if row["wake_at"] else 0)
    first = RELEASES[reason].get("delay_ms", 0) / 1000
    doubled = [max(first, min(5.0 * 2**n, 300.0)) for n in range(len(pauses) - 1)]
    assert pauses == pytest.approx([first, *doubled])
    assert (row["release_count"], row["attempt"], row["status"]) == (len(pauses), 0, "pending")
    told = [event["at"] for event in events(world, run_id) if event["kind"] in ("claimed", "requeued")]
    assert len(told) <= 4 + 4  # how it began, then one each hour
    assert len([each for each in told if (row["updated_at"] - each).total_seconds() <= 3600]) <= 1
    assert (
        row["error_detail"]["waiting_for"]
        == RELEASES[reason].get("detail", {"waiting_for": "worker"})["waiting_for"]
    )
    assert row["error_detail"]["message"]


def test_releases_by_the_worker_itself_wait_longer_too(world: World) -> None:
    worker, run_id = world.worker(), world.submit(world.person())
    at, pauses, row = 0.0, list[float](), world.run(run_id)
    world.at(at)
    for _ in range(5):
        run, at = claimed(world, worker, run_id, at)
        assert worker.release(run, reason="lease_lost") == {"released": 1}
        row = world.run(run_id)
        pauses.append((row["wake_at"] - row["updated_at"]).total_seconds() if row["wake_at"] else 0)
    assert pauses == pytest.approx([0, 5, 10, 20, 40])
    assert row["error_detail"] == {
        "waiting_for": "worker",
        "message": "Workers gave the run back 5 times in a row before a step was done (lease_lost).",
    }


@pytest.mark.parametrize("reason", ["budget", "model_outage"])
def test_pauses_that_the_asker_knows_are_kept(world: World, reason: str) -> None:
    worker, run_id = world.worker(), world.submit(world.person())
    at = 0.0
    world.at(at)
    for _ in range(4):
        run, at = claimed(world, worker, run_id, at)
        worker.end(run, "pending", reason=reason, delay_ms=2000, detail=MODEL)
        row = world.run(run_id)
        assert (row["wake_at"] - row["updated_at"]).total_seconds() == pytest.approx(2)
    assert [event["kind"] for event in events(world, run_id)] == ["submitted", "claimed", "requeued"]


def test_a_step_begins_anew_and_the_claim_that_got_on_is_told(world: World) -> None:
    worker, run, at = claimed_again(world, 3)
    run_id = run["id"]
    claimed_at = world.run(run_id)["state_since"]
    assert [event["kind"] for event in events(world, run_id)] == ["submitted", "claimed", "requeued"]
    world.at(at + 5)
    worker.record(run, steps=[step(1, worker.definition)])
    row = world.run(run_id)
    assert (row["release_count"], row["waiting_since"], row["waiting_told_at"]) == (0, None, None)
    last = events(world, run_id)[-1]
    assert (last["kind"], last["data"], last["at"]) == ("claimed", {"attempt": 1}, claimed_at)
    worker.end(run, "pending", reason="missing_tool", delay_ms=5000, detail=TOOL)
    assert world.run(run_id)["release_count"] == 1
    assert events(world, run_id)[-1]["kind"] == "requeued"


@pytest.mark.parametrize(
    ("to", "kinds"),
    [
        ("completed", ["claimed", "completed"]),
        ("failed", ["claimed", "failed"]),
        ("pending", ["claimed", "requeued"]),
    ],
)
def test_any_other_end_of_a_wait_is_told_in_full(world: World, to: str, kinds: list[str]) -> None:
    worker, run, _ = claimed_again(world, 2)
    run_id = run["id"]
    more: dict[str, Any] = (
        {"reason": "worker error: X", "counted": True} if to == "pending" else {"result": {}}
    )
    worker.end(run, to, **(more if to != "failed" else {"error": "INTERNAL_ERROR"}))
    assert [event["kind"] for event in events(world, run_id)] == ["submitted", "claimed", "requeued", *kinds]
    assert world.run(run_id)["release_count"] == 0


def test_a_cancelled_wait_is_told_and_over(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "pending", reason="missing_tool", delay_ms=5000, detail=TOOL)
    world.user(user, "select agent_cancel(%s)", run["id"])
    row = world.run(run["id"])
    assert (row["status"], row["release_count"], row["waiting_since"]) == ("cancelled", 0, None)
    assert [event["kind"] for event in events(world, run["id"])][2:] == [
        "requeued",
        "cancelled",
        "cancel_requested",
    ]


def test_a_rolling_restart_is_told_claim_by_claim_and_delays_nobody(world: World) -> None:
    first, second, user = world.worker(), world.worker(), world.person()
    run = world.running(first, user)
    first.stop(draining=False)
    (again,) = second.claim()
    second.end(again, "completed", result={})
    assert [event["kind"] for event in events(world, run["id"])] == [
        "submitted",
        "claimed",
        "requeued",
        "claimed",
        "completed",
    ]


def test_what_runs_wait_for_is_counted_and_named(fresh_world: World) -> None:
    world = fresh_world
    worker, user, other = world.worker(), world.person(), world.person()
    for who, detail in ((user, TOOL), (other, TOOL), (user, KEY), (user, MODEL)):
        worker.end(world.running(worker, who), "pending", reason="x", delay_ms=60_000, detail=detail)
    worker.end(world.running(worker, user), "pending", reason="shutdown", delay_ms=60_000)
    world.sql("select agent_sweep()")
    rows = {row["what"]: row for row in world.sql(STUCK)}
    assert set(rows) == {"2 runs wait for tool send", "1 run waits for redact_key", "1 run waits for model m"}
    assert rows["2 runs wait for tool send"]["then_what"] == TOOL["message"]
    everybody = world.service("select agent_health_metrics()")["queue"]["waiting"]
    assert everybody == {"tool send": 2, "redact_key": 1, "model m": 1}
    mine = world.user(other, "select agent_health_metrics() as h")[0]["h"]["queue"]["waiting"]
    assert mine == {"tool send": 1}


def test_a_worker_that_comes_wakes_the_runs_of_its_types(world: World) -> None:
    worker, user = world.worker(DEFINITION, {**DEFINITION, "agent_type": "reader"}), world.person()
    waiting = [
        world.running(worker, user),
        world.running(worker, user, agent_type="reader"),
        world.running(worker, user),
    ]
    for run, detail in zip(waiting, (TOOL, TOOL, MODEL), strict=True):
        worker.end(run, "pending", reason="x", delay_ms=300_000, detail=detail)
    world.worker()
    soon = [
        (world.run(run["id"])["wake_at"] - world.one("select now()")).total_seconds() < 10 for run in waiting
    ]
    assert soon == [True, False, False]  # a provider is not back because a worker is


@pytest.mark.parametrize("releases", [1, 2, 3, 20, 1000])
def test_pauses_are_bounded(world: World, releases: int) -> None:
    pause = world.one("select runhold.release_pause(%s, 'shutdown', '0')", releases)
    assert pause.total_seconds() <= 300


def test_runs_that_wait_for_a_tool_can_be_ended_as_the_guide_says(world: World) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "changing-agents.md").read_text("utf-8")
    open_calls, cancel = re.findall(r"```sql\n(.*?)```", guide, flags=re.DOTALL)
    worker, user = world.worker(), world.person()
    waiting, other = world.running(worker, user), world.running(worker, user)
    worker.record(
        waiting, steps=[step(1, worker.definition)], calls=[call(1, 0, "send_mail", "unsafe", "pending")]
    )
    assert world.sql(open_calls) == [{"status": "running", "count": 1}]
    detail = {**TOOL, "tool": "send_letter"}
    worker.end(waiting, "pending", reason="missing_tool", delay_ms=5000, detail=detail)
    worker.end(other, "pending", reason="missing_tool", delay_ms=5000, detail=TOOL)
    world.sql(cancel)
    assert (world.status(waiting["id"]), world.status(other["id"])) == ("cancelled", "pending")


def test_a_step_and_a_release_in_one_entry_are_told_with_their_claim(world: World) -> None:
    worker, run, _ = claimed_again(world, 2)
    run_id = run["id"]
    transition = {"to": "pending", "reason": "user_access", "delay_ms": 30_000, "detail": USER}
    worker.record(run, steps=[step(1, worker.definition)], transition=transition)
    assert [event["kind"] for event in events(world, run_id)][2:] == ["requeued", "claimed", "requeued"]
    row = world.run(run_id)
    assert (row["release_count"], row["error_detail"]["waiting_for"]) == (1, "user_access")


def test_runs_that_no_worker_kept_sit_out_their_pause(world: World) -> None:
    worker, run_id = world.worker(), world.submit(world.person())
    at = 0.0
    world.at(at)
    for _ in range(5):
        run, at = claimed(world, worker, run_id, at)
        worker.release(run)
    before = world.run(run_id)
    assert before["error_detail"]["waiting_for"] == "worker"
    world.worker()
    assert world.run(run_id)["wake_at"] == before["wake_at"]
