"""agent_worker_claim: which runs a worker gets, in which order, and with what."""

from __future__ import annotations

from typing import Any

import pytest
from world import DEFINITION, World, call, question, refused, result, step

WIDE = 8 * 1024 * 1024


def ids(runs: list[dict[str, Any]]) -> list[str]:
    return [run["id"] for run in runs]


def test_oldest_comes_first_and_priority_before_age(world: World) -> None:
    worker, user = world.worker(), world.person()
    first, second, urgent = (world.submit(user) for _ in range(3))
    world.sql("update agent_executions set priority = 5 where id = %s", urgent)
    assert ids(worker.claim(2)) == [urgent, first]
    assert ids(worker.claim(2)) == [second]
    assert worker.claim(2) == []


def test_order_holds_across_types(world: World) -> None:
    worker = world.worker(DEFINITION, {**DEFINITION, "agent_type": "reader"})
    user = world.person()
    runs = [world.submit(user, agent_type) for agent_type in ("writer", "reader", "writer", "reader")]
    assert ids(worker.claim(3)) == runs[:3]
    assert ids(worker.claim(3)) == runs[3:]


def test_capped_types_do_not_go_before_others(world: World) -> None:
    worker = world.worker(DEFINITION, {**DEFINITION, "agent_type": "capped"})
    world.configure("capped", max_concurrent_per_user=10)
    user = world.person()
    runs = [world.submit(user, agent_type) for agent_type in ("writer", "capped", "writer", "capped")]
    assert ids(worker.claim(2)) == runs[:2]


def test_only_types_that_the_worker_runs(world: World) -> None:
    world.worker({**DEFINITION, "agent_type": "reader"})
    user = world.person()
    world.submit(user, "reader")
    assert world.worker().claim() == []


def test_disabled_type_is_not_claimed_until_it_is_enabled_again(world: World) -> None:
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    world.configure(enabled=False)
    assert worker.claim() == []
    world.configure(enabled=True)
    assert ids(worker.claim()) == [run_id]


def test_run_is_not_claimed_before_its_time_and_next_due_says_when(world: World) -> None:
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.at(0)
    later = world.one("select runhold.now() + interval '60 s'")
    run_id = world.submit(user, wake_at=later)
    world.submit(user, wake_at=world.one("select runhold.now() + interval '90 s'"))
    answer = worker.claim_answer()
    assert (answer["runs"], answer["more"]) == ([], False)
    assert answer["next_due"] == world.one("select to_jsonb(%s::timestamptz)", later)
    world.at(61)
    answer = worker.claim_answer()
    assert ids(answer["runs"]) == [run_id]
    assert world.run(run_id)["wake_at"] is None


def test_run_whose_time_has_come_takes_its_place_by_priority_and_age(world: World) -> None:
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.at(0)
    scheduled = world.submit(user, wake_at=world.one("select runhold.now() + interval '1 s'"))
    at_once = world.submit(user)
    world.at(2)
    assert ids(worker.claim(1)) == [scheduled]
    assert ids(worker.claim(1)) == [at_once]


def test_next_due_is_of_the_workers_types_only(world: World) -> None:
    world.worker({**DEFINITION, "agent_type": "reader"})
    user = world.person()
    world.submit(user, "reader", wake_at=world.one("select now() + interval '60 s'"))
    assert world.worker().claim_answer()["next_due"] is None


def test_more_says_whether_another_claim_may_find_more(world: World) -> None:
    worker, user = world.worker(), world.person()
    for _ in range(3):
        world.submit(user)
    assert [worker.claim_answer(2)["more"], worker.claim_answer(2)["more"]] == [True, False]


def test_repeated_seq_answers_the_same_runs_and_claims_no_others(world: World) -> None:
    worker, user = world.worker(), world.person()
    first = world.submit(user)
    lost_answer = worker.claim(10, seq=1)
    second = world.submit(user)
    assert worker.claim(10, seq=1) == lost_answer
    assert ids(lost_answer) == [first]
    assert ids(worker.claim(10, seq=2)) == [second]
    assert ids(worker.claim(10, seq=1)) == [first]  # an old seq answers its own claim


