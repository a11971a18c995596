"""What follows when Auth bans, unbans or softly deletes a user: noted by a trigger, done by the sweep."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb
from test_may_act import ban, set_user
from test_queue import backlog
from test_queue_plans import READ
from world import World


@pytest.fixture
def erases(world: World) -> None:
    world.sql("update runhold.settings set value = 'on' where name = 'erase_on_soft_delete'")


def soft_delete(world: World, user: str) -> None:
    set_user(world, user, "deleted_at = now()")


def noted(world: World) -> int:
    return world.one("select count(*) from runhold.user_changes")


def runs_of(world: World, user: str) -> int:
    return world.one("select count(*) from agent_executions where user_id = %s", user)


def test_ban_that_ends_early_lets_runs_go_on(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    ban(world, user)
    assert worker.claim() == []
    world.sweep()
    assert worker.claim() == []  # the sweep looked, and the claim asked again
    set_user(world, user, "banned_until = null")
    assert world.sweep()["repaired"] == 1
    assert [run["id"] for run in worker.claim()] == [run_id]
    assert noted(world) == 0


def test_bans_that_end_or_get_shorter_and_deletions_are_noted_alone(world: World) -> None:
    """Whoever bans all users of a tenant leaves no work for the sweep."""
    user = world.person()
    for change in (
        "last_sign_in_at = now(), email = 'new@example.org'",
        "banned_until = now() + interval '1 hour'",
        "banned_until = now() + interval '2 hours'",
    ):
        set_user(world, user, change)
        assert noted(world) == 0, change
    for number, change in enumerate(
        ("banned_until = now() + interval '1 hour'", "banned_until = null", "deleted_at = now()"), start=1
    ):
        set_user(world, user, change)
        assert noted(world) == number, change


def waits_for(world: World, run_id: str, user: str) -> bool:
    """Whether the run waits for exactly the end of its user's ban."""
    return world.one(
        "select x.wake_at = u.banned_until from agent_executions x, auth.users u where x.id = %s and u.id = %s",
        run_id,
        user,
    )


