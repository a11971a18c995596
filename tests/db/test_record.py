"""agent_worker_record: one entry per run and flush, stored once, in order, by whoever holds the run."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import Row, World, call, question, refused, result, step


def kinds(verdicts: list[Row]) -> list[str]:
    return [verdict["verdict"] for verdict in verdicts]


def test_entry_stores_steps_calls_results_and_counts(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[
            step(1, worker.definition, output_tokens=3, cached_tokens=4, cost_usd=0.000123, latency_ms=900)
        ],
        calls=[
            call(1, 0, "look", "read", "succeeded", output={"n": 1}, latency_ms=5),
            call(1, 1, "look", "read", "failed", error="No such file."),
            call(1, 2, "save", "idempotent", "running"),
        ],
        state={"page": 2},
        active_ms=950,
    )
    worker.record(run, results=[result(1, 2, "failed", error="Disk full.")], active_ms=50)
    row = world.run(run["id"])
    assert (row["step_count"], row["token_count"], row["input_tokens"], row["output_tokens"]) == (
        1,
        13,
        10,
        3,
    )
    assert (row["cached_tokens"], float(row["cost_usd"]), row["active_ms"]) == (4, 0.000123, 1000)
    assert (row["tool_call_count"], row["tool_error_count"], row["recorded_seq"]) == (3, 2, 2)
    assert row["state"] == {"page": 2}
    (stored,) = world.sql("select * from agent_steps")
    assert str(stored["user_id"]) == user
    assert str(stored["worker_id"]) == worker.id
    assert stored["message"] == {"role": "assistant", "content": "step 1"}
    first, second, third = world.calls(run["id"])
    assert (first["status"], first["tool_output"], first["latency_ms"]) == ("succeeded", {"n": 1}, 5)
    assert (second["status"], second["error"]) == ("failed", "No such file.")
    assert (third["status"], third["error"], third["attempt"]) == ("failed", "Disk full.", 1)
    assert all(c["finished_at"] is not None for c in (first, second, third))


def test_nothing_inside_json_is_lost(world: World) -> None:
    value: dict[str, Any] = {
        "null": None,
        "list": [None, {"a": None}, []],
        "": "",
        "n": 12345678901234567890,
        "f": 0.1,
    }
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition, message=value, injected=[value])],
        calls=[
            call(1, 0, "look", "read", "succeeded", input=value, output=value),
            call(1, 1, "look", "read", "running", input=value),
        ],
        state=value,
    )
    worker.record(run, results=[result(1, 1, output=value)])
    (stored,) = world.sql("select * from agent_steps")
    assert (stored["message"], stored["injected"]) == (value, [value])
    for one in world.calls(run["id"]):
        assert (one["tool_input"], one["tool_output"]) == (value, value)
    assert world.run(run["id"])["state"] == value
    worker.end(run, "completed", result=value, detail=value)
    row = world.run(run["id"])
    assert (row["result"], row["error_detail"]) == (value, value)


def test_null_is_as_good_as_absent(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    nothing = dict.fromkeys(
        ("steps", "calls", "reviews", "starts", "results", "state", "active_ms", "transition")
    )
    assert worker.record(run, **nothing)["verdict"] == "ok"
    lonely = dict.fromkeys(
        ("injected", "max_output_tokens", "streamed", "landing", "cached_tokens", "cost_usd", "delivered")
    )
    verdict = worker.record(
        run,
        steps=[{**step(1, worker.definition), **lonely}],
        calls=[{**call(1, 0, "look", "read", "succeeded"), "input": None, "output": None}],
    )
    assert verdict["verdict"] == "ok"
    worker.record(run, transition={"to": None})
    assert world.status(run["id"]) == "running"
    worker.end(run, "completed", result=None, error=None, detail=None, delay_ms=None)
    row = world.run(run["id"])
    assert (row["status"], row["result"], row["error_detail"]) == ("completed", None, None)


def test_repeated_entry_is_stored_once_and_answers_ok(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    entry = worker.entry(run, steps=[step(1, worker.definition)], active_ms=10)
    first, second = worker.record_all([entry]), worker.record_all([entry])
    assert first == second
    assert kinds(second) == ["ok"]
    assert (world.run(run["id"])["step_count"], world.run(run["id"])["active_ms"]) == (1, 10)


def test_repeated_entry_answers_present_signals(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    entry = worker.entry(run, steps=[step(1, worker.definition)])
    worker.record_all([entry])
    world.user(user, "select agent_cancel(%s)", run["id"])
    assert worker.record_all([entry])[0]["cancel_requested"] is True


def test_repeated_last_entry_answers_ok_after_the_runs_end(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    entry = worker.entry(run, transition={"to": "completed", "result": {"n": 1}})
    assert kinds(worker.record_all([entry])) == kinds(worker.record_all([entry])) == ["ok"]
    assert world.events(run["id"]).count("completed") == 1


def test_missing_entry_is_a_gap_and_stores_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    verdict = worker.record(run, seq=2, steps=[step(1, worker.definition)])
    assert verdict["verdict"] == "gap"
    assert world.run(run["id"])["step_count"] == 0


def test_seq_starts_anew_with_every_claim(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, active_ms=1)
    worker.release(run)
    (again,) = worker.claim()
    assert worker.record(again, seq=1, active_ms=1)["verdict"] == "ok"
    assert world.run(run["id"])["active_ms"] == 2


def test_whoever_lost_the_run_is_fenced_and_stores_nothing(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    run = world.running(one, user)
    one.release(run)
    fenced = {"execution": run["id"], "seq": 1, "verdict": "fenced", "cancel_requested": False}
    assert one.record(run, seq=1, steps=[step(1, one.definition)]) == fenced  # in the queue
    two.claim()
    assert one.record(run, seq=1, steps=[step(1, one.definition)]) == fenced  # someone else's
    assert world.run(run["id"])["step_count"] == 0


def test_run_that_is_gone_is_fenced(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.sql("delete from auth.users where id = %s", user)
    assert worker.record(run, steps=[step(1, worker.definition)])["verdict"] == "fenced"


def test_row_that_someone_holds_is_busy_and_the_others_are_stored(world: World) -> None:
    worker, user = world.worker(), world.person()
    held, free = world.running(worker, user), world.running(worker, user)
    entries = [worker.entry(run, steps=[step(1, worker.definition)]) for run in (held, free)]
    other = world.another()
    with other.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (held["id"],))
        assert kinds(worker.record_all(entries)) == ["busy", "ok"]  # without waiting
        assert world.run(held["id"])["step_count"] == 0
    assert kinds(worker.record_all(entries)) == ["ok", "ok"]
    assert [world.run(run["id"])["step_count"] for run in (held, free)] == [1, 1]


def test_insert_that_refers_to_the_run_keeps_nobody_waiting(world: World) -> None:
    """A foreign key's lock (somebody sends a message, say) is no reason to be busy."""
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    other = world.another()
    with other.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for key share", (run["id"],))
        assert worker.record(run, active_ms=1)["verdict"] == "ok"


