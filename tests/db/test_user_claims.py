"""What stands in a token that a worker signs for a run's user, and who is told."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import Row, Worker, World, refused

SUBMIT = "insert into agent_executions (agent_type, input_data) values ('writer', '{}') returning id"


def claims(world: World, worker: Worker, run: Row) -> Any:
    return world.service("select agent_worker_user_claims(%s, %s, %s)", worker.id, run["id"], run["fence"])


def claimed(world: World, worker: Worker, user: str, **token: Any) -> Row:
    """A run that was submitted with this token, and claimed."""
    world.user(user, SUBMIT, **token)
    (run,) = worker.claim()
    return run


def keep(world: World, *names: str) -> None:
    world.sql(
        "update runhold.settings set value = %s where name = 'keep_claims'", "{" + ",".join(names) + "}"
    )


def kept(world: World) -> list[Any]:
    return [row["claims"] for row in world.sql("select claims from runhold.kept_claims")]


def test_claims_are_those_of_the_users_own_token(world: World) -> None:
    worker, user = world.worker(), world.person(role="editor")
    run = claimed(world, worker, user)
    world.sql(
        "update auth.users set raw_user_meta_data = %s, phone = '4912345', is_anonymous = true where id = %s",
        Jsonb({"name": "Ada"}),
        user,
    )
    answer = claims(world, worker, run)
    assert answer["claims"] == {
        "sub": user,
        "aud": "authenticated",
        "role": "authenticated",
        "email": f"{user}@example.org",
        "phone": "4912345",
        "is_anonymous": True,
        "aal": "aal1",
        "app_metadata": {"role": "editor"},
        "user_metadata": {"name": "Ada"},
    }
    assert world.one("select abs(extract(epoch from clock_timestamp() - %s::timestamptz)) < 5", answer["now"])


def test_user_without_an_address_has_empty_ones_as_in_auths_tokens(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user)
    world.sql(
        "update auth.users set email = null, raw_app_meta_data = null, role = null, aud = '' where id = %s",
        user,
    )
    found = claims(world, worker, run)["claims"]
    assert (found["email"], found["phone"], found["app_metadata"]) == ("", "", {})
    assert (found["role"], found["aud"]) == ("authenticated", "authenticated")


def test_only_who_holds_the_run_under_this_fence_is_told(world: World) -> None:
    worker, other, user = world.worker(), world.worker(), world.person()
    run = claimed(world, worker, user)
    assert claims(world, other, run) is None
    assert claims(world, worker, {**run, "fence": run["fence"] + 1}) is None
    assert claims(world, worker, {**run, "id": str(uuid.uuid4())}) is None
    worker.release(run)
    assert claims(world, worker, run) is None
    (again,) = worker.claim()
    assert claims(world, worker, run) is None
    assert claims(world, worker, again) is not None


def test_small_role_of_workers_may_ask(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user)
    with world.acting("runhold_worker") as cursor:
        cursor.execute("select agent_worker_user_claims(%s, %s, 1) as answer", (worker.id, run["id"]))
        row = cursor.fetchone()
    assert row is not None
    assert row["answer"]["claims"]["sub"] == user


def test_no_token_for_one_who_may_not_act(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user)
    world.sql("update auth.users set banned_until = now() + interval '1 hour' where id = %s", user)
    with refused("RH022", says="The run's user is banned until"):
        claims(world, worker, run)


# ------------------------------------------------------------------------------------------------------------- tenants


def test_tenant_of_the_metadata_is_the_users_of_today(world: World) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    run = claimed(world, worker, user, app_metadata={"tenant_id": "acme"})
    world.sql(
        "update auth.users set raw_app_meta_data = %s where id = %s", Jsonb({"tenant_id": "globex"}), user
    )
    assert claims(world, worker, run)["claims"]["app_metadata"] == {"tenant_id": "globex"}


@pytest.mark.parametrize(
    ("path", "token"),
    [("{org}", {"org": "acme"}), ("{org,id}", {"org": {"id": "acme", "name": "Acme"}})],
)
def test_tenant_of_a_hooks_claim_is_the_runs(world: World, path: str, token: dict[str, Any]) -> None:
    """One setting says where it is, for the database and for the worker's tokens."""
    world.sql("update runhold.settings set value = %s where name = 'tenant_claim'", path)
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user, **token)
    assert run["tenant_id"] == "acme"
    found = claims(world, worker, run)["claims"]
    assert found["org"] == ("acme" if path == "{org}" else {"id": "acme"})
    keep(world, "org")
    run = claimed(world, worker, user, **token)
    assert claims(world, worker, run)["claims"]["org"] == token["org"]


# -------------------------------------------------------------------------------------------------------- kept claims

TOKEN: dict[str, Any] = {
    "org_id": 7,
    "plan": {"name": "pro"},
    "other": "x",
    "email": "old@example.org",
    "aal": "aal2",
}


def test_named_claims_of_the_submitting_token_are_kept(world: World) -> None:
    keep(world, "org_id", "plan", "absent", "email", "aal", "role", "sub")
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user, **TOKEN)
    assert kept(world) == [{"org_id": 7, "plan": {"name": "pro"}}]
    found = claims(world, worker, run)["claims"]
    assert (found["org_id"], found["plan"]) == (7, {"name": "pro"})
    assert (found["email"], found["aal"], found["role"]) == (f"{user}@example.org", "aal1", "authenticated")
    assert "other" not in found


def test_nothing_is_kept_unless_named_nor_when_the_service_submits(world: World) -> None:
    worker, user = world.worker(), world.person()
    claimed(world, worker, user, **TOKEN)
    keep(world, "org_id")
    with world.acting("service_role", None, **TOKEN) as cursor:
        cursor.execute("select agent_submit('writer', '{}', user_id => %s)", (user,))
    with world.acting(
        "service_role", user, **TOKEN
    ) as cursor:  # a secret key beside a user's claims is a service, too
        cursor.execute("select agent_submit('writer', '{}', user_id => %s)", (user,))
    assert kept(world) == []


def test_fork_keeps_the_claims_of_its_users_token_or_those_of_its_source(world: World) -> None:
    keep(world, "org_id")
    worker, user, operator = world.worker(), world.person(), world.reviewer(role="operator")
    run = claimed(world, worker, user, org_id=1)
    fork = "select agent_fork(%s, 1)"
    world.user(user, fork, run["id"], org_id=2)
    world.user(operator, fork, run["id"], org_id=3)
    world.service(fork, run["id"])
    assert sorted(claim["org_id"] for claim in kept(world)) == [1, 1, 1, 2]


def test_retry_keeps_them_and_deletion_takes_them_along(world: World) -> None:
    keep(world, "org_id")
    worker, user = world.worker(), world.person()
    run = claimed(world, worker, user, org_id=1)
    worker.end(run, "failed", error="TOOL_FAILED")
    world.user(user, "select agent_retry(%s)", run["id"], org_id=2)
    assert kept(world) == [{"org_id": 1}]
    world.sql("delete from auth.users where id = %s", user)
    assert kept(world) == []