def test_ban_that_is_changed_while_runs_wait(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    ban(world, user)
    worker.claim()
    world.sweep()
    ban(world, user, "now() + interval '1 hour'")  # shorter
    assert world.sweep()["repaired"] == 1
    assert worker.claim() == []
    assert waits_for(world, run_id, user)
    ban(world, user, "now() + interval '3 hours'")  # longer: found out when the run is due
    assert (world.sweep()["repaired"], world.sweep()["repaired"], noted(world)) == (0, 0, 0)
    world.at(3700)
    assert world.worker().claim() == []
    assert waits_for(world, run_id, user)
    assert world.events(run_id) == ["submitted"]


def test_user_who_is_deleted_while_runs_wait_ends_them(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    ban(world, user, "'infinity'")
    worker.claim()
    soft_delete(world, user)
    world.sweep()
    assert worker.claim() == []
    assert world.run(run_id)["error"] == "USER_GONE"


def test_ban_that_ends_while_a_claim_sets_runs_aside(world: World) -> None:
    """The claim has read the ban and not committed: a sweep between finds nothing that waits."""
    worker, user, over = world.worker(), world.person(), world.another()
    run_id = world.submit(user)
    ban(world, user, "'infinity'")
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_worker_claim(%s, 1, %s, 10)", (worker.id, Jsonb(worker.definitions)))
        set_user(world, user, "banned_until = null")
        world.sweep()
    worker.claim_seq = 1
    assert world.run(run_id)["wake_at"] is not None
    world.sweep()
    assert [run["id"] for run in worker.claim()] == [run_id]


def test_sweep_reads_of_each_user_no_more_than_their_runs(world: World) -> None:
    """Whatever the statistics say; and a user has one note, however many claims met them."""
    worker = world.worker()
    world.sql("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 600)")
    with world.acting(None) as cursor:
        cursor.execute(
            "insert into agent_executions (user_id, agent_type, input_data)"
            " select id, 'writer', '{}' from auth.users, generate_series(1, 3)"
        )
    world.sql("analyze agent_executions")  # nothing waits: every guess that is made from this is wrong
    world.sql("update auth.users set banned_until = 'infinity'")
    while worker.claim_answer()["more"]:
        pass
    assert noted(world) == 600
    world.sql("select pg_stat_force_next_flush()")
    with world.acting(None) as cursor:
        cursor.execute("select runhold.sweep_users()")
        cursor.execute(READ)
        (read,) = cursor.fetchall()
    assert (read["seq_scan"], noted(world)) == (0, 100)
    assert sum(read["by_index"].values()) <= 500 * 3 * 2, read
    world.sql("update auth.users set banned_until = null")
    while noted(world):
        world.sweep()
    assert world.one("select count(*) from agent_executions where wake_at > now()") == 0


def test_trigger_never_raises_and_never_waits(fresh_world: World) -> None:
    world = fresh_world
    user = world.person()
    ban(world, user)
    world.sql("alter table runhold.user_changes rename to elsewhere")
    set_user(world, user, "banned_until = null")
    world.sql("alter table runhold.elsewhere rename to user_changes")
    soft_delete(world, user)
    world.connection.execute("set lock_timeout = '1s'")
    with world.another().acting(None) as cursor:
        cursor.execute("select from runhold.user_changes for update")
        set_user(world, user, "deleted_at = null")
    assert noted(world) == 2


def test_soft_deletion_erases_nothing_unless_the_setting_says_so(world: World) -> None:
    world.worker()
    user = world.person()
    world.submit(user)
    soft_delete(world, user)
    world.sweep()
    assert (runs_of(world, user), noted(world)) == (1, 0)


@pytest.mark.usefixtures("erases")
def test_soft_deletion_erases_like_deletion(world: World) -> None:
    worker, gone, other = world.worker(), world.reviewer(), world.person()
    world.paused(worker, gone)
    other_run, (review,) = world.paused(worker, other)
    world.decide(gone, review["id"], comment="yes")
    world.sql(
        "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'x')",
        other_run["id"],
        other,
        gone,
    )
    world.sql(
        "insert into agent_budgets (scope, scope_key, period, max_tokens) values ('user', %s, 'day', 9)", gone
    )
    world.sql(
        "insert into agent_usage (scope, scope_key, period, period_start) values ('user', %s, 'day', '2026-01-01')",
        gone,
    )
    soft_delete(world, gone)
    world.sweep()
    assert (runs_of(world, gone), runs_of(world, other), noted(world)) == (0, 1, 0)
    decided = world.review(review["id"])
    assert (decided["status"], decided["comment"], decided["reviewer_id"]) == ("approved", "yes", None)
    for query in (
        "select count(*) from agent_review_decisions where reviewer_id = %s",
        "select count(*) from agent_messages where sender_id = %s",
        "select count(*) from agent_events where actor_id = %s",
        "select count(*) from runhold.reviewers where user_id = %s",
        "select count(*) from agent_budgets where user_id = %s",
        "select count(*) from agent_usage where scope_key = %s::text",
        "select count(*) from runhold.lanes where user_id = %s",
    ):
        assert world.one(query, gone) == 0, query
    assert world.one("select count(*) from auth.users where id = %s", gone) == 1


@pytest.mark.usefixtures("erases")
def test_sweep_erases_in_batches(world: World) -> None:
    world.worker()
    user = world.person()
    backlog(world, user, 1_100)
    soft_delete(world, user)
    left = []
    while noted(world):
        world.sweep()
        left.append(runs_of(world, user))
    assert left == [600, 100, 0]


@pytest.mark.usefixtures("erases")
def test_what_somebody_holds_is_left_for_the_next_sweep(world: World) -> None:
    worker, user = world.worker(), world.person()
    held, _ = world.paused(worker, user)
    reviewed, (review,) = world.paused(worker, user)
    free = world.submit(user)
    soft_delete(world, user)
    world.connection.execute("set lock_timeout = '1s'")
    with world.another().acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for key share", (held["id"],))
        cursor.execute("select from agent_reviews where id = %s for update", (review["id"],))
        world.sweep()
        left = world.sql("select id::text from agent_executions where user_id = %s", user)
        assert {row["id"] for row in left} == {held["id"], reviewed["id"]}
        assert free not in {row["id"] for row in left}
        assert noted(world) == 1
    world.sweep()
    assert (runs_of(world, user), noted(world)) == (0, 0)


@pytest.mark.usefixtures("erases")
def test_deletion_that_was_taken_back_erases_nothing(world: World) -> None:
    world.worker()
    user = world.person()
    world.submit(user)
    soft_delete(world, user)
    set_user(world, user, "deleted_at = null")
    world.sweep()
    assert (runs_of(world, user), noted(world)) == (1, 0)