def test_many_runs_share_one_call_and_are_answered_in_order(world: World) -> None:
    worker, user = world.worker(), world.person()
    runs = [world.running(worker, user) for _ in range(20)]
    entries = [worker.entry(run, steps=[step(1, worker.definition, tokens=n)]) for n, run in enumerate(runs)]
    verdicts = worker.record_all(entries)
    assert [verdict["execution"] for verdict in verdicts] == [run["id"] for run in runs]
    assert set(kinds(verdicts)) == {"ok"}
    assert [world.run(run["id"])["token_count"] for run in runs] == list(range(20))


def test_each_entry_gets_its_own_verdict(world: World) -> None:
    worker, user = world.worker(), world.person()
    ok, again, gap, cancelled, lost = (world.running(worker, user) for _ in range(5))
    duplicate = worker.entry(again, steps=[step(1, worker.definition)])
    worker.record_all([duplicate])
    world.user(user, "select agent_cancel(%s)", cancelled["id"])
    worker.release(lost)
    verdicts = worker.record_all(
        [
            worker.entry(ok, steps=[step(1, worker.definition)]),
            duplicate,
            worker.entry(gap, seq=7),
            worker.entry(cancelled, calls=[call(1, 0, "save", "idempotent", "running")]),
            worker.entry(lost, steps=[step(1, worker.definition)]),
        ]
    )
    assert kinds(verdicts) == ["ok", "ok", "gap", "stop", "fenced"]
    assert world.one("select count(*) from agent_steps") == 2


def test_no_entries_no_verdicts(world: World) -> None:
    assert world.worker().record_all([]) == []


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "entries must be a list"),
        ([{"fence": 1, "seq": 1}], "needs execution, fence and a seq"),
        (
            [{"execution": "00000000-0000-0000-0000-000000000001", "seq": 1}],
            "needs execution, fence and a seq",
        ),
        ([{"execution": "00000000-0000-0000-0000-000000000001", "fence": 1, "seq": 0}], "a seq from 1 on"),
        ([{"execution": "00000000-0000-0000-0000-000000000001", "fence": 1, "seq": None}], "a seq from 1 on"),
        (
            [{"execution": "00000000-0000-0000-0000-000000000001", "fence": 1, "seq": n} for n in (1, 2)],
            "At most one entry per run",
        ),
        ([{"execution": str(n), "fence": 1, "seq": 1} for n in range(257)], "a list of at most 256"),
    ],
)
def test_malformed_calls_are_refused_whole(world: World, entries: Any, says: str) -> None:
    worker = world.worker()
    with refused("RH013", says=says):
        world.service("select agent_worker_record(%s, %s)", worker.id, Jsonb(entries))


