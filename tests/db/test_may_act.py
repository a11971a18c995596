"""Users who may no longer act: banned, deleted, or gone from their tenant. What waits, what ends, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_queue import backlog
from world import Row, Worker, World, call, question, refused, result, step

SPANS = {"USER_BANNED": "banned_until = now() + interval '2 hours'", "USER_GONE": "deleted_at = now()"}


def set_user(world: World, user: str, change: str) -> None:
    world.sql(f"update auth.users set {change} where id = %s", user)


def ban(world: World, user: str, until: str = "now() + interval '2 hours'") -> None:
    set_user(world, user, f"banned_until = {until}")


def leave_tenant(world: World, user: str) -> None:
    set_user(world, user, """raw_app_meta_data = '{"tenant_id": "globex"}'""")


@pytest.fixture
def tenants_are_checked(world: World) -> None:
    world.sql("update runhold.settings set value = 'on' where name = 'tenant_check'")


ACME: dict[str, Any] = {"app_metadata": {"tenant_id": "acme"}}


def submit_for_acme(world: World, user: str) -> str:
    rows = world.user(
        user,
        "insert into agent_executions (agent_type, input_data) values ('writer', '{}') returning id",
        **ACME,
    )
    return str(rows[0]["id"])


# ---------------------------------------------------------------------------------------------------------- the claim


def test_run_of_a_banned_user_waits_until_the_ban_ends(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    ban(world, user)
    assert worker.claim() == []
    row = world.run(run_id)
    until = world.one("select banned_until from auth.users where id = %s", user)
    assert (row["status"], row["wake_at"], row["attempt"]) == ("pending", until, 0)
    assert (row["error_detail"]["waiting_for"], row["error_detail"]["code"]) == ("user", "USER_BANNED")
    world.at(7300)
    (run,) = world.worker().claim()
    assert (run["id"], world.run(run_id)["error_detail"]) == (run_id, None)


@pytest.mark.parametrize("until", ["now() + interval '876000 hours'", "'infinity'"])
def test_ban_for_ever_gives_a_time_that_workers_can_read(world: World, until: str) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    ban(world, user, until)
    answer = worker.claim_answer()
    assert answer["runs"] == []
    years = world.one(
        "select extract(year from wake_at)::integer from agent_executions where id = %s", run_id
    )
    assert 2100 < years <= 9000


def test_run_of_a_deleted_user_fails_with_a_code_of_its_own(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    set_user(world, user, "deleted_at = now()")
    assert worker.claim() == []
    row = world.run(run_id)
    assert (row["status"], row["error"]) == ("failed", "USER_GONE")
    assert row["error_detail"]["message"] == "The run's user was deleted."
    assert world.events(run_id) == ["submitted", "failed"]


@pytest.mark.usefixtures("tenants_are_checked")
def test_run_of_a_user_who_left_the_tenant_fails(world: World) -> None:
    worker, left, stays = world.worker(), world.person(tenant_id="acme"), world.person(tenant_id="acme")
    gone, kept = submit_for_acme(world, left), submit_for_acme(world, stays)
    leave_tenant(world, left)
    assert [run["id"] for run in worker.claim()] == [kept]
    assert world.run(gone)["error"] == "TENANT_LEFT"


def test_tenants_are_compared_only_if_the_setting_says_so(world: World) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    run_id = submit_for_acme(world, user)
    leave_tenant(world, user)
    assert [run["id"] for run in worker.claim()] == [run_id]


@pytest.mark.usefixtures("tenants_are_checked")
def test_tenant_of_a_hooks_claim_is_not_compared(world: World) -> None:
    """It is not in auth.users: nothing there says whether the user left."""
    world.sql("update runhold.settings set value = '{org}' where name = 'tenant_claim'")
    worker, user = world.worker(), world.person()
    rows = world.user(
        user,
        "insert into agent_executions (agent_type, input_data) values ('writer', '{}') returning id, tenant_id",
        org="acme",
    )
    assert rows[0]["tenant_id"] == "acme"
    assert [run["id"] for run in worker.claim()] == [str(rows[0]["id"])]


@pytest.mark.usefixtures("tenants_are_checked")
def test_run_without_a_tenant_belongs_to_whoever_joins_one_later(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    leave_tenant(world, user)
    assert [run["id"] for run in worker.claim()] == [run_id]


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_thousand_runs_of_one_who_may_not_act_stop_no_claim(world: World, span: str) -> None:
    worker, banned, good = world.worker(), world.person(), world.person()
    backlog(world, banned, 1_000)
    run_id = world.submit(good)
    set_user(world, banned, span)
    answer = worker.claim_answer(1)
    assert [run["id"] for run in answer["runs"]] == [run_id]


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_thousand_banned_users_leave_the_queue_within_some_claims(world: World, span: str) -> None:
    """Each claim does a bounded part, and says that there is more."""
    worker = world.worker()
    world.sql("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 1000)")
    with world.acting(None) as cursor:
        cursor.execute(
            "insert into agent_executions (user_id, agent_type, input_data) select id, 'writer', '{}' from auth.users"
        )
    world.sql(f"update auth.users set {span}")
    run_id = world.submit(world.person())
    found: list[Row] = []
    for _ in range(3):
        answer = worker.claim_answer(1)
        found += answer["runs"]
        if found:
            break
        assert answer["more"] is True
    assert [run["id"] for run in found] == [run_id]
    assert world.one("select count(*) from agent_executions where status = 'running'") == 1


def test_claim_neither_waits_for_nor_skips_a_user_who_is_signing_in(world: World) -> None:
    worker, signing_in, banned = world.worker(), world.person(), world.person()
    run_id, other = world.submit(signing_in), world.submit(banned)
    ban(world, banned)
    world.connection.execute("set lock_timeout = '1s'")
    with world.another().acting(None) as cursor:
        cursor.execute("update auth.users set last_sign_in_at = now()")
        cursor.execute("select from auth.users for update")
        assert [run["id"] for run in worker.claim()] == [run_id]
    assert world.run(other)["wake_at"] is not None


def test_run_that_somebody_holds_is_left_for_the_next_claim(world: World) -> None:
    worker, user = world.worker(), world.person()
    held, free = world.submit(user), world.submit(user)
    ban(world, user)
    world.connection.execute("set lock_timeout = '1s'")
    with world.another().acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for update", (held,))
        assert worker.claim() == []
        assert world.run(free)["wake_at"] is not None
    assert world.run(held)["wake_at"] is None
    assert worker.claim() == []
    assert world.run(held)["wake_at"] is not None


# ------------------------------------------------------------------------------------------------------------ running

END: dict[str, Callable[[Worker], Row]] = {
    "a step with calls": lambda worker: {
        "steps": [step(1, worker.definition)],
        "calls": [call(1, 0, "look", "read", "running")],
    },
    "a step alone": lambda worker: {"steps": [step(1, worker.definition)]},
    "a pause": lambda worker: {
        "steps": [step(1, worker.definition)],
        "calls": [call(1, 0, "send", "unsafe", "awaiting_review")],
        "reviews": [question(1, 0)],
        "transition": {"to": "awaiting_review"},
    },
}


@pytest.mark.parametrize("span", SPANS.items(), ids=SPANS)
@pytest.mark.parametrize("kind", END)
def test_running_run_ends_at_the_next_record_and_what_happened_is_stored(
    world: World, kind: str, span: tuple[str, str]
) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    code, change = span
    set_user(world, user, change)
    verdict = worker.record(run, **END[kind](worker))
    assert (verdict["verdict"], verdict["code"]) == ("stop", code)
    assert world.run(run["id"])["step_count"] == 1
    assert world.open_reviews(run["id"]) == []
    assert (
        worker.end(run, "failed", error=verdict["code"], detail=verdict["detail"])["verdict"] == "ok"
    )  # as workers answer a stop
    row = world.run(run["id"])
    assert (row["status"], row["error"]) == ("failed", code)


@pytest.mark.usefixtures("tenants_are_checked")
def test_results_are_stored_though_their_user_left_meanwhile(world: World) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    run_id = submit_for_acme(world, user)
    (run,) = worker.claim()
    worker.record(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    leave_tenant(world, user)
    verdict = worker.record(run, results=[result(1, 0, output="saved")])
    assert (verdict["verdict"], verdict["code"]) == ("stop", "TENANT_LEFT")
    assert [(c["status"], c["tool_output"]) for c in world.calls(run_id)] == [("succeeded", "saved")]


def test_run_that_ends_anyway_keeps_its_end(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    ban(world, user)
    assert worker.end(run, "completed", result={"text": "done"})["verdict"] == "ok"
    assert world.status(run["id"]) == "completed"


def test_released_run_waits_in_the_queue(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    ban(world, user)
    worker.release(run)
    assert worker.claim() == []
    assert world.status(run["id"]) == "pending"


def test_approved_call_does_not_start(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run, (review,) = world.paused(worker, user)
    world.decide(reviewer, review["id"])
    (again,) = worker.claim()
    ban(world, user)
    verdict = worker.record(again, starts=[{"step_number": 1, "position": 0}])
    assert (verdict["verdict"], verdict["code"]) == ("stop", "USER_BANNED")
    assert [c["status"] for c in world.calls(run["id"])] == ["awaiting_review"]
    assert world.review(review["id"])["used_at"] is None


def test_approval_of_a_banned_users_run_waits_with_it(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run, (review,) = world.paused(worker, user)
    ban(world, user)
    world.decide(reviewer, review["id"])
    assert worker.claim() == []
    assert world.run(run["id"])["error_detail"]["code"] == "USER_BANNED"
    world.at(7300)
    later = world.worker()
    (again,) = later.claim()
    (started,) = later.record(again, starts=[{"step_number": 1, "position": 0}])["started"]
    assert started["taken"] is True


# ----------------------------------------------------------------------------------------------------------- requests


def test_insert_and_submit_by_one_who_may_not_act_are_refused(world: World) -> None:
    """Their token lives for up to an hour."""
    world.worker()
    user, erased = world.person(), world.person()
    ban(world, user)
    with refused("RH022", says="Your account is banned until"):
        world.submit(user)
    set_user(world, user, "banned_until = null, deleted_at = now()")
    with refused("RH022", says="Your account was deleted."):
        world.user(user, "select agent_submit('writer', '{}')")
    world.sql("delete from auth.users where id = %s", erased)
    with refused("RH022", says="Your account was deleted."):
        world.submit(erased)


def test_service_may_submit_for_a_banned_user_and_the_run_waits(world: World) -> None:
    worker, user = world.worker(), world.person()
    ban(world, user)
    run = world.service("select agent_submit('writer', '{}', user_id => %s)", user)
    assert worker.claim() == []
    assert world.run(run["id"])["error_detail"]["waiting_for"] == "user"


STEERED = {
    "fork": "select agent_fork(%s, 1)",
    "send": "select agent_send(%s, 'hello')",
    "retry": "select agent_retry(%s)",
}


@pytest.mark.usefixtures("tenants_are_checked")
@pytest.mark.parametrize("what", STEERED)
def test_fork_send_and_retry_by_one_who_left_the_tenant_are_refused(world: World, what: str) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    run_id = submit_for_acme(world, user)
    (run,) = worker.claim()
    if what == "retry":
        worker.end(run, "failed", error="TOOL_FAILED")
    leave_tenant(world, user)
    with refused("RH022", says="Your account does not belong to the run's tenant any more."):
        world.user(user, STEERED[what], run_id, **ACME)
    operator = world.reviewer(role="operator")
    with refused("RH022", says="The run's user does not belong"):
        world.user(operator, STEERED[what], run_id)
    with refused("RH022", says="The run's user does not belong"):
        world.service(STEERED[what], run_id)


@pytest.mark.parametrize("what", [*STEERED, "cancel", "disable"])
def test_operator_who_may_not_act_is_refused(world: World, what: str) -> None:
    worker, user, operator = world.worker(), world.person(), world.reviewer(role="operator")
    run = world.running(worker, user)
    ban(world, operator)
    with refused("RH022", says="Your account is banned"):
        if what == "disable":
            world.user(operator, "select agent_disable('writer')")
        else:
            world.user(operator, STEERED.get(what, "select agent_cancel(%s)"), run["id"])


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_own_run_may_always_be_cancelled(world: World, span: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    set_user(world, user, span)
    world.user(user, "select agent_cancel(%s)", run["id"])
    assert worker.heartbeat([run["id"]])["cancelled"] == [run["id"]]


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_reviewer_who_may_not_act_decides_nothing(world: World, span: str) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    _, (review,) = world.paused(worker, user)
    set_user(world, reviewer, span)
    with refused("RH022", says="Your account"):
        world.decide(reviewer, review["id"])
    (answer,) = world.user(reviewer, "select agent_decide(array[%s]::uuid[], 'approved') as a", review["id"])
    assert answer["a"][0]["code"] == "RH022"
    assert world.review(review["id"])["status"] == "pending"


def test_approval_of_one_who_was_banned_since_counts_no_more(world: World) -> None:
    worker, user, first, second = world.worker(), world.person(), world.reviewer(), world.reviewer()
    world.configure(approvals_needed=2)
    _, (review,) = world.paused(worker, user)
    world.decide(first, review["id"])
    ban(world, first)
    world.decide(second, review["id"])
    row = world.review(review["id"])
    assert (row["status"], row["approvals_given"]) == ("pending", 1)


@pytest.mark.usefixtures("tenants_are_checked")
def test_own_review_is_not_decided_by_one_who_left_the_tenant(world: World) -> None:
    worker, user = world.worker(), world.person(tenant_id="acme")
    world.configure(allow_self_review=True)
    submit_for_acme(world, user)
    (run,) = worker.claim()
    world.gate(worker, run)
    worker.end(run, "awaiting_review")
    (review,) = world.open_reviews(run["id"])
    leave_tenant(world, user)
    with refused("RH022", says="does not belong to the run's tenant"):
        world.decide(user, review["id"])


# -------------------------------------------------------------------------------------------------------- replaceable

OWN = """
create or replace function runhold.may_act(
  p_user_id uuid, p_tenant_id text, out allowed boolean, out code text, out wait_until timestamptz)