def test_repeated_seq_leaves_out_what_is_no_longer_held(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    kept = world.submit(user)
    worker.end(run, "completed", result={})
    assert ids(worker.claim()) == [kept]
    assert worker.claim(seq=1) == []


def test_draining_worker_and_one_whose_lease_ran_out_get_nothing_new(world: World) -> None:
    draining, late, user = world.worker(), world.worker(), world.person()
    run_id = world.submit(user)
    draining.stop(draining=True)
    assert draining.claim() == []
    world.at(31)
    assert late.claim() == []
    late.heartbeat()
    assert ids(late.claim()) == [run_id]


def test_dead_and_unknown_workers_are_told_to_register(world: World) -> None:
    worker = world.worker()
    worker.stop(draining=False)
    with refused("RH012", says="was declared dead", hint="register anew"):
        worker.claim()
    worker.id = "00000000-0000-0000-0000-000000000001"
    with refused("RH012", says="is not registered", hint="agent_worker_register"):
        worker.claim()


@pytest.mark.parametrize("n", [0, -1, 1001, None])
def test_senseless_numbers_are_refused(world: World, n: int | None) -> None:
    with refused("RH013", says="n must be between 1 and 1000"):
        world.worker().claim(n)  # type: ignore[arg-type]


def test_claims_at_once_never_share_a_run(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    for _ in range(4):
        world.submit(user)
    other = world.another()
    with other.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_claim(%s, 1, jsonb_build_object('writer', %s::text), 2) as answer",
            (one.id, one.definition),
        )
        held = ids(cursor.fetchall()[0]["answer"]["runs"])
        got = ids(two.claim(10))  # while the other's claim is not committed: it waits for nobody
    assert len(held) == 2
    assert len(got) == 2
    assert set(held).isdisjoint(got)


def test_every_claim_raises_the_fence_and_counts_an_attempt(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    run = world.running(one, user)
    assert (run["fence"], run["attempt"]) == (1, 1)
    one.release(run)
    (run,) = two.claim()
    assert (run["fence"], run["attempt"]) == (2, 1)  # a release is not counted


# ------------------------------------------------------------------------------------------------------------- caps


def test_cap_of_a_type_holds_in_all(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    world.configure(max_concurrent=3)
    for _ in range(5):
        world.submit(user)
    assert len(one.claim(2)) == 2
    held = two.claim(10)
    assert len(held) == 1
    assert one.claim(10) == []
    two.end(held[0], "completed", result={})
    assert len(one.claim(10)) == 1


def test_cap_of_a_user_lets_others_pass(world: World) -> None:
    worker, busy, other = world.worker(), world.person(), world.person()
    world.configure(max_concurrent_per_user=2)
    backlog = [world.submit(busy) for _ in range(5)]
    theirs = world.submit(other)
    assert ids(worker.claim(10)) == [*backlog[:2], theirs]
    assert worker.claim(10) == []


def test_backlog_of_one_user_never_hides_the_others(world: World) -> None:
    worker, busy = world.worker(), world.person()
    world.configure(max_concurrent_per_user=1)
    world.submit(busy)
    worker.claim()
    world.sql(
        "insert into agent_executions (user_id, agent_type, input_data)"
        " select %s, 'writer', '{}' from generate_series(1, 1100)",
        busy,
    )
    others = {world.submit(world.person()) for _ in range(3)}
    assert set(ids(worker.claim(10))) == others


def test_caps_are_exact_under_two_claims_at_once(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    world.configure(max_concurrent=2)
    for _ in range(4):
        world.submit(user)
    other = world.another()
    with other.acting("service_role") as cursor:
        cursor.execute(
            "select agent_worker_claim(%s, 1, jsonb_build_object('writer', %s::text), 1) as answer",
            (one.id, one.definition),
        )
        assert len(cursor.fetchall()[0]["answer"]["runs"]) == 1
        meanwhile = two.claim_answer(10)
        assert meanwhile["runs"] == []  # somebody is counting: look again
        assert meanwhile["more"] is True
    assert len(two.claim(10)) == 1
    assert two.claim(10) == []


def test_cap_of_zero_claims_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    world.configure(max_concurrent=0)
    world.submit(user)
    assert worker.claim_answer() == {"runs": [], "more": False, "next_due": None}


# -------------------------------------------------------------------------------------------------- what it gives


def test_claim_gives_all_that_is_needed_to_go_on(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    output = {"found": None, "list": [None, {"a": None}]}
    worker.record(
        run,
        steps=[step(1, worker.definition, injected=[{"role": "user", "content": "x"}], cost_usd=0.25)],
        calls=[
            call(1, 1, "look", "read", "succeeded", output=output, input={"q": None}),
            call(1, 0, "look", "read", "succeeded", output="very long", shown="very…"),
            call(1, 2, "send", "unsafe", "awaiting_review"),
        ],
        reviews=[question(1, 2)],
        state={"seen": None},
        active_ms=700,
    )
    worker.release(run)
    world.sql(
        "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'Hurry.')",
        run["id"],
        user,
        user,
    )
    (again,) = worker.claim()
    assert again["state"] == {"seen": None}
    assert (again["active_ms"], again["cost_usd"], again["cancel_requested"]) == (700, 0.25, False)
    (s,) = again["steps"]
    assert (s["step_number"], s["injected"]) == (1, [{"role": "user", "content": "x"}])
    assert (s["max_output_tokens"], s["streamed"], s["landing"]) == (None, False, None)
    cut, whole, waiting = again["calls"]
    assert (cut["position"], cut["output"], cut["shown"]) == (0, None, "very…")
    assert (whole["output"], whole["input"]) == (output, {"q": None})
    assert waiting["status"] == "awaiting_review"
    (review,) = again["reviews"]
    assert (review["step_number"], review["position"], review["status"], review["used"]) == (
        1,
        2,
        "pending",
        False,
    )
    assert [message["content"] for message in again["messages"]] == ["Hurry."]


def test_claim_that_would_be_too_large_comes_without_what_is_large(world: World) -> None:
    worker, user = world.worker(), world.person()
    runs = [world.running(worker, user) for _ in range(3)]
    for run in runs:
        calls = [call(1, i, "look", "read", "succeeded", output="x" * 1_000_000) for i in range(4)]
        worker.record(run, steps=[step(1, worker.definition)], calls=calls)
    worker.release(*runs)
    answer = worker.claim()
    assert [run.get("truncated", False) for run in answer] == [False, False, True]
    cut = answer[2]
    assert cut.keys().isdisjoint({"input", "steps", "calls", "reviews", "messages"})
    assert world.one("select octet_length(%s)", str(answer)) < WIDE + 1_000_000

    whole = world.service("select agent_worker_log(%s, %s, %s)", worker.id, cut["id"], cut["fence"])
    assert [len(c["output"]) for c in whole["calls"]] == [1_000_000] * 4
    assert whole["input"] == {"x": 1}


def test_log_is_for_the_holder_of_the_run(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    log = "select agent_worker_log(%s, %s, %s)"
    assert world.service(log, worker.id, run["id"], 1)["id"] == run["id"]
    assert world.service(log, worker.id, run["id"], 0) is None
    assert world.service(log, world.worker().id, run["id"], 1) is None


def test_definitions_of_old_steps_can_be_asked_for(world: World) -> None:
    old = world.worker()
    new = world.worker({**DEFINITION, "version": "2", "instructions": "Write better."})
    assert old.definition != new.definition
    (found,) = world.service("select agent_worker_definitions(array[%s]::uuid[])", old.definition)
    assert (found["version"], found["instructions"]) == ("1", "Write.")
    assert world.service("select agent_worker_definitions('{}')") == []


def test_result_of_nothing_is_null(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "look", "read", "running")])
    worker.record(run, results=[result(1, 0, output=None)])
    worker.release(run)
    assert worker.claim()[0]["calls"][0]["output"] is None
