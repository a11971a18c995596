"""agent_submit: the same as an insert, repeatable, and open to the service for its users."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb
from world import World, refused


def submit(world: World, user: str, **named: Any) -> dict[str, Any]:
    values = {"agent_type": "writer", "input_data": Jsonb({"x": 1}), **named}
    names = ", ".join(f"{name} => %s" for name in values)
    return world.user(user, f"select agent_submit({names})", *values.values())[0]["agent_submit"]


def test_submit_answers_the_new_run(world: World) -> None:
    world.worker()
    user = world.person()
    row = submit(world, user, metadata=Jsonb({"from": "test"}))
    assert (row["user_id"], row["status"], row["metadata"]) == (user, "pending", {"from": "test"})


def test_repeated_key_answers_the_first_run_and_starts_no_second(world: World) -> None:
    worker = world.worker()
    user = world.person()
    first = submit(world, user, idempotency_key="order-7")
    second = submit(world, user, idempotency_key="order-7", input_data=Jsonb({"x": 2}))
    assert second == first
    assert len(worker.claim()) == 1
    assert submit(world, user, idempotency_key="order-7")["status"] == "running"


def test_repeated_key_answers_the_first_run_even_if_it_would_be_refused_today(world: World) -> None:
    world.worker()
    user = world.person()
    first = submit(world, user, idempotency_key="order-7")
    world.configure(enabled=False)
    assert submit(world, user, idempotency_key="order-7")["id"] == first["id"]


def test_two_submits_at_once_with_one_key_start_one_run(world: World) -> None:
    world.worker()
    user, other = world.person(), world.another()
    with other.acting("authenticated", user) as cursor:
        cursor.execute("select agent_submit('writer', '{}', idempotency_key => 'k') ->> 'id' as id")
        first = cursor.fetchall()[0]["id"]
        racing = world.background(lambda: submit(world, user, idempotency_key="k"))
        assert racing.waits()
    assert racing.result()["id"] == first
    assert world.one("select count(*) from agent_executions") == 1


def test_users_with_the_same_key_do_not_meet(world: World) -> None:
    world.worker()
    first = submit(world, world.person(), idempotency_key="k")
    assert submit(world, world.person(), idempotency_key="k")["id"] != first["id"]


def test_submit_for_someone_else_is_refused(world: World) -> None:
    world.worker()
    with refused("42501", says="You can only start runs of your own."):
        submit(world, world.person(), user_id=world.person())


def test_role_that_a_project_made_for_its_users_is_no_service(fresh_world: World) -> None:
    world = fresh_world
    world.worker()
    user, victim = world.person(), world.person()
    world.sql("create role customers nologin")
    try:
        world.sql("grant authenticated to customers")
        world.sql("grant customers to postgres")
        starts = "select agent_submit('writer', '{}', user_id => %s)"
        says = "You can only start runs of your own."
        with refused("42501", says=says), world.acting("customers", user) as cursor:
            cursor.execute(starts, (victim,))
    finally:
        world.sql("drop role customers")


def test_service_names_the_user(world: World) -> None:
    world.worker()
    user = world.person()
    row = world.service("select agent_submit('writer', '{}', user_id => %s)", user)
    assert row["user_id"] == user
    with refused("RH006", says="A run needs a user.", hint="user_id"):
        world.service("select agent_submit('writer', '{}')")


def test_submit_checks_what_an_insert_checks(world: World) -> None:
    world.worker()
    user = world.person()
    with refused("RH001"):
        submit(world, user, agent_type="nobody")
    with refused("RH003"):
        submit(world, user, input_data=Jsonb([]))
    world.configure(limits={"max_steps": 10})
    with refused("RH004"):
        submit(world, user, limits=Jsonb({"max_steps": 1000}))