language plpgsql stable security definer set search_path = ''
as $$
begin
  select d.allowed, d.code, d.wait_until into allowed, code, wait_until
  from runhold.may_act_by_default(p_user_id, p_tenant_id) d;
  if allowed and exists (select from auth.users u where u.id = p_user_id and u.email like 'unpaid%') then
    allowed := false;
    code := 'UNPAID';
  end if;
end;
$$;
"""


def test_project_may_define_who_may_act(fresh_world: World) -> None:
    world = fresh_world
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    world.sql(OWN.replace("%", "%%"))
    set_user(world, user, "email = 'unpaid@example.org'")
    assert worker.claim() == []
    row = world.run(run_id)
    assert (row["status"], row["error"]) == ("failed", "UNPAID")
    with refused("RH022", says="Your account may not act (UNPAID)."):
        world.submit(user)
    assert (
        "replaceable"
        in world.one("select obj_description('runhold.may_act(uuid,text)'::regprocedure)").lower()
    )


def test_function_that_says_nothing_lets_nobody_act(fresh_world: World) -> None:
    """A body with a path that sets nothing: closed everywhere, not here and there."""
    world = fresh_world
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    running, (_, (review,)) = world.running(worker, user), world.paused(worker, user)
    pending = world.submit(user)
    empty = OWN[: OWN.index("begin")] + "begin\nend;\n$$;"
    world.sql(empty)
    assert worker.claim() == []
    assert world.run(pending)["status"] == "failed"
    verdict = worker.record(running, steps=[step(1, worker.definition)])
    assert (verdict["verdict"], verdict["code"]) == ("stop", "USER_GONE")
    with refused("RH022"):
        world.submit(user)
    with refused("RH022"):
        world.decide(reviewer, review["id"])


def test_wrong_settings_are_refused_when_they_are_made(world: World) -> None:
    for name, value in (("tenant_check", "maybe"), ("keep_claims", "org"), ("tenant_claim", "org")):
        with refused("22P02"):
            world.sql("update runhold.settings set value = %s where name = %s", value, name)