def test_step_that_is_there_already_refuses_the_whole_call(world: World) -> None:
    """The store finds the culprit by halving; what stands is never overwritten."""
    worker, user = world.worker(), world.person()
    run, other = world.running(worker, user), world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)])
    with refused("23505"):
        worker.record_all(
            [
                worker.entry(run, seq=2, steps=[step(1, worker.definition)]),
                worker.entry(other, seq=1, steps=[step(1, worker.definition)]),
            ]
        )
    assert [world.run(r["id"])["recorded_seq"] for r in (run, other)] == [1, 0]


def test_state_beyond_8_kib_refuses_the_call(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    with refused("23514", says="state_is_a_small_object"):
        worker.record(run, state={"x": "y" * 8192})


def test_result_of_a_finished_or_gated_call_changes_nothing(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[
            call(1, 0, "look", "read", "succeeded", output="first"),
            call(1, 1, "send", "unsafe", "awaiting_review"),
        ],
        reviews=[question(1, 1)],
    )
    worker.record(run, results=[result(1, 0, output="second"), result(1, 1, output="never asked")])
    done, gated = world.calls(run["id"])
    assert (done["tool_output"], gated["status"], gated["tool_output"]) == ("first", "awaiting_review", None)


# --------------------------------------------------------------------------------------------------- after the end


def test_result_that_comes_after_the_end_is_written_down(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    world.user(user, "select agent_cancel(%s)", run["id"])
    worker.end(run, "cancelled")
    assert world.calls(run["id"])[0]["status"] == "unknown"
    verdict = worker.record(
        run, results=[result(1, 0, output={"id": 9})], transition={"to": "completed", "result": {}}
    )
    assert verdict["verdict"] == "ok"
    (settled,) = world.calls(run["id"])
    assert (settled["status"], settled["tool_output"]) == ("succeeded", {"id": 9})
    assert world.status(run["id"]) == "cancelled"  # what has ended stays ended


def test_late_results_need_the_last_fence(world: World) -> None:
    one, two, user = world.worker(), world.worker(), world.person()
    run = world.running(one, user)
    one.record(run, steps=[step(1, one.definition)], calls=[call(1, 0, "save", "idempotent", "running")])
    one.release(run)
    (again,) = two.claim()
    two.end(again, "failed", error="TOOL_FAILED")
    assert one.record(run, results=[result(1, 0)])["verdict"] == "fenced"
    (left,) = world.calls(run["id"])
    assert (left["status"], left["cut_off"]) == ("failed", "pending")


def test_what_was_spent_is_counted_after_the_end_and_nothing_else_changes(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "failed", error="TOOL_FAILED", detail={"message": "no"})
    world.sql("update agent_executions set attempt = 2")
    before = world.run(run["id"])
    verdict = worker.record(
        run,
        steps=[step(1, worker.definition, cost_usd=0.5)],
        calls=[
            call(1, 0, "look", "read", "succeeded", output="seen"),
            call(1, 1, "send", "unsafe", "running"),
            call(1, 2, "send", "unsafe", "awaiting_review"),
        ],
        reviews=[question(1, 2)],
        state={"x": 1},
        active_ms=700,
        transition={"to": "completed", "result": 1},
    )
    assert verdict["verdict"] == "ok"
    after = world.run(run["id"])
    changed = {
        "recorded_seq": 2,
        "step_count": 1,
        "token_count": 10,
        "input_tokens": 10,
        "cost_usd": Decimal("0.5"),
        "tool_call_count": 1,
        "active_ms": 700,
        "updated_at": after["updated_at"],
    }
    assert after == {**before, **changed}
    assert [(c["status"], c["tool_output"]) for c in world.calls(run["id"])] == [("succeeded", "seen")]
    assert world.reviews(run["id"]) == []
    assert world.one("select count(*) from agent_steps") == 1


@pytest.mark.parametrize("to", ["completed", "cancelled"])
def test_ended_run_keeps_its_result_and_detail_when_something_comes_late(world: World, to: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, to, result={"n": 1} if to == "completed" else None, detail={"step": 0})
    before = world.run(run["id"])
    assert worker.record(run, active_ms=5)["verdict"] == "ok"
    after = world.run(run["id"])
    assert [after[c] for c in ("status", "result", "error_detail")] == [
        before[c] for c in ("status", "result", "error_detail")
    ]


# ------------------------------------------------------------------------------------------- an answer that was lost


def test_intents_that_were_stopped_are_stopped_again(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user, limits={"max_tokens": 5})
    entry = worker.entry(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")]
    )
    first = worker.record_all([entry])
    assert (first[0]["verdict"], first[0]["code"]) == ("stop", "MAX_TOKENS_EXCEEDED")
    assert worker.record_all([entry]) == first
    world.user(user, "select agent_cancel(%s)", run["id"])
    assert worker.record_all([entry])[0]["code"] == "CANCELLED"
    assert world.calls(run["id"]) == []
    assert world.run(run["id"])["step_count"] == 1


def test_pause_that_did_not_hold_is_answered_continue_again(world: World) -> None:
    worker, user, reviewer = world.worker(), world.person(), world.reviewer()
    run = world.running(worker, user)
    world.gate(worker, run)
    world.decide(reviewer, world.open_reviews(run["id"])[0]["id"])
    entry = worker.entry(run, transition={"to": "awaiting_review"})
    first = worker.record_all([entry])
    assert first[0]["verdict"] == "continue"
    assert worker.record_all([entry]) == first
    assert world.status(run["id"]) == "running"


# ----------------------------------------------------------------------------------------------------- transitions


def test_failure_keeps_its_code_and_detail(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "failed", error="TOOL_FAILED", detail={"tool": "look", "step": 3})
    row = world.run(run["id"])
    assert (row["error"], row["error_detail"]) == ("TOOL_FAILED", {"tool": "look", "step": 3})
    bare = world.running(worker, user)
    worker.end(bare, "failed")
    assert world.run(bare["id"])["error"] == "INTERNAL_ERROR"


def test_released_run_waits_for_its_time_and_gets_its_attempt_back(world: World) -> None:
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.at(0)
    run = world.running(worker, user)
    worker.end(run, "pending", reason="model_outage", delay_ms=5000)
    row = world.run(run["id"])
    assert (row["status"], row["attempt"], row["worker_id"]) == ("pending", 0, None)
    assert row["outage_since"] is not None
    assert worker.claim() == []
    world.at(6)
    (again,) = worker.claim()
    assert again["outage_since"] is not None
    worker.record(again, steps=[step(1, worker.definition)])
    assert world.run(run["id"])["outage_since"] is None


def test_outage_is_counted_from_its_first_release(world: World) -> None:
    worker, user = world.worker(lease_ms=600_000), world.person()
    world.at(0)
    run = world.running(worker, user)
    worker.end(run, "pending", reason="model_outage")
    since = world.run(run["id"])["outage_since"]
    world.at(100)
    (again,) = worker.claim()
    worker.end(again, "pending", reason="model_outage")
    assert world.run(run["id"])["outage_since"] == since


def test_delay_is_never_endless(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.end(run, "pending", reason="model_outage", delay_ms=10**15)
    assert world.one("select wake_at < now() + interval '31 days' from agent_executions")


def test_release_with_running_calls_leaves_none_running(world: World) -> None:
    worker, user = world.worker(), world.person()
    safe, unsafe = world.running(worker, user), world.running(worker, user)
    for run, tool, effect in ((safe, "save", "idempotent"), (unsafe, "send", "unsafe")):
        worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, tool, effect, "running")])
        assert worker.end(run, "pending", reason="shutdown")["verdict"] == "ok"
    assert (world.status(safe["id"]), world.calls(safe["id"])[0]["status"]) == ("pending", "pending")
    assert (world.status(unsafe["id"]), world.calls(unsafe["id"])[0]["status"]) == (
        "awaiting_review",
        "unknown",
    )
    (review,) = world.open_reviews(unsafe["id"])
    assert (review["kind"], review["approvals_needed"]) == ("unknown_outcome", 1)


