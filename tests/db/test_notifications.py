"""The outbox of review requests: filled with the question, claimed by workers, tried again, given up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from world import DEFINITION, Row, Worker, World, refused

DAY = 86_400
EMAIL = {"email": {"to": ["reviews@example.org", "b.o'hara+x@mail.example.org"]}}
NOTIFY = {"webhook": {"url": "https://hooks.example.org/a?b=c", "secret_name": "RUNHOLD_WEBHOOK_SECRET"}}


def to(host: str) -> Row:
    return {"webhook": {**NOTIFY["webhook"], "url": f"https://{host}/"}}


def due(worker: Worker, n: int = 64, channels: Sequence[str] = ("webhook", "email")) -> list[Row]:
    return worker.world.service("select agent_worker_notifications(%s, %s, %s)", worker.id, n, list(channels))


def due_ms(worker: Worker) -> int | None:
    return worker.world.service("select agent_worker_heartbeat(%s, '{}', 0)", worker.id)[
        "notification_due_ms"
    ]


def settled(worker: Worker, message: Row, error: str | None = None) -> str | None:
    answer = worker.world.service("select agent_worker_notified(%s, %s, %s)", worker.id, message["id"], error)
    return answer["outcome"]


def asked(world: World, n: int = 1, **configured: Any) -> tuple[Worker, Row, list[Row]]:
    """A worker, and a run of a type that tells somebody, with ``n`` open reviews."""
    worker = world.worker(lease_ms=600_000)
    world.configure(**{"notify": NOTIFY, **configured})
    run, reviews = world.paused(worker, world.person(), n)
    return worker, run, reviews


def test_question_is_told_once_and_without_what_is_proposed(world: World) -> None:
    worker, run, (review,) = asked(world)
    (message,) = due(worker)
    assert {name: message[name] for name in ("channel", "target", "attempt")} == {
        "channel": "webhook",
        "target": NOTIFY["webhook"],
        "attempt": 1,
    }
    body = json.loads(message["body"])
    assert body["type"] == "review.requested"
    assert set(body) == {"type", "timestamp", "data"}
    assert body["data"] == {
        "review_id": str(review["id"]),
        "execution_id": run["id"],
        "agent_type": "writer",
        "tenant_id": None,
        "kind": "approval",
        "tool_name": "send",
        "requested_at": body["data"]["requested_at"],
        "expires_at": body["data"]["expires_at"],
    }
    assert due(worker) == []  # claimed
    assert settled(worker, message) == "delivered"
    world.at(DAY)
    assert due(worker) == []


def test_types_that_name_nobody_tell_nobody(world: World) -> None:
    worker, _, _ = asked(world, notify=None)
    assert due(worker) == []
    assert world.one("select count(*) from runhold.outbox") == 0


def test_claim_ends_and_the_same_message_goes_to_another(world: World) -> None:
    worker, _, _ = asked(world)
    (message,) = due(worker)
    other = world.worker(lease_ms=600_000)
    world.at(59)
    assert due(other) == []
    world.at(61)
    (again,) = due(other)
    assert again == {**message, "attempt": 2}
    assert settled(worker, message, "too late") is None  # a failure under a claim that is over
    assert due(other) == []
    assert settled(worker, message) == "delivered"  # but a delivery is one
    assert settled(other, message, "after all") is None


def test_failure_is_tried_again_later_and_later_and_given_up_with_an_event(world: World) -> None:
    worker, run, _ = asked(world)
    now, pauses = 0.0, list[float]()
    while now < 3 * DAY:
        world.at(now)
        (message,) = due(worker)
        outcome = settled(worker, message, "it answered 500")
        assert outcome is None
        wait = world.sql(
            "select extract(epoch from next_attempt_at - runhold.now())::float as s from runhold.outbox"
        )
        pauses.append(wait[0]["s"])
        now += pauses[-1] + 1
    for at_most, pause in zip([5, 10, 20, 40], pauses[:4], strict=True):
        assert at_most * 0.7 < pause < at_most * 1.3
    assert max(pauses) < 3600 * 1.3
    world.at(now)
    (message,) = due(worker)
    assert settled(worker, message, "it answered 500") == "given_up"
    (event,) = world.sql("select * from agent_events where kind = 'notification_given_up'")
    assert (str(event["execution_id"]), event["actor_kind"]) == (run["id"], "worker")
    assert event["data"]["error"] == "it answered 500"
    assert event["data"]["attempts"] == len(pauses) + 1
    assert "hooks.example.org" not in json.dumps(event["data"])
    world.at(now + DAY)
    assert due(worker) == []


def test_what_is_decided_needs_no_message_any_more(world: World) -> None:
    worker, _, (review,) = asked(world)
    world.decide(world.reviewer(), review["id"])
    assert due(worker) == []
    assert world.one("select outcome from runhold.outbox") == "not_needed"


def test_escalation_is_told_too(world: World) -> None:
    worker, _, _ = asked(world, review_on_expiry="escalate")
    (message,) = due(worker)
    settled(worker, message)
    world.at(3601)
    world.sweep()
    (escalated,) = due(worker)
    assert json.loads(escalated["body"])["type"] == "review.escalated"
    assert escalated["id"] != message["id"]


def test_endpoint_with_a_long_queue_gets_few_at_once_and_others_come_through(world: World) -> None:
    worker, _, _ = asked(world, 40, notify=to("dead.example.org"))
    world.configure(notify=to("alive.example.org"))
    world.paused(worker, world.person())
    hosts = [message["target"]["url"] for message in due(worker)]
    assert hosts.count("https://dead.example.org/") == 4
    assert hosts.count("https://alive.example.org/") == 1
    assert due(worker) == []  # until those of the dead one have failed


def test_each_channel_is_told_by_itself(world: World) -> None:
    worker, _, _ = asked(world, notify={**NOTIFY, **EMAIL})
    hook, mail = sorted(due(worker), key=lambda message: message["channel"] == "email")
    assert (hook["channel"], hook["target"]) == ("webhook", NOTIFY["webhook"])
    assert (mail["channel"], mail["target"]) == ("email", EMAIL["email"])
    assert hook["id"] != mail["id"]
    assert hook["body"] == mail["body"]
    assert settled(worker, mail, "the server is away") is None
    assert settled(worker, hook) == "delivered"
    world.at(10)
    (again,) = due(worker)
    assert again == {**mail, "attempt": 2}
    assert settled(worker, again) == "delivered"


def test_workers_without_a_mail_server_leave_mails_to_others(world: World) -> None:
    worker, _, _ = asked(world, notify=EMAIL)
    assert due(worker, channels=["webhook"]) == []
    assert due(worker, channels=[]) == []
    assert [message["channel"] for message in due(worker, channels=["email"])] == ["email"]


def test_mails_of_a_dead_server_are_few_at_once_and_delay_no_webhook(world: World) -> None:
    worker, _, _ = asked(world, 40, notify=EMAIL)
    world.configure(notify={"email": {"to": ["others@example.org"]}})
    world.paused(worker, world.person(), 10)
    world.configure(notify=NOTIFY)
    world.paused(worker, world.person())
    channels = [message["channel"] for message in due(worker)]
    assert (channels.count("email"), channels.count("webhook")) == (4, 1)
    assert due(worker) == []


def test_heartbeats_say_when_to_look(world: World) -> None:
    worker, _, _ = asked(world)
    other = world.worker({**DEFINITION, "agent_type": "reader"}, lease_ms=600_000)
    assert due_ms(worker) == 0
    assert due_ms(other) is None
    (message,) = due(worker)
    assert 50_000 < (due_ms(worker) or 0) <= 60_000  # then its claim ends
    world.at(30)
    assert 20_000 < (due_ms(worker) or 0) <= 30_000
    settled(worker, message, "it answered 500")
    assert 0 < (due_ms(worker) or 0) < 6500
    world.at(50)
    assert due_ms(worker) == 0
    settled(worker, message)
    assert due_ms(worker) is None


def test_two_workers_never_get_the_same_message(world: World) -> None:
    worker, _, _ = asked(world, 4)
    other = world.another()
    with other.acting("service_role") as cursor:
        cursor.execute("select agent_worker_notifications(%s, 2, '{webhook}') as due", (worker.id,))
        first = cursor.fetchall()[0]["due"]
        second = due(worker)  # skips what the other transaction has locked
    assert len(first) == 2
    assert not {message["id"] for message in first} & {message["id"] for message in second}


def test_workers_tell_only_of_their_own_types(world: World) -> None:
    asked(world)
    elsewhere = world.worker({**DEFINITION, "agent_type": "reader"})
    assert due(elsewhere) == []


def test_dead_workers_get_none(world: World) -> None:
    worker, _, _ = asked(world)
    worker.stop(draining=False)
    with refused("RH012"):
        due(worker)


def test_messages_go_with_their_run(world: World) -> None:
    _, run, _ = asked(world)
    world.sql("delete from agent_executions where id = %s", run["id"])
    assert world.one("select count(*) from runhold.outbox") == 0


@pytest.mark.parametrize(
    "notify",
    [
        [],
        {},
        {"webhook": "https://x.example.org"},
        {"webhook": {"url": "https://x.example.org"}},
        {"webhook": {"url": "file:///etc/passwd", "secret_name": "RUNHOLD_WEBHOOK_SECRET"}},
        {"webhook": {"url": "https://me:secret@x.example.org", "secret_name": "RUNHOLD_WEBHOOK_SECRET"}},
        {"webhook": {"url": "https://x.example.org", "secret_name": "SUPABASE_SECRET_KEY"}},
        {"webhook": {**NOTIFY["webhook"], "secret": "s"}},
        {**NOTIFY, "pager": {}},
        {**NOTIFY, "email": None},
        {**EMAIL, "webhook": None},
        {"email": ["reviews@example.org"]},
        {"email": "reviews@example.org"},
        {"email": {}},
        {"email": {"to": []}},
        {"email": {"to": "reviews@example.org"}},
        {"email": {"to": ["reviews@example.org", None]}},
        {"email": {"to": ["reviews@example.org"], "bcc": []}},
        {"email": {"to": [f"r{number}@example.org" for number in range(11)]}},
        {"email": {"to": ["reviews@localhost"]}},
        {"email": {"to": ["reviews"]}},
        {"email": {"to": ["Reviews <reviews@example.org>"]}},
        {"email": {"to": ["a@example.org, b@example.org"]}},
        {"email": {"to": ["a@example.org\nBcc: b@example.org"]}},
        {"email": {"to": ["a@example.org\n"]}},
        {"email": {"to": ["\n a@example.org"]}},
        {"email": {"to": [f"{'a' * 64}@{'b' * 200}.org"]}},
    ],
)
def test_what_can_not_work_is_refused_when_it_is_configured(world: World, notify: Any) -> None:
    world.worker()
    with refused("23514", says="notify_names_channels"), world.acting("service_role") as cursor:
        cursor.execute("update agent_types set notify = %s", (Jsonb(notify),))
