"""Webhooks against real endpoints; the outbox is a list here (tests/db/test_notifications.py has the real one)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import httpx
import pytest
from endpoint import endpoint, hang
from outbox import KEY, NAME, Outbox, message, notifying, webhook

from runhold.errors import StoreUnavailable
from runhold.runtime.notifications import Undeliverable
from runhold.runtime.webhook import Webhook, refuse_address, sign
from runhold.store.records import Notification
from runhold.testing.chaos.patience import eventually


def verified(headers: dict[str, str], body: bytes) -> bool:
    """The snippet of docs/guides/notifications.md, in short."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(headers["webhook-signature"], expected)


async def test_endpoint_that_fails_hangs_and_says_gone_gets_the_same_message_until_it_works() -> None:
    async with endpoint(500, hang, 410, 302, 200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        async with notifying(outbox, webhook(attempt_s=0.3)):
            await eventually(lambda: outbox.delivered(told))
    assert outbox.outcomes[told.id] == [
        "it answered 500",
        "no answer within 0.3 s",
        "it answered 410",
        "it answered 302",  # to itself, and not followed
        None,
    ]
    assert {headers["webhook-id"] for headers, _ in there.requests} == {f"msg_{told.id}"}
    assert {body for _, body in there.requests} == {told.body.encode()}
    assert all(verified(*request) for request in there.requests)
    assert all(abs(int(headers["webhook-timestamp"]) - time.time()) < 60 for headers, _ in there.requests)


async def test_endpoint_that_hangs_delays_no_other() -> None:
    async with endpoint(hang) as dead, endpoint(200) as alive:
        stuck = [message(dead.url) for _ in range(4)]
        told = [message(alive.url) for _ in range(20)]
        outbox = Outbox([*stuck, *told])
        async with notifying(outbox, webhook(attempt_s=1000)):
            await eventually(lambda: outbox.delivered(*told))
            await eventually(lambda: len(dead.requests) == 4)
            assert not any(each.id in outbox.outcomes for each in stuck)


async def test_delivery_whose_outcome_is_lost_is_sent_again_under_the_same_id() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told], lost=1)
        async with notifying(outbox, webhook()):
            await eventually(lambda: outbox.delivered(told))
    assert [headers["webhook-id"] for headers, _ in there.requests] == [f"msg_{told.id}"] * 2


async def test_nobody_there_is_a_failed_attempt() -> None:
    async with endpoint(200) as there:
        url = there.url
    told = message(url)
    outbox = Outbox([told])
    async with notifying(outbox, webhook()):
        await eventually(lambda: told.id in outbox.outcomes)
    assert outbox.outcomes[told.id][0] == "no answer: ConnectError"


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ({}, f"this worker has no {NAME} in its environment"),
        ({NAME: "whsec_c2hvcnQ="}, "the secret must be whsec_ and base64 of at least 24 bytes"),
        ({NAME: "whsec_ü"}, "the secret must be whsec_ and base64"),
        ({NAME: "hunter2-hunter2-hunter2-hunter2-hunter2"}, "the secret must be whsec_ and base64"),
    ],
)
async def test_nothing_is_sent_without_a_good_secret(secrets: dict[str, str], says: str) -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        async with notifying(outbox, webhook(secrets=secrets)):
            await eventually(lambda: told.id in outbox.outcomes)
        said = outbox.outcomes[told.id][0]
    assert said is not None
    assert said.startswith(says)
    assert "hunter2" not in said
    assert there.requests == []


async def test_nothing_is_sent_to_the_own_machine_in_production() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        async with notifying(outbox, webhook(development=False)):
            await eventually(lambda: told.id in outbox.outcomes)
    assert there.requests == []


@pytest.mark.parametrize(
    ("url", "development", "production"),
    [
        ("https://hooks.example.org/x", True, True),
        ("http://hooks.example.org/x", False, False),
        ("http://127.0.0.1:80/x", True, False),
        ("http://[::1]/x", True, False),
        ("http://localhost/x", True, False),
        ("https://localhost/x", True, False),
        ("https://0.0.0.0/x", True, False),
        ("http://127.0.0.1.example.org/x", False, False),
        ("ftp://hooks.example.org/x", False, False),
        ("https://[hooks.example.org/x", False, False),
    ],
)
def test_where_messages_may_go(url: str, development: bool, production: bool) -> None:
    for mode, allowed in ((True, development), (False, production)):
        if allowed:
            refuse_address(url, development=mode)
        else:
            with pytest.raises(Undeliverable):
                refuse_address(url, development=mode)


def test_signature_is_the_one_of_the_standard() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md."""
    found = sign(
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
    )
    assert found == "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="


async def test_database_that_is_away_does_not_end_the_notifier() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        working, failed = outbox.notifications, 0

        async def failing(worker_id: UUID, n: int, channels: Sequence[str]) -> list[Notification]:
            nonlocal failed
            failed += 1
            if failed < 3:
                raise StoreUnavailable("gone")
            return await working(worker_id, n, channels)

        outbox.notifications = failing  # pyright: ignore[reportAttributeAccessIssue]
        async with notifying(outbox, webhook()):
            await eventually(lambda: outbox.delivered(told))


async def test_nothing_is_asked_before_something_is_due_and_then_at_once() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        async with notifying(outbox, webhook(), idle_look_s=1000) as notifier:
            notifier.expect(None)
            notifier.expect(0.3)
            notifier.expect(500)
            began = time.monotonic()
            await eventually(lambda: outbox.delivered(told))
            assert time.monotonic() - began >= 0.3
            assert outbox.looks == 1
            await eventually(lambda: outbox.looks == 2)  # its endpoint may get the next one


async def test_message_is_due_though_no_heartbeat_said_so() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        async with notifying(outbox := Outbox([told]), webhook(), idle_look_s=0.1):
            await eventually(lambda: outbox.delivered(told))


async def test_channel_that_breaks_is_a_failed_attempt_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Webhook):
        name = "email"

        async def deliver(self, message: Notification) -> None:
            raise KeyError("url")

    async with endpoint(200) as there:
        told = message(there.url)
        broken = Notification(id=uuid4(), channel="email", target={}, body="{}", attempt=1)
        outbox = Outbox([broken, told])
        async with notifying(outbox, Broken({}, development=True), webhook()):
            await eventually(lambda: outbox.delivered(told) and broken.id in outbox.outcomes)
    assert outbox.outcomes[broken.id][0] == "the worker can't send it: KeyError"
    assert "can't be sent" in caplog.text


async def test_certificates_are_not_read_before_a_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_client(*_: object, **__: object) -> None:
        raise AssertionError("a client was made")

    monkeypatch.setattr(httpx, "AsyncClient", no_client)
    async with notifying(outbox := Outbox([]), webhook()):
        await eventually(lambda: outbox.looks > 1)
