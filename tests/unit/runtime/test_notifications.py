"""The notifier against real endpoints; the outbox is a list here (tests/db/test_notifications.py has the real one)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from endpoint import endpoint, hang

from runhold.errors import StoreUnavailable
from runhold.runtime.notifications import Notifier, Undeliverable, refuse_address, sign
from runhold.store.records import Notification
from runhold.testing.chaos.patience import eventually

NAME = "RUNHOLD_WEBHOOK_SECRET"
KEY = b"k" * 24
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def message(url: str, **more: Any) -> Notification:
    given: dict[str, Any] = {"id": uuid4(), "secret_name": NAME, "body": '{"a": "ü"}', "attempt": 1, **more}
    return Notification(url=url, **given)


@dataclass
class Outbox:
    """What failed is due again at the next look."""

    due: list[Notification]
    outcomes: dict[UUID, list[str | None]] = field(default_factory=dict[UUID, list[str | None]])
    lost: int = 0
    """So many outcomes can not be stored."""
    taken: dict[UUID, Notification] = field(default_factory=dict[UUID, Notification])

    async def notifications(self, worker_id: UUID, n: int) -> list[Notification]:
        found, self.due = self.due[:n], self.due[n:]
        self.taken |= {each.id: each for each in found}
        return found

    async def notified(self, worker_id: UUID, notification_id: UUID, error: str | None) -> None:
        if self.lost:
            self.lost -= 1
            self.due.append(self.taken[notification_id])
            raise StoreUnavailable("gone")
        self.outcomes.setdefault(notification_id, []).append(error)
        if error is not None:
            self.due.append(self.taken[notification_id])

    def delivered(self, *messages: Notification) -> bool:
        return all(self.outcomes.get(each.id, [""])[-1] is None for each in messages)


@asynccontextmanager
async def notifying(outbox: Outbox, **options: Any) -> AsyncIterator[None]:
    given = {"secrets": {NAME: SECRET}, "development": True, "poll_s": 0.01, "attempt_s": 10, **options}
    task = asyncio.create_task(Notifier(outbox, uuid4(), **given).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def verified(headers: dict[str, str], body: bytes) -> bool:
    """The snippet of docs/guides/notifications.md, in short."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(headers["webhook-signature"], expected)


async def test_endpoint_that_fails_hangs_and_says_gone_gets_the_same_message_until_it_works() -> None:
    async with endpoint(500, hang, 410, 302, 200) as there:
        told = message(there.url)
        outbox = Outbox([told])
        async with notifying(outbox, attempt_s=0.3):
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
        async with notifying(outbox, attempt_s=1000):
            await eventually(lambda: outbox.delivered(*told))
            await eventually(lambda: len(dead.requests) == 4)
            assert not any(each.id in outbox.outcomes for each in stuck)


async def test_delivery_whose_outcome_is_lost_is_sent_again_under_the_same_id() -> None:
    async with endpoint(200) as there:
        told = message(there.url)
        outbox = Outbox([told], lost=1)
        async with notifying(outbox):
            await eventually(lambda: outbox.delivered(told))
    assert [headers["webhook-id"] for headers, _ in there.requests] == [f"msg_{told.id}"] * 2


async def test_nobody_there_is_a_failed_attempt() -> None:
    async with endpoint(200) as there:
        url = there.url
    told = message(url)
    outbox = Outbox([told])
    async with notifying(outbox):
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
        async with notifying(outbox, secrets=secrets):
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
        async with notifying(outbox, development=False):
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

        async def failing(worker_id: UUID, n: int) -> list[Notification]:
            nonlocal failed
            failed += 1
            if failed < 3:
                raise StoreUnavailable("gone")
            return await working(worker_id, n)

        outbox.notifications = failing  # pyright: ignore[reportAttributeAccessIssue]
        async with notifying(outbox):
            await eventually(lambda: outbox.delivered(told))
