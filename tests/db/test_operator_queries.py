"""Every file in sql/ runs as it stands, answers on a seeded database, and begins by saying what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from budget_world import budget, reserve
from world import DEFINITION, Row, World, step

SQL = Path(__file__).parents[2] / "sql"
FILES = sorted(SQL.glob("*.sql"))


def run(world: World, name: str, **replaced: str) -> list[Row]:
    """The rows of the file's last statement, as the SQL editor runs it."""
    text = (SQL / f"{name}.sql").read_text("utf-8")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    with world.connection.cursor() as cursor:
        cursor.execute(text)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_says_what_it_answers_and_runs(fresh_world: World, path: Path) -> None:
    head = path.read_text("utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("--") for line in head)
    assert head[0].endswith("?"), "the first line is the question"
    for word in ("Columns:", "Cost:"):
        assert any(word in line for line in head), word
    assert any("Bad answer:" in line or "To undo:" in line for line in head)
    run(fresh_world, path.stem)
    run(fresh_world, path.stem)  # safe to repeat


def test_there_are_these_files() -> None:
    assert {path.stem for path in FILES} >= {
        "appoint_reviewer",
        "audit_of_a_run",
        "budgets",
        "health",
        "queue",
        "realtime_postgres_changes",
        "reviews_waiting",
        "spend_by_user",
        "stuck",
        "workers",
    }


def test_health(world: World) -> None:
    worker, user = world.worker(), world.person()
    done, failed = world.running(worker, user), world.running(worker, user)
    worker.record(done, steps=[step(1, worker.definition, cost_usd=0.5)])
    worker.end(done, "completed", result={})
    worker.end(failed, "failed", error="TOOL_FAILED")
    world.paused(worker, user)
    world.submit(user)
    (row,) = run(world, "health")
    assert (row["agent_type"], row["runs"], float(row["completion_rate"])) == ("writer", 4, 0.5)
    assert (row["p95_steps"], row["waiting"], row["worst"]) == (1, 1, "TOOL_FAILED")
    assert (float(row["tokens_per_completion"]), float(row["usd_per_completion"])) == (20, 0.5)
    assert float(row["review_rate"]) == 0.25


def test_nothing_is_stuck_in_a_healthy_database(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.running(worker, user)
    world.paused(worker, user)
    world.submit(user)
    assert run(world, "stuck") == []


def test_what_is_stuck_is_found(fresh_world: World) -> None:
    world = fresh_world
    living, dead, silent, user = world.worker(), world.worker(), world.worker(), world.person()
    world.paused(living, user)
    world.sql("delete from agent_reviews")
    ended, _ = world.paused(living, user)
    late, _ = world.paused(living, user)
    idle = world.running(living, user)
    for worker in (dead, silent):
        world.running(worker, user)
    world.worker({**DEFINITION, "agent_type": "reader"})
    world.submit(user, "reader")
    world.configure("reader", enabled=False)
    for damage, what in (
        ("agent_executions set status = 'cancelled', completed_at = now() where id = %s", ended["id"]),
        ("agent_reviews set expires_at = now() - interval '1 h' where execution_id = %s", late["id"]),
        ("agent_executions set updated_at = now() - interval '1 h' where id = %s", idle["id"]),
        ("agent_executions set state_since = now() - interval '1 h' where agent_type = %s", "reader"),
        ("agent_workers set dead_at = now() where id = %s", dead.id),
        ("agent_workers set lease_expires_at = now() - interval '1 h' where id = %s", silent.id),
    ):
        world.sql("alter table agent_executions disable trigger user")
        world.sql(f"update {damage}", what)
        world.sql("alter table agent_executions enable trigger user")
    assert sorted(row["what"] for row in run(world, "stuck")) == [
        "held by a dead worker",
        "held by a worker whose lease is long over",
        "no progress for 15 minutes",
        "open review of an ended run",
        "paused without an open review",
        "queued, and no living worker runs this type",
        "review long past its time",
    ]


def test_workers(world: World) -> None:
    living, draining, silent, dead = (world.worker() for _ in range(4))
    world.running(living, world.person())
    draining.stop(draining=True)
    dead.stop(draining=False)
    world.sql("update agent_workers set lease_expires_at = now() - interval '1 s' where id = %s", silent.id)
    rows = {str(row["id"]): row for row in run(world, "workers")}
    assert [rows[w.id]["state"] for w in (living, draining, silent, dead)] == [
        "living",
        "draining",
        "silent",
        "dead",
    ]
    assert (rows[living.id]["holds"], rows[living.id]["capacity"], rows[living.id]["lease_s"]) == (1, 64, 30)


def test_queue(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(max_concurrent=1)
    world.running(worker, user)
    worker.heartbeat([str(row["id"]) for row in world.sql("select id from agent_executions")])
    world.submit(user)
    world.submit(user, wake_at=world.one("select now() + interval '1 h'"))
    (row,) = run(world, "queue")
    assert (row["ready"], row["later"], row["running"], row["paused"]) == (1, 1, 1, 0)
    assert (row["workers"], row["free"], row["max_concurrent"]) == (1, 63, 1)
    assert row["next_at"] is not None


def test_budgets(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(on_budget="wait")
    budget(world, max_tokens=10_000, max_usd=4)
    budget(world, "user", user, period="month", max_tokens=1000)
    budget(world, "type", "reader", max_tokens=0)
    held, waiting = world.running(worker, user), world.running(worker, user)
    worker.record(held, steps=[step(1, worker.definition, tokens=200, cost_usd=3)])
    reserve(worker, held, 1, 700, min_usd=0, max_usd=0.5)
    refusal = reserve(worker, waiting, 850, 900, min_usd=0, max_usd=0)
    detail = {"waiting_for": "budget", **refusal["detail"]}
    worker.end(waiting, "pending", reason="budget", delay_ms=refusal["delay_ms"], detail=detail)
    mine, all_, reader = run(world, "budgets")
    assert (mine["scope"], mine["whose"], mine["period"]) == ("user", f"{user}@example.org", "month")
    assert (mine["used_tokens"], mine["reserved_tokens"], mine["max_tokens"], float(mine["share"])) == (
        200,
        700,
        1000,
        0.9,
    )
    assert (mine["holders"], mine["waiting"]) == (1, 1)
    assert (float(all_["used_usd"]), float(all_["reserved_usd"]), float(all_["share"])) == (3, 0.5, 0.875)
    assert (all_["holders"], all_["waiting"]) == (1, 0)
    assert (reader["whose"], reader["used_tokens"], reader["share"]) == ("reader", 0, 0)
    assert [each["problem"] for each in (mine, all_, reader)] == [None, None, "no agent type has this name"]


def test_audit_of_a_run(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    paused, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"], edited_input={"n": 7}, comment="Seven.")
    rows = run(world, "audit_of_a_run", **{"00000000-0000-0000-0000-000000000000": paused["id"]})
    assert [row["what"] for row in rows if row["what"] != "submitted"][:1] == ["claimed"]
    assert {"step 1", "call 1.0 send", "decision: approved", "paused", "resumed"} <= {
        row["what"] for row in rows
    }
    (decision,) = [row for row in rows if row["what"] == "decision: approved"]
    assert decision["who"] == f"{reviewer}@example.org"
    assert (decision["particulars"]["changed_to"], decision["particulars"]["comment"]) == ({"n": 7}, "Seven.")
    assert run(world, "audit_of_a_run") == []


def test_appoint_reviewer(world: World) -> None:
    worker, user, person = world.worker(), world.person(), world.person()
    _, (review,) = world.paused(worker, user)
    (row,) = run(world, "appoint_reviewer", **{"reviewer@example.com": f"{person}@example.org"})
    assert (row["email"], row["role"], row["agent_type"]) == (f"{person}@example.org", "reviewer", None)
    assert world.decide(person, review["id"])[0]["status"] == "approved"


def test_postgres_changes_publishes_what_clients_follow(fresh_world: World) -> None:
    run(fresh_world, "realtime_postgres_changes")
    published = fresh_world.sql(
        "select tablename from pg_publication_tables where pubname = 'supabase_realtime' order by 1"
    )
    assert [row["tablename"] for row in published] == ["agent_executions", "agent_reviews"]


def test_spend_by_user(fresh_world: World) -> None:
    world = fresh_world
    worker, thrifty, spender = world.worker(), world.person(), world.person()
    for user, cost, end in ((spender, 3, "completed"), (spender, 1, "failed"), (thrifty, 1, "completed")):
        claimed = world.running(worker, user)
        worker.record(claimed, steps=[step(1, worker.definition, cost_usd=cost)])
        worker.end(claimed, end, **({"error": "TOOL_FAILED"} if end == "failed" else {"result": {}}))
    first, second = run(world, "spend_by_user")
    assert (first["who"], first["runs"], first["tokens"], first["usd"]) == (
        f"{spender}@example.org",
        2,
        20,
        4,
    )
    assert (first["usd_per_completion"], first["failed_usd"]) == (4, 1)
    assert (float(first["share"]), float(second["share"])) == (0.8, 0.2)


def test_reviews_waiting(fresh_world: World) -> None:
    world = fresh_world
    worker, user = world.worker(), world.person()
    _, (review,) = world.paused(worker, user)
    (row,) = run(world, "reviews_waiting")
    assert (row["review_id"], row["approvals"], row["deciders"]) == (review["id"], "0 of 1", 0)
    world.appoint(user)  # about their own run they decide nothing
    world.reviewer(agent_type="writer")
    world.reviewer(agent_type="writer", tool_name="another")
    assert run(world, "reviews_waiting")[0]["deciders"] == 1
    world.sql("update agent_types set allow_self_review = true")
    assert run(world, "reviews_waiting")[0]["deciders"] == 2


def test_reviews_waiting_does_not_count_who_has_approved_already(fresh_world: World) -> None:
    world = fresh_world
    worker, first, second = world.worker(), world.reviewer(), world.reviewer()
    world.configure(approvals_needed=2)
    _, (review,) = world.paused(worker, world.person())
    for person, edit, deciders in ((first, {"n": 1}, 1), (second, {"n": 2}, 1), (second, {"n": 3}, 1)):
        world.decide(person, review["id"], edited_input=edit)
        assert run(world, "reviews_waiting")[0]["deciders"] == deciders
    world.sql("delete from runhold.reviewers where user_id = %s", first)
    (row,) = run(world, "reviews_waiting")
    assert (row["approvals"], row["deciders"]) == ("1 of 2", 0)
