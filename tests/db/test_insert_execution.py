"""A signed-in user starts a run by inserting a row: what is accepted, and what is refused in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import DEFINITION, World, refused


def test_user_starts_a_run_with_two_columns(world: World) -> None:
    world.worker()
    user = world.person()
    row = world.run(world.insert(user, agent_type="writer", input_data={"text": "hello"}))
    assert str(row["user_id"]) == user
    assert (row["status"], row["state"], row["attempt"], row["fence"]) == ("pending", {}, 0, 0)
    assert (row["result"], row["error"], row["completed_at"], row["worker_id"], row["started_at"]) == (
        None,
    ) * 5
    assert world.events(str(row["id"])) == ["submitted"]


def test_unknown_agent_type_is_refused(world: World) -> None:
    with refused(
        "RH001", says="There is no agent type 'nobody'.", hint="table agent_types lists those known"
    ):
        world.submit(world.person(), "nobody")


def test_disabled_agent_type_is_refused(world: World) -> None:
    world.worker()
    world.configure(enabled=False)
    with refused("RH002", says="Agent type writer is disabled.", hint="agent_enable"):
        world.submit(world.person())


@pytest.mark.parametrize("value", [[1, 2], "text", 7, True])
def test_input_that_is_no_object_is_refused(world: World, value: Any) -> None:
    world.worker()
    with refused("RH003", says="input_data must be a JSON object.", hint='{"key": "value"}'):
        world.insert(world.person(), agent_type="writer", input_data=Jsonb(value))


def test_missing_input_and_json_null_are_refused(world: World) -> None:
    world.worker()
    with refused("RH003", says="must be a JSON object"):
        world.insert(world.person(), agent_type="writer", input_data=None)
    with refused("RH003", says="must be a JSON object"):
        world.insert(world.person(), agent_type="writer", input_data=Jsonb(None))


def test_input_may_have_256_kib_and_no_byte_more(world: World) -> None:
    world.worker()
    user = world.person()
    brackets = len('{"x": ""}')
    world.submit(user, input_data={"x": "a" * (262144 - brackets)})
    with refused("RH003", says="input_data has 262145 bytes; at most 262144", hint="Storage"):
        world.submit(user, input_data={"x": "a" * (262145 - brackets)})


@pytest.mark.parametrize(
    ("limits", "says", "hint"),
    [
        (
            {"max_steps": 21},
            "The limit max_steps of 21 is wider than agent type writer allows (20).",
            "tighten",
        ),
        ({"max_stepps": 1}, "Unknown limit max_stepps.", "max_steps, max_tokens"),
        ({"max_steps": "5"}, "The limit max_steps must be a number above 0.", ""),
        ({"max_steps": 0}, "must be a number above 0", ""),
        ({"max_steps": -1}, "must be a number above 0", ""),
        ({"max_steps": None}, "must be a number above 0", ""),
        ([1], "limits must be a JSON object.", ""),
    ],
)
def test_limits_that_are_wider_or_no_limits_are_refused(
    world: World, limits: Any, says: str, hint: str
) -> None:
    world.worker()
    world.configure(limits={"max_steps": 20})
    with refused("RH004", says=says, hint=hint):
        world.submit(world.person(), limits=limits)


def test_limits_may_tighten_and_add(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.submit(user, limits={"max_steps": 5, "max_cost_usd": 0.25})
    (run,) = worker.claim()
    assert run["limits"] == {**DEFINITION["limits"], "max_steps": 5, "max_cost_usd": 0.25}


def test_operators_limits_tighten_the_definitions_and_bound_the_runs(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(limits={"max_steps": 10, "max_tokens": 10**9, "max_tool_calls": None})
    with refused("RH004", says="wider than agent type writer allows (10)"):
        world.submit(user, limits={"max_steps": 11})
    world.submit(user)
    (run,) = worker.claim()
    assert run["limits"] == {**DEFINITION["limits"], "max_steps": 10}


@pytest.mark.parametrize(
    "limits", [{"max_steps": "ten"}, {"steps": 10}, {"max_steps": -1}, {"max_steps": {}}]
)
def test_operator_can_not_set_limits_that_would_break_every_claim(world: World, limits: Any) -> None:
    world.worker()
    with refused("23514", says="limits_are_known_numbers"):
        world.configure(limits=limits)


def test_user_can_not_start_a_run_for_someone_else(world: World) -> None:
    world.worker()
    user, other = world.person(), world.person()
    with refused("42501"):
        world.submit(user, user_id=other)


@pytest.mark.parametrize(
    "column",
    [
        "id",
        "status",
        "state",
        "result",
        "error",
        "step_count",
        "token_count",
        "created_at",
        "completed_at",
        "tenant_id",
        "priority",
        "attempt",
        "worker_id",
        "fence",
        "cost_usd",
    ],
)
@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_columns_of_the_state_can_not_be_set_by_clients(world: World, role: str, column: str) -> None:
    world.worker()
    user = world.person()
    with refused("42501"), world.acting(role, user) as cursor:
        cursor.execute(
            f"insert into agent_executions (user_id, agent_type, input_data, {column})"
            " values (%s, 'writer', '{}', default)",
            (user,),
        )


def test_nobody_can_begin_a_run_in_another_state(world: World) -> None:
    world.worker()
    with refused("RH005", says="A run can not begin as completed."):
        world.sql(
            "insert into agent_executions (user_id, agent_type, input_data, status, completed_at)"
            " values (%s, 'writer', '{}', 'completed', now())",
            world.person(),
        )


def test_tenant_comes_from_the_users_token(world: World) -> None:
    world.worker()
    user = world.person()
    row = world.user(
        user,
        "insert into agent_executions (agent_type, input_data) values ('writer', '{}') returning tenant_id",
        app_metadata={"tenant_id": "acme"},
        user_metadata={"tenant_id": "forged"},
    )[0]
    assert row["tenant_id"] == "acme"


def test_tenant_is_where_the_project_says_that_it_is(world: World) -> None:
    world.worker()
    world.sql("update runhold.settings set value = '{org}' where name = 'tenant_claim'")
    row = world.user(
        world.person(),
        "insert into agent_executions (agent_type, input_data) values ('writer', '{}') returning tenant_id",
        org="umbrella",
    )[0]
    assert row["tenant_id"] == "umbrella"


def test_tenant_of_a_run_that_the_service_starts_is_the_users(world: World) -> None:
    world.worker()
    user = world.person(tenant_id="acme")
    with world.acting("service_role") as cursor:
        cursor.execute(
            "insert into agent_executions (user_id, agent_type, input_data) values (%s, 'writer', '{}') returning tenant_id",
            (user,),
        )
        assert cursor.fetchall() == [{"tenant_id": "acme"}]


def test_wake_at_that_has_come_already_is_no_wait(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user, wake_at="2020-01-01T00:00:00Z")
    assert world.run(run_id)["wake_at"] is None
    assert [run["id"] for run in worker.claim()] == [run_id]


@pytest.mark.parametrize("when", ["infinity", "-infinity", "20000-01-01", "2100-01-01"])
def test_wake_at_that_no_worker_could_read_or_wait_for_is_refused(world: World, when: str) -> None:
    world.worker()
    with refused("RH003", says="wake_at must lie within the next ten years."):
        world.submit(world.person(), wake_at=when)


def test_json_null_for_limits_and_metadata_means_none(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.insert(user, agent_type="writer", input_data={}, limits=Jsonb(None), metadata=Jsonb(None))
    row = world.run(run_id)
    assert (row["limits"], row["metadata"]) == (None, None)
    assert worker.claim()[0]["limits"] == DEFINITION["limits"]


def test_metadata_is_small(world: World) -> None:
    world.worker()
    with refused("23514", says="metadata_is_a_small_object"):
        world.submit(world.person(), metadata={"x": "y" * 8192})


def test_input_survives_to_the_worker_as_it_was_sent(world: World) -> None:
    value = {"null": None, "deep": [{"a": None}, 1.5, 10**20, 1e-300, "ü\\u0001\"'"], "": {}}
    worker, user = world.worker(), world.person()
    world.submit(user, input_data=value)
    assert json.dumps(worker.claim()[0]["input"], sort_keys=True) == json.dumps(value, sort_keys=True)


def test_two_rows_with_one_key_are_a_conflict(world: World) -> None:
    world.worker()
    user = world.person()
    world.submit(user, idempotency_key="k")
    world.submit(world.person(), idempotency_key="k")
    with refused("23505"):
        world.submit(user, idempotency_key="k")


@pytest.mark.parametrize(
    "text",
    ['{"x": ' + "[" * 150 + "]" * 150 + "}", '{"x": ' + '{"x":' * 150 + "1" + "}" * 150 + "}"],
    ids=["lists", "objects"],
)
def test_input_that_no_worker_could_read_for_its_depth_is_refused(world: World, text: str) -> None:
    """One such run in the answer to a claim would make all of that answer unreadable."""
    world.worker()
    with refused("RH003", says="more than 100 levels deep"):
        world.submit(world.person(), input_data=json.loads(text))


@pytest.mark.parametrize("number", ["1" * 400, "-1" + "0" * 5000, "1e400"])
def test_input_with_a_number_that_no_worker_could_read_is_refused(world: World, number: str) -> None:
    world.worker()
    user = world.person()
    with refused("RH003", says="number"):
        world.user(
            user,
            "insert into agent_executions (agent_type, input_data) values ('writer', %s::text::jsonb)",
            f'{{"x": [{{"y": {number}}}]}}',
        )


def test_input_that_is_just_deep_and_large_enough_is_taken(world: World) -> None:
    world.worker()
    given: dict[str, Any] = {"x": -(10**308), "y": json.loads("[" * 99 + "]" * 99)}
    assert world.run(world.submit(world.person(), input_data=given))["input_data"] == given
