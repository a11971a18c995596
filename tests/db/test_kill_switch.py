"""agent_disable and agent_enable: nothing of the type starts; what waits may be ended."""

from __future__ import annotations

from typing import Any

import pytest
from world import DEFINITION, Row, World, refused


def disable(world: World, user: str, *, fail_pending: bool = False) -> Row:
    return world.user(user, "select agent_disable('writer', %s)", fail_pending)[0]["agent_disable"]


def enable(world: World, user: str) -> Row:
    return world.user(user, "select agent_enable('writer')")[0]["agent_enable"]


def test_nothing_of_a_disabled_type_starts_until_it_is_enabled(world: World) -> None:
    worker, user, operator = world.worker(), world.person(), world.reviewer(role="operator")
    failed = world.running(worker, user)
    worker.end(failed, "failed", error="TOOL_FAILED")
    running = world.running(worker, user)
    waiting = world.submit(user)
    answer = disable(world, operator)
    assert answer == {"agent_type": "writer", "enabled": False, "failed": 0, "pending": 1}
    assert worker.claim() == []
    for forbidden in ("agent_retry(%s)", "agent_fork(%s, 1)"):
        with refused("RH002", hint="agent_enable"):
            world.user(user, f"select {forbidden}", failed["id"])
    with refused("RH002"):
        world.submit(user)
    assert worker.heartbeat([running["id"]])["types"]["writer"]["enabled"] is False
    assert (world.status(running["id"]), world.status(waiting)) == ("running", "pending")

    assert enable(world, operator) == {"agent_type": "writer", "enabled": True}
    assert [run["id"] for run in worker.claim()] == [waiting]


def test_what_waits_may_be_failed_for_good(world: World) -> None:
    worker = world.worker(dict(DEFINITION), {**DEFINITION, "agent_type": "reader"})
    user, operator = world.person(), world.reviewer(role="operator", agent_type="writer")
    paused, _ = world.paused(worker, user)
    running = world.running(worker, user)
    others = world.submit(user, "reader")
    waiting, later = (
        world.submit(user),
        world.submit(user, wake_at=world.one("select now() + interval '1 hour'")),
    )
    answer = disable(world, operator, fail_pending=True)
    assert (answer["failed"], answer["pending"]) == (2, 0)
    for run_id in (waiting, later):
        row = world.run(run_id)
        assert (row["status"], row["error"]) == ("failed", "AGENT_DISABLED")
        assert world.events(run_id) == ["submitted", "failed"]
    actors = world.sql("select distinct actor_id from agent_events where kind = 'failed'")
    assert [str(row["actor_id"]) for row in actors] == [operator]
    assert (world.status(paused["id"]), world.status(running["id"])) == ("awaiting_review", "running")
    assert world.status(others) == "pending"

    enable(world, operator)
    for run_id in (waiting, later):  # whoever tries it again means now
        world.user(user, "select agent_retry(%s)", run_id)
    assert {run["id"] for run in worker.claim()} == {waiting, later, others}


def test_many_are_failed_in_batches(world: World) -> None:
    world.worker()
    world.sql(
        "insert into agent_executions (user_id, agent_type, input_data) select %s, 'writer', '{}' from generate_series(1, 1001)",
        world.person(),
    )
    answers = [world.service("select agent_disable('writer', true)") for _ in range(2)]
    assert [(a["failed"], a["pending"]) for a in answers] == [(1000, 1), (1, 0)]


def test_run_that_someone_holds_is_left_for_the_next_call(world: World) -> None:
    world.worker()
    run_id, over = world.submit(world.person()), world.another()
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run_id,))
        answer = world.service("select agent_disable('writer', true)")
    assert (answer["failed"], answer["pending"]) == (0, 1)
    assert world.service("select agent_disable('writer', true)")["failed"] == 1


@pytest.mark.parametrize(
    "scope",
    [
        None,
        {},
        {"role": "reviewer"},
        {"role": "operator", "agent_type": "reader"},
        {"role": "operator", "tenant_id": "acme"},
        {"role": "operator", "tool_name": "send"},
    ],
)
def test_only_operators_of_the_whole_type_may_switch_it(world: World, scope: dict[str, Any] | None) -> None:
    world.worker()
    person = world.person() if scope is None else world.reviewer(**scope)
    for switch in (disable, enable):
        with refused("RH021", says="Only operators"):
            switch(world, person)
    with refused("42501"):
        world.anon("select agent_disable('writer')")
    assert world.one("select enabled from agent_types") is True


def test_unknown_type_is_said_to_be_unknown(world: World) -> None:
    for call in ("agent_disable", "agent_enable"):
        with refused("RH001", says="'nobody'"):
            world.service(f"select {call}('nobody')")
