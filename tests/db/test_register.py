"""agent_worker_register: a process appears, with the agents that it can run."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import DEFINITION, Worker, World, refused


def test_register_answers_what_a_worker_must_know(world: World) -> None:
    worker = world.worker()
    answer = world.service(
        "select agent_worker_register(%s, %s)",
        *_worker_and(DEFINITION),
    )
    assert answer["definitions"] == worker.definitions  # the same definition is the same row
    assert answer["lease_ms"] == 20_000
    assert answer["schema_version"] == world.one("select runhold.schema_version()")
    assert answer["types"] == {"writer": {"enabled": True, "approval_tools": []}}
    assert answer["types_version"] > 0


def test_changed_definition_is_a_new_row_and_the_types_newest(world: World) -> None:
    old = world.worker()
    new = world.worker({**DEFINITION, "instructions": "Other."})
    assert new.definition != old.definition
    assert str(world.one("select definition_id from agent_types")) == new.definition
    assert world.one("select count(*) from agent_definitions") == 2


def test_order_of_members_makes_no_new_definition(world: World) -> None:
    world.worker(DEFINITION)
    world.worker(dict(reversed(DEFINITION.items())))
    assert world.one("select count(*) from agent_definitions") == 1


def test_absent_and_null_mean_the_same(world: World) -> None:
    worker = world.worker({**DEFINITION, "limits": None, "params": None, "max_attempts": None, "tools": None})
    world.submit(world.person(), limits={"max_steps": 3})
    assert worker.claim()[0]["limits"] == {"max_steps": 3}


def test_registration_never_touches_what_operators_set(world: World) -> None:
    world.worker()
    operators: dict[str, Any] = {
        "enabled": False,
        "approval_tools": ["look"],
        "limits": {"max_steps": 3},
        "max_concurrent": 4,
        "allow_self_review": True,
    }
    world.configure(**operators)
    world.worker({**DEFINITION, "version": "2", "description": "New."})
    row = world.sql("select * from agent_types")[0]
    assert {name: row[name] for name in operators} == operators
    assert row["description"] == "New."


def test_two_agents_of_one_type_are_refused(world: World) -> None:
    with refused("RH013", says="Two agents of one type were registered."):
        world.worker(DEFINITION, {**DEFINITION, "version": "2"})


@pytest.mark.parametrize("name", ["Writer", "1st", "", "a b", "x" * 64, None])
def test_names_that_are_none_are_refused(world: World, name: str | None) -> None:
    with refused("RH013", says="is no name of an agent type"):
        world.worker({**DEFINITION, "agent_type": name})


@pytest.mark.parametrize("limits", [{"max_steps": "25"}, {"max_tokens": []}, [1], "none"])
def test_limits_that_are_no_numbers_are_refused(world: World, limits: Any) -> None:
    with refused("RH013", says="limits"):
        world.worker({**DEFINITION, "limits": limits})


def test_registration_whose_answer_was_lost_is_answered_again(world: World) -> None:
    def register() -> dict[str, Any]:
        return world.service("select agent_worker_register(%s, %s)", *_worker_and(DEFINITION))

    first = register()
    world.at(15)
    assert {**register(), "now": None} == {**first, "now": None}
    world.at(25)
    lease = world.one("select lease_expires_at - runhold.now() from agent_workers")
    assert 9 < lease.total_seconds() < 11  # renewed by the second
    # also when it claimed meanwhile: it holds what it held
    worker = Worker(world, "11111111-1111-1111-1111-111111111111", first["definitions"])
    run = world.running(worker, world.person())
    assert register()["definitions"] == first["definitions"]
    assert (world.status(run["id"]), worker.claim(seq=1)[0]["id"]) == ("running", run["id"])


def test_two_registrations_at_once_are_one(world: World) -> None:
    over = world.another()
    query, args = "select agent_worker_register(%s, %s)", _worker_and(DEFINITION)
    with over.acting("service_role") as cursor:
        cursor.execute(query, args)
        first = next(iter(cursor.fetchall()[0].values()))
        second = world.background(lambda: world.service(query, *args))
        assert second.waits()
    assert {**second.result(), "now": None} == {**first, "now": None}
    assert world.one("select count(*) from agent_workers") == 1


@pytest.mark.parametrize(
    "other",
    [{"hostname": "i"}, {"pid": 2}, {"version": "1"}, {"capacity": 5}, {"lease_ms": 21_000}],
)
def test_id_of_another_process_is_refused(world: World, other: dict[str, Any]) -> None:
    world.service("select agent_worker_register(%s, %s)", *_worker_and(DEFINITION))
    with refused("RH012", says="belongs to another process", hint="new id"):
        world.service("select agent_worker_register(%s, %s)", *_worker_and(DEFINITION, **other))
    with refused("RH012", says="belongs to another process"):
        world.service(
            "select agent_worker_register(%s, %s)", *_worker_and({**DEFINITION, "agent_type": "reader"})
        )


def test_dead_id_never_comes_back(world: World) -> None:
    args = _worker_and(DEFINITION)
    world.service("select agent_worker_register(%s, %s)", *args)
    world.service("select agent_worker_stop(%s, false)", "11111111-1111-1111-1111-111111111111")
    with refused("RH012", says="declared dead", hint="new id"):
        world.service("select agent_worker_register(%s, %s)", *args)


def test_lease_is_neither_tiny_nor_endless(world: World) -> None:
    for lease_ms in (0, 999, 600_001):
        with refused("23514"):
            world.worker(lease_ms=lease_ms)


def test_version_of_types_grows_with_every_change_whoever_commits_first(world: World) -> None:
    world.worker(DEFINITION, {**DEFINITION, "agent_type": "reader"})
    version = "select runhold.types_version()"
    start = world.one(version)
    other = world.another()
    with other.acting(None) as cursor:
        cursor.execute("update agent_types set enabled = false where name = 'reader'")  # the smaller number
        world.configure("writer", enabled=False)
        between = world.one(version)
    assert start < between < world.one(version)


def _worker_and(definition: dict[str, Any], **more: Any) -> list[Any]:
    identity = "11111111-1111-1111-1111-111111111111"
    worker = {"id": identity, "hostname": "h", "pid": 1, "version": "0", "capacity": 4, "lease_ms": 20_000}
    return [Jsonb({**worker, **more}), Jsonb([definition])]
