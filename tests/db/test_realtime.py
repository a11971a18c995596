"""Wake-ups and hints: few, to the right topics, and heard by those who may."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from world import World, call, step

from runhold.local.stack import LocalStack


def sent(world: World, topic: str = "%") -> list[tuple[str, str, Any]]:
    rows = world.sql(
        "select topic, event, payload - 'id' as payload, private from realtime.messages where topic like %s order by inserted_at",
        topic,
    )
    assert all(row["private"] for row in rows)
    return [(row["topic"], row["event"], row["payload"]) for row in rows]


def forget(world: World) -> None:
    """The last wake-up is long ago, and nothing was sent."""
    world.sql("select setval('runhold.last_wake', 0)")
    world.sql("delete from realtime.messages")


def test_new_run_wakes_the_workers(world: World) -> None:
    world.worker()
    user = world.person()
    forget(world)
    world.submit(user)
    assert sent(world, "runhold:workers") == [("runhold:workers", "wake", {})]


def test_many_runs_at_once_wake_once(world: World) -> None:
    world.worker()
    user = world.person()
    forget(world)
    world.sql(
        "insert into agent_executions (user_id, agent_type, input_data) select %s, 'writer', '{}' from generate_series(1, 50)",
        user,
    )
    assert len(sent(world, "runhold:workers")) == 1


def test_at_most_ten_wake_ups_a_second(world: World) -> None:
    for at, expected in ((0, 1), (50, 1), (99, 1), (100, 2), (199, 2), (250, 3)):
        world.sql(
            "select set_config('runhold.now', (timestamptz '2030-01-01' + %s * interval '1 ms')::text, false)",
            at,
        )
        for _ in range(3):
            world.sql("select runhold.wake_workers()")
        assert len(sent(world, "runhold:workers")) == expected, at


def test_clock_that_was_set_back_does_not_silence_the_wake_ups(world: World) -> None:
    world.at(3600)
    world.sql("select runhold.wake_workers()")
    world.at(0)
    world.sql("select runhold.wake_workers()")
    assert len(sent(world, "runhold:workers")) == 2


@pytest.mark.parametrize("what", ["cancel", "release", "decision", "enabled", "retry", "fork"])
def test_workers_are_woken_by(world: World, what: str) -> None:
    worker, reviewer, user = world.worker(), world.reviewer(), world.person()
    if what == "decision":
        _, (review,) = world.paused(worker, user)
        forget(world)
        world.decide(reviewer, review["id"])
    else:
        run = world.running(worker, user)
        if what in ("retry", "fork"):
            worker.end(run, "failed", error="MODEL_ERROR")
        forget(world)
        if what == "retry":
            world.user(user, "select agent_retry(%s)", run["id"])
        elif what == "fork":
            world.user(user, "select agent_fork(%s, 1)", run["id"])
        elif what == "cancel":
            world.user(user, "select agent_cancel(%s)", run["id"])
        elif what == "release":
            worker.release(run)
        else:
            world.configure(enabled=True)
    assert sent(world, "runhold:workers") == [("runhold:workers", "wake", {})]


def test_message_wakes_nobody_as_the_run_is_claimed_or_queued_already(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    forget(world)
    world.user(user, "select agent_send(%s, 'Shorter.')", run["id"])
    assert sent(world) == []


def test_steps_and_results_wake_nobody(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    forget(world)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "succeeded")])
    assert sent(world) == []


def test_owner_hears_of_every_change_of_the_run(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "completed", result={})
    topic = f"execution:{run['id']}"
    assert [(event, payload["status"]) for _, event, payload in sent(world, topic)] == [
        ("status", "running"),
        ("status", "completed"),
    ]


def test_runs_claimed_together_are_told_of_each_to_its_own_topic(world: World) -> None:
    worker, user = world.worker(), world.person()
    runs = {world.submit(user) for _ in range(3)}
    forget(world)
    worker.claim()
    assert {topic for topic, _, payload in sent(world) if payload["status"] == "running"} == {
        f"execution:{run}" for run in runs
    }
    assert {payload["status"] for *_, payload in sent(world)} == {"running"}


def test_many_hints_are_sent_where_realtime_keeps_its_messages_otherwise(
    fresh_world: World, postgres: LocalStack
) -> None:
    url = urlsplit(postgres.superuser_url)._replace(path=urlsplit(fresh_world.url).path).geturl()
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute("alter table realtime.messages rename to broadcasts")
        superuser.execute(
            "create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) "
            "returns void language sql as $$ insert into realtime.broadcasts (topic, event, payload, private, extension) "
            "values (topic, event, payload, private, 'broadcast') $$"
        )
        worker, user = fresh_world.worker(), fresh_world.person()
        for _ in range(2):
            fresh_world.submit(user)
        assert len(worker.claim()) == 2
        rows = superuser.execute("select topic from realtime.broadcasts where event = 'status'").fetchall()
    assert len(rows) == 2


def test_reviewers_hear_of_reviews_that_are_theirs(world: World) -> None:
    worker, user = world.worker(), world.person()
    theirs, also_theirs = world.reviewer(tool_name="send"), world.reviewer()
    world.appoint(theirs, role="operator")
    not_theirs = world.reviewer(tool_name="save")
    _, (review,) = world.paused(worker, user)
    for reviewer in (theirs, also_theirs):
        assert [payload["status"] for *_, payload in sent(world, f"reviews:{reviewer}")] == ["pending"]
    assert sent(world, f"reviews:{not_theirs}") == []
    world.decide(also_theirs, review["id"])
    assert [payload["status"] for *_, payload in sent(world, f"reviews:{theirs}")] == ["pending", "approved"]


def test_heartbeat_sends_the_workers_probe(world: World) -> None:
    worker = world.worker()
    worker.heartbeat()
    assert sent(world, f"runhold:worker:{worker.id}") == [(f"runhold:worker:{worker.id}", "probe", {})]


def test_who_may_listen(world: World) -> None:
    worker, owner, stranger, reviewer = world.worker(), world.person(), world.person(), world.reviewer()
    run_id = world.submit(owner)

    def joins(user: str, topic: str) -> bool:
        with world.acting("authenticated", user) as cursor:
            cursor.execute("select set_config('realtime.topic', %s, true)", (topic,))
            cursor.execute("select count(*) as n from realtime.messages")
            return bool(cursor.fetchall()[0]["n"])

    forget(world)
    world.sql("insert into realtime.messages (topic, extension, private) values ('any', 'broadcast', true)")
    assert joins(owner, f"execution:{run_id}")
    assert not joins(stranger, f"execution:{run_id}")
    assert not joins(reviewer, f"execution:{run_id}")
    assert joins(reviewer, f"reviews:{reviewer}")
    assert not joins(owner, f"reviews:{reviewer}")
    assert not joins(owner, f"reviews:{owner}")  # no reviewer, no reviews
    for topic in ("runhold:workers", f"runhold:worker:{worker.id}", "execution:", "execution:x", "any", ""):
        assert not joins(owner, topic), topic
    for trick in (
        f"execution:{run_id}:x",
        f"execution:{run_id.upper()}",
        f"x:execution:{run_id}",
        f"execution:{run_id}\n",
    ):
        assert not joins(owner, trick), trick


def test_token_without_a_subject_listens_to_nothing(world: World) -> None:
    world.worker()
    run_id = world.submit(world.person())
    with world.acting("authenticated") as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", (f"execution:{run_id}",))
        cursor.execute("select count(*) as n from realtime.messages")
        assert cursor.fetchall() == [{"n": 0}]


def test_nobody_but_workers_may_send(world: World) -> None:
    policies = world.sql(
        "select cmd, roles from pg_policies where schemaname = 'realtime' and tablename = 'messages' order by cmd, roles"
    )
    assert policies == [
        {"cmd": "INSERT", "roles": ["runhold_worker"]},
        {"cmd": "SELECT", "roles": ["authenticated"]},
        {"cmd": "SELECT", "roles": ["runhold_worker"]},
    ]
