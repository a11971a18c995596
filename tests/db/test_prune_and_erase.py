"""Getting rid of rows: old runs by retention, and everything that is a person's when the person is erased."""

from __future__ import annotations

import psycopg
import pytest
from world import World, call, question, refused, step


def test_prune_removes_old_ended_runs_with_all_that_is_theirs(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "succeeded")])
    worker.end(run, "completed", result={})
    waiting, _ = world.paused(worker, user)
    world.at(100 * 86_400)
    assert world.service("select agent_prune(interval '90 days')") == 1
    assert [str(row["id"]) for row in world.sql("select id from agent_executions")] == [waiting["id"]]
    for table in ("agent_steps", "agent_tool_calls", "agent_events"):
        assert world.one(f"select count(*) from {table} where execution_id = %s", run["id"]) == 0


def test_prune_takes_the_oldest_first_and_not_more_than_asked(world: World) -> None:
    worker, user = world.worker(), world.person()
    runs = [world.running(worker, user) for _ in range(3)]
    for run in runs:
        worker.end(run, "completed", result={})
    world.at(100 * 86_400)
    assert world.service("select agent_prune(interval '90 days', 2)") == 2
    assert [str(row["id"]) for row in world.sql("select id from agent_executions")] == [runs[2]["id"]]


def test_prune_leaves_young_runs(world: World) -> None:
    worker, user = world.worker(), world.person()
    worker.end(world.running(worker, user), "completed", result={})
    world.at(86_400)
    assert world.service("select agent_prune(interval '90 days')") == 0


@pytest.mark.parametrize("interval", ["0", "59 minutes", "-1 day"])
def test_prune_of_what_is_young_is_refused(world: World, interval: str) -> None:
    with refused("RH013", says="at least one hour", hint="90 days"):
        world.service("select agent_prune(%s::interval)", interval)


def test_prune_removes_workers_that_died_long_ago(world: World) -> None:
    gone, living = world.worker(), world.worker()
    gone.stop(draining=False)
    world.at(100 * 86_400)
    world.service("select agent_prune(interval '90 days')")
    assert [str(row["id"]) for row in world.sql("select id from agent_workers")] == [living.id]


def test_retention_is_never_unless_the_project_sets_it(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "completed", result={})
    world.at(100 * 86_400)
    assert world.one("select runhold.prune_as_set()") == 0
    world.sql("update runhold.settings set value = '101 days' where name = 'retention'")
    assert world.one("select runhold.prune_as_set()") == 0
    world.sql("update runhold.settings set value = '90 days' where name = 'retention'")
    assert world.one("select runhold.prune_as_set()") == 1
    assert world.one("select count(*) from agent_executions") == 0


@pytest.mark.parametrize(("value", "code"), [("soon", "22007"), ("10 minutes", "23514")])
def test_a_retention_that_makes_no_sense_is_refused_at_once(world: World, value: str, code: str) -> None:
    """And not by a job at night."""
    with pytest.raises(psycopg.Error) as caught:
        world.sql("update runhold.settings set value = %s where name = 'retention'", value)
    assert caught.value.sqlstate == code


def mentions(world: World, identifier: str) -> set[str]:
    """Where an id still stands, in any column."""
    return {
        f"{row['table']}.{row['column']}"
        for row in world.sql(
            """
            select c.oid::regclass::text as table, a.attname as column
            from pg_class c join pg_attribute a on a.attrelid = c.oid
            where c.relnamespace in ('public'::regnamespace, 'runhold'::regnamespace)
              and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
            """
        )
        if world.one(
            f'select count(*) from {row["table"]} t where t."{row["column"]}"::text like %s',
            f"%{identifier}%",
        )
    }


def test_erasing_a_person_leaves_no_row_of_theirs_anywhere(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (first, _) = world.paused(worker, user, 2)
    world.decide(reviewer, first["id"])
    world.appoint(user)
    world.sql(
        "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'x')",
        run["id"],
        user,
        user,
    )
    world.sql(
        "insert into agent_budgets (scope, scope_key, period, max_usd) values ('user', %s, 'day', 1)", user
    )
    world.sql(
        "insert into agent_usage (scope, scope_key, period, period_start) values ('user', %s, 'day', now())",
        user,
    )
    world.sql(
        "insert into agent_usage (scope, scope_key, period, period_start) values ('type', 'writer', 'day', now())"
    )
    world.sql("delete from auth.users where id = %s", user)

    assert mentions(world, user) == set()
    assert mentions(world, run["id"]) == set()
    assert world.one("select count(*) from agent_usage") == 1


def test_erasing_a_reviewer_keeps_what_was_decided_without_their_name(world: World) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"])
    world.sql("delete from auth.users where id = %s", reviewer)
    assert world.review(review["id"])["status"] == "approved"
    assert world.review(review["id"])["reviewer_id"] is None
    assert world.sql("select reviewer_id, decision from agent_review_decisions") == [
        {"reviewer_id": None, "decision": "approved"}
    ]
    assert world.status(run["id"]) == "pending"


def test_events_of_others_runs_forget_who_was_erased(world: World) -> None:
    worker, user = world.worker(), world.person()
    gone, stays = world.reviewer(role="operator"), world.reviewer(role="operator")
    (first, (review,)), (second, _) = world.paused(worker, user), world.paused(worker, user)
    world.decide(gone, review["id"])
    world.user(gone, "select agent_send(%s, 'Hurry.')", second["id"])
    world.user(gone, "select agent_cancel(%s)", first["id"])
    world.user(stays, "select agent_cancel(%s)", second["id"])
    before = world.sql(
        "select id, execution_id, at, actor_kind, actor_id, kind, data from agent_events order by id"
    )
    world.sql("delete from auth.users where id = %s", gone)
    after = world.sql(
        "select id, execution_id, at, actor_kind, actor_id, kind, data from agent_events order by id"
    )
    assert str(gone) in {str(row["actor_id"]) for row in before}
    assert after == [row | {"actor_id": None} if str(row["actor_id"]) == gone else row for row in before]
    assert mentions(world, gone) == set()


def test_erasing_finds_the_events_by_index(world: World) -> None:
    """Of a table with few rows every one is read, so that is forbidden here."""
    with world.connection.transaction(), world.connection.cursor() as cursor:
        cursor.execute("set local enable_seqscan = off")
        cursor.execute(
            "explain (costs off) update agent_events e set actor_id = null from (values (gen_random_uuid())) u(id)"
            " where e.actor_id = u.id and e.actor_kind = 'reviewer'"
        )
        plan = cursor.fetchall()
    assert "agent_events_of_others_idx" in str(plan)


def test_erasing_a_person_whose_run_is_worked_on(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.sql("delete from auth.users where id = %s", user)
    verdict = worker.record(
        run, calls=[call(1, 0, "send", "unsafe", "awaiting_review")], reviews=[question(1, 0)]
    )
    assert verdict["verdict"] == "fenced"
    assert worker.heartbeat([run["id"]])["lost"] == [run["id"]]