@pytest.mark.parametrize("to", ["completed", "failed", "cancelled"])
def test_no_call_of_an_ended_run_is_running_or_waiting(world: World, to: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(
        run,
        steps=[step(1, worker.definition)],
        calls=[
            call(1, 0, "send", "unsafe", "running"),
            call(1, 1, "save", "idempotent", "running"),
            call(1, 2, "send", "unsafe", "awaiting_review"),
        ],
        reviews=[question(1, 2)],
    )
    worker.end(run, to, error="TOOL_FAILED" if to == "failed" else None)
    assert [c["status"] for c in world.calls(run["id"])] == ["unknown", "failed", "rejected"]
    assert world.open_reviews(run["id"]) == []


def test_unknown_result_asks_a_person_at_once(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    worker.record(run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", "unsafe", "running")])
    worker.record(run, results=[result(1, 0, "unknown", error="timed out")])
    (review,) = world.open_reviews(run["id"])
    assert (review["kind"], review["summary"]) == ("unknown_outcome", "Did send happen? timed out")
    assert worker.end(run, "awaiting_review")["verdict"] == "ok"
    assert world.run(run["id"])["review_count"] == 1


def test_one_question_per_call_is_open_however_often_it_is_put(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    worker.record(run, reviews=[question(1, 0)])
    assert len(world.open_reviews(run["id"])) == 1


def test_illegal_transition_refuses_the_call(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    with refused("RH005", says="A run can not go from running to dancing."):
        worker.end(run, "dancing")


def test_a_run_whose_task_always_fails_in_the_worker_ends(world: World) -> None:
    """Its worker gives it back each time, for later. That is counted, or it would go on for ever."""
    worker, user = world.worker(), world.person()
    run_id = world.submit(user)
    for attempt in (1, 2, 3):
        world.at(100.0 * attempt)
        worker = world.worker()
        (run,) = worker.claim()
        assert run["attempt"] == attempt
        worker.end(
            run,
            "pending",
            reason="worker error: KeyError",
            counted=True,
            delay_ms=30_000,
            detail={"message": "m"},
        )
        assert world.status(run_id) == ("pending" if attempt < 3 else "failed")
    row = world.run(run_id)
    assert (row["error"], row["error_detail"]) == ("INTERNAL_ERROR", {"message": "m"})


# ----------------------------------------------------------------------------------------- intents of a run that is gone


@pytest.mark.parametrize("repeated", [False, True], ids=["once", "repeated"])
@pytest.mark.parametrize("cancel", [False, True], ids=["worker lost", "cancelled"])
def test_an_intent_that_comes_after_the_runs_end_does_not_hold(
    world: World, cancel: bool, repeated: bool
) -> None:
    """The worker's clock may say that its lease goes on: it must not start what nobody knows of."""
    worker, user = world.worker(), world.person()
    world.configure(max_attempts=1)
    run = world.running(worker, user)
    if cancel:
        world.user(user, "select agent_cancel(%s)", run["id"])
    assert worker.heartbeat(held=[])["lost"] == []
    assert world.status(run["id"]) == ("cancelled" if cancel else "failed")
    entry = worker.entry(
        run, steps=[step(1, worker.definition)], calls=[call(1, 0, "save", "idempotent", "running")]
    )
    if repeated:
        worker.record_all([entry])
    (verdict,) = worker.record_all([entry])
    assert (verdict["verdict"], verdict["code"]) == ("stop", "CANCELLED" if cancel else "WORKER_LOST")
    assert world.run(run["id"])["step_count"] == 1  # what happened is stored
    assert world.calls(run["id"]) == []


@pytest.mark.parametrize("effect", ["unsafe", "idempotent"])
@pytest.mark.parametrize("gated", [False, True])
def test_a_repeated_intent_does_not_hold_once_the_run_was_requeued(
    world: World, gated: bool, effect: str
) -> None:
    """Its answer was lost, then the run. The next worker, or a person, decides what becomes of the call now."""
    worker, user = world.worker(), world.person()
    if gated:
        run, (review,) = world.paused(worker, user)
        world.decide(world.reviewer(), review["id"])
        (run,) = worker.claim()
        entry = worker.entry(run, starts=[{"step_number": 1, "position": 0}])
    else:
        run = world.running(worker, user)
        entry = worker.entry(
            run, steps=[step(1, worker.definition)], calls=[call(1, 0, "send", effect, "running")]
        )
    (verdict,) = worker.record_all([entry])
    assert verdict["verdict"] == "ok"
    worker.heartbeat(held=[])
    assert world.status(run["id"]) in ("pending", "awaiting_review")
    (verdict,) = worker.record_all([entry])
    assert verdict["verdict"] == "fenced"
    assert "started" not in verdict


# -------------------------------------------------------------------------------------------------------- messages


def test_messages_are_told_until_a_step_has_delivered_them(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.sql(
        "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'Shorter.')",
        run["id"],
        user,
        user,
    )
    (message,) = worker.record(run, active_ms=1)["messages"]
    assert message["content"] == "Shorter."
    verdict = worker.record(run, steps=[step(1, worker.definition, delivered=[message["id"]])])
    assert "messages" not in verdict
    assert world.one("select delivered_step from agent_messages") == 1
