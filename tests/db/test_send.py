"""agent_send: what people say to a living run is read, or refused; never lost."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from test_state_machine import a_run_that_is
from world import Row, World, refused, step

NO_SUCH_RUN = "There is no such run, or it is not yours."


def send(world: World, user: str, run_id: str, content: str | None = "Be brief.") -> Row:
    return world.user(user, "select agent_send(%s, %s)", run_id, content)[0]["agent_send"]


def contents(messages: list[Row]) -> list[str]:
    return [message["content"] for message in messages]


def test_message_is_stored_with_its_sender_and_answered_with_its_id(world: World) -> None:
    world.worker()
    user, operator = world.person(), world.reviewer(role="operator")
    run_id = world.submit(user)
    answer = send(world, operator, run_id, "Be brief.")
    (row,) = world.sql("select * from agent_messages")
    assert answer == {
        "id": str(row["id"]),
        "execution_id": run_id,
        "created_at": world.one("select to_jsonb(created_at) from agent_messages"),
    }
    assert (str(row["user_id"]), str(row["sender_id"]), row["content"]) == (user, operator, "Be brief.")


@pytest.mark.parametrize("state", ["pending", "running", "awaiting_review"])
def test_living_run_is_told(world: World, state: str) -> None:
    worker = world.worker()
    run_id = a_run_that_is(world, worker, state)
    owner = str(world.run(run_id)["user_id"])
    send(world, owner, run_id, "first")
    send(world, owner, run_id, "second")
    if state == "awaiting_review":
        world.decide(world.reviewer(), world.open_reviews(run_id)[0]["id"])
    if state == "running":
        told = worker.record({"id": run_id, "fence": 1}, seq=1, active_ms=1)["messages"]
    else:
        told = worker.claim()[0]["messages"]
    assert contents(told) == ["first", "second"]
    assert world.status(run_id) == "running"


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_ended_run_can_not_be_told(world: World, state: str) -> None:
    run_id = a_run_that_is(world, world.worker(), state)
    hint = "agent_retry" if state == "failed" else "fork"
    with refused("RH014", says=f"This run has already ended ({state}).", hint=hint):
        send(world, str(world.run(run_id)["user_id"]), run_id)
    assert world.one("select count(*) from agent_messages") == 0


def test_run_that_is_being_cancelled_will_not_listen(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.user(user, "select agent_cancel(%s)", run["id"])
    with refused("RH014", says="This run is being cancelled."):
        send(world, user, run["id"])


@pytest.mark.parametrize("content", [None, "", " \r\n\t"])
def test_empty_message_is_refused(world: World, content: str | None) -> None:
    world.worker()
    user = world.person()
    with refused("RH016", says="empty"):
        send(world, user, world.submit(user), content)


def test_long_message_is_refused_by_its_bytes(world: World) -> None:
    world.worker()
    user = world.person()
    run_id = world.submit(user)
    send(world, user, run_id, "ä" * 32_768)
    with refused("RH016", says="65537 bytes", hint="Storage"):
        send(world, user, run_id, "ä" * 32_768 + "x")


def test_number_of_messages_that_wait_is_bounded(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.sql(
        "insert into agent_messages (execution_id, user_id, content)"
        " select id, user_id, 'x' from agent_executions, generate_series(1, 99)"
    )
    last = send(world, user, run["id"])
    with refused("RH017", says="100 messages", hint="Wait"):
        send(world, user, run["id"])
    worker.record(run, steps=[step(1, worker.definition, delivered=[last["id"]])])
    send(world, user, run["id"])  # one was read


def test_strangers_learn_nothing_and_wait_for_nothing(world: World) -> None:
    worker, user, stranger, over = world.worker(), world.person(), world.person(), world.another()
    run_id = world.submit(user)
    with refused("RH006", says=NO_SUCH_RUN):
        send(world, stranger, "00000000-0000-0000-0000-000000000001")
    with over.acting(None) as cursor:
        cursor.execute("select from agent_executions where id = %s for no key update", (run_id,))
        for nobody in (stranger, world.reviewer(), world.reviewer(role="operator", tenant_id="acme")):
            with refused("RH006", says=NO_SUCH_RUN):
                send(world, nobody, run_id)
    with refused("42501"):
        world.anon("select agent_send(%s, 'x')", run_id)
    assert worker.claim()[0]["messages"] == []


def test_service_sends_without_a_sender(world: World) -> None:
    world.worker()
    run_id = world.submit(world.person())
    world.service("select agent_send(%s, 'from the system')", run_id)
    assert world.one("select sender_id from agent_messages") is None


# -- the race with the final answer ---------------------------------------------------------------------------------


def final(worker: Any, run: Row, **transition: Any) -> Row:
    return worker.entry(
        run, steps=[step(1, worker.definition)], transition={"to": "completed", "result": 1, **transition}
    )


def test_answer_given_before_a_message_was_read_does_not_end_the_run(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    message = send(world, user, run["id"], "One more thing")
    verdict = worker.record_all([final(worker, run)])[0]
    assert verdict["verdict"] == "continue"
    assert verdict["messages"] == [{"id": message["id"], "content": "One more thing"}]
    row = world.run(run["id"])
    assert (row["status"], row["step_count"], row["result"]) == ("running", 1, None)
    verdict = worker.record(
        run,
        steps=[step(2, worker.definition, delivered=[message["id"]])],
        transition={"to": "completed", "result": 2},
    )
    assert verdict["verdict"] == "ok"
    assert (world.status(run["id"]), world.run(run["id"])["result"]) == ("completed", 2)


def test_last_word_ends_the_run_whatever_waits(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    send(world, user, run["id"])
    assert worker.record_all([final(worker, run, final=True)])[0]["verdict"] == "ok"
    assert world.status(run["id"]) == "completed"


@pytest.mark.parametrize("to", ["failed", "awaiting_review", "pending"])
def test_only_an_answer_waits_for_messages(world: World, to: str) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    world.gate(worker, run)
    send(world, user, run["id"])
    assert worker.end(run, to)["verdict"] == "ok"
    assert world.status(run["id"]) == to


def test_cancel_ends_a_run_that_has_unread_messages(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    send(world, user, run["id"])
    world.user(user, "select agent_cancel(%s)", run["id"])
    assert worker.record_all([final(worker, run)])[0]["verdict"] == "ok"
    row = world.run(run["id"])
    assert (row["status"], row["error_detail"]["result"]) == ("cancelled", 1)


def test_sender_waits_for_the_completing_record_and_is_refused(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    with over.acting("service_role") as cursor:
        cursor.execute("select agent_worker_record(%s, %s)", (worker.id, Jsonb([final(worker, run)])))
        sending = world.background(lambda: send(world, user, run["id"]))
        assert sending.waits()
    with refused("RH014"):
        sending.result()
    assert world.status(run["id"]) == "completed"


def test_completing_record_finds_the_sender_busy_and_then_the_message(world: World) -> None:
    worker, user, over = world.worker(), world.person(), world.another()
    run = world.running(worker, user)
    entry = final(worker, run)
    with over.acting("authenticated", user) as cursor:
        cursor.execute("select agent_send(%s, 'wait')", (run["id"],))
        assert worker.record_all([entry])[0]["verdict"] == "busy"
    verdict = worker.record_all([entry])[0]
    assert (verdict["verdict"], contents(verdict["messages"])) == ("continue", ["wait"])


def test_answer_that_was_lost_says_again_that_the_run_goes_on(world: World) -> None:
    worker, user = world.worker(), world.person()
    run = world.running(worker, user)
    send(world, user, run["id"], "wait")
    entry = final(worker, run)
    first = worker.record_all([entry])
    assert worker.record_all([entry]) == first
    assert world.run(run["id"])["step_count"] == 1
