"""E-mail to reviewers against real SMTP servers: what arrives, and what a server may do to us."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from email.headerregistry import Address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from endpoint import endpoint
from outbox import Outbox, notifying, webhook
from outbox import message as hook

from runhold import tls
from runhold.runtime.email import Email, compose
from runhold.runtime.notifications import Undeliverable
from runhold.runtime.smtp import SmtpServer, sender
from runhold.store.records import Notification
from runhold.testing.chaos.patience import eventually
from runhold.testing.mailbox import Mailbox

FROM = Address("Runhold", addr_spec="runhold@example.org")
TO = ["reviews@example.org", "boss@example.org"]
DATA: dict[str, Any] = {
    "review_id": "6f3d8b1e-0000-4000-8000-000000000001",
    "execution_id": "6f3d8b1e-0000-4000-8000-000000000002",
    "agent_type": "letter_writer",
    "tenant_id": "acme",
    "kind": "approval",
    "tool_name": "send_letter",
    "requested_at": "2026-01-31T09:00:00.123456+00:00",
    "expires_at": "2026-02-07T10:00:00+01:00",
}


def message(to: list[str] = TO, *, event: str = "review.requested", **data: Any) -> Notification:
    body = {"type": event, "timestamp": "2026-01-31T09:00:00.5+00:00", "data": DATA | data}
    return Notification(id=uuid4(), channel="email", target={"to": to}, body=json.dumps(body), attempt=1)


def server(port: int, **more: Any) -> SmtpServer:
    return SmtpServer(**{"host": "127.0.0.1", "port": port, "encryption": "none", **more})


def email(port: int, *, attempt_s: float = 20, review_url: str | None = None, **more: Any) -> Email:
    return Email(server(port, **more), FROM, review_url=review_url, attempt_s=attempt_s)


class Moody(Mailbox):
    """A server that does to a session what the test says, at the moment the test says.

    :ivar moods: by moment (``rcpt``, ``data``, ``after``): what to answer, ``hang`` or ``die``. Each is used once.
    """

    def __init__(self, **moods: str) -> None:
        super().__init__()
        self.moods = moods
        self.hanging = asyncio.Event()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (answer := await self._mood("rcpt", server)) is not None:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        if (answer := await self._mood("data", server)) is not None:
            return answer
        self.accept(envelope)
        return await self._mood("after", server) or "250 OK"

    async def _mood(self, moment: str, server: Any) -> str | None:
        mood = self.moods.pop(moment, None)
        if mood == "hang":
            self.hanging.set()
            await asyncio.get_running_loop().create_future()
        if mood == "die":
            server.transport.abort()
            return "421 Gone"
        return mood


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[int, list[Any]]]:
    """Takes connections and never says a word: its port, and who came."""
    came: list[Any] = []
    silence = await asyncio.start_server(lambda _, writer: came.append(writer), "127.0.0.1", 0)
    try:
        yield silence.sockets[0].getsockname()[1], came
    finally:
        silence.close()
        for writer in came:
            writer.close()


# --------------------------------------------------------------------------------------------------- what arrives


async def test_mail_says_who_asks_for_what_and_where_to_decide() -> None:
    async with Mailbox() as box:
        told = message()
        outbox = Outbox([told])
        way = email(box.port, review_url="https://console.example.org/r/{review_id}?run={execution_id}")
        async with notifying(outbox, way):
            await eventually(lambda: outbox.delivered(told))
    (mail,) = box.mails
    assert mail.recipients == TO
    assert mail.subject == "letter_writer asks for approval of send_letter"
    assert mail.message["From"] == "Runhold <runhold@example.org>"
    assert mail.message["To"] == ", ".join(TO)
    assert mail.message["Message-ID"] == f"<runhold.{told.id}@example.org>"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.message["Date"] == "Sat, 31 Jan 2026 09:00:00 +0000"
    assert mail.message.get_content_type() == "text/plain"
    assert mail.message.get_content() == (  # type: ignore[attr-defined]
        "letter_writer asks for approval of send_letter.\r\n\r\n"
        f"Decide: https://console.example.org/r/{DATA['review_id']}?run={DATA['execution_id']}\r\n"
        f"Review: {DATA['review_id']}\r\nRun: {DATA['execution_id']}\r\nTenant: acme\r\n"
        "Asked: 2026-01-31 09:00 UTC\r\nUntil: 2026-02-07 09:00 UTC\r\n\r\n"
        "What is proposed is not in this mail: whoever may decide sees it there.\r\n"
    )


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        ({"kind": "question", "tool_name": "ask_person"}, "letter_writer has a question"),
        ({"kind": "unknown_outcome"}, "letter_writer asks whether send_letter happened"),
        ({"event": "review.escalated"}, "Escalated: letter_writer asks for approval of send_letter"),
        ({"tool_name": "grüßen"}, "letter_writer asks for approval of grüßen"),
    ],
)
def test_subjects(data: dict[str, Any], subject: str) -> None:
    mail = compose(message(**data), FROM, None)
    assert mail["Subject"] == subject
    assert message_from_bytes(mail.as_bytes(), policy=policy.default)["Subject"] == subject
    assert mail.as_bytes().isascii()
    assert "Decide:" not in mail.get_content()


@pytest.mark.parametrize("name", ["tool_name", "agent_type", "tenant_id"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028", "\x00", "\r\n\r\n"])
def test_nothing_that_others_wrote_begins_a_line(name: str, end: str) -> None:
    planted = f"x{end}Bcc: thief@example.com{end}.{end}\u202eReview: planted" + "y" * 5000
    mail = compose(message(**{name: planted}), FROM, None)
    read = message_from_bytes(mail.as_bytes(), policy=policy.default)
    assert sorted(read.keys()) == sorted(compose(message(), FROM, None).keys())
    assert read["Bcc"] is None
    assert read["To"] == ", ".join(TO)
    lines = read.get_content().splitlines()  # type: ignore[attr-defined]
    assert not [line for line in lines if line.startswith(("Bcc", ".", "Review: planted", "\u202e"))]
    assert [line for line in lines if line.startswith("Review:")] == [f"Review: {DATA['review_id']}"]
    assert len(mail.as_bytes()) < 3000
    assert not {"\u202e", "\x00"} & {*read["Subject"], *"".join(lines)}


def test_mail_is_the_same_whenever_and_by_whom_it_is_sent() -> None:
    told = message()
    again = replace(told, attempt=7)
    assert compose(told, FROM, None).as_bytes() == compose(again, FROM, None).as_bytes()


# --------------------------------------------------------------------------------------- what a server may do to us


@pytest.mark.parametrize(
    ("moods", "says"),
    [
        ({"data": "554 5.7.1 Denied"}, "the mail server answered 554 5.7.1 Denied"),
        ({"data": "451 try later"}, "the mail server answered 451 try later"),
        ({"rcpt": "550 Nobody"}, None),  # the first only: the other one gets it
        ({"data": "die"}, "no answer: SMTPServerDisconnected"),
        ({"data": "hang"}, "no answer within 1 s"),
        ({"after": "die"}, "no answer: SMTPServerDisconnected"),
    ],
)
async def test_server_that_refuses_hangs_or_dies_gets_the_same_mail_again(
    moods: dict[str, str], says: str | None
) -> None:
    async with Moody(**moods) as box:
        told = message()
        outbox = Outbox([told])
        async with notifying(outbox, email(box.port, attempt_s=1)):
            await eventually(lambda: outbox.delivered(told))
    assert outbox.outcomes[told.id][0] == says
    assert {mail.message["Message-ID"] for mail in box.mails} == {f"<runhold.{told.id}@example.org>"}
    assert len(box.mails) == (2 if "after" in moods else 1)  # taken, but nobody heard so
    assert box.mails[-1].recipients == (TO[1:] if says is None else TO)


async def test_everybody_refused_is_a_failure() -> None:
    async with Moody(rcpt="550 5.1.1 No such user") as box:
        told = message(to=["nobody@example.org"])
        async with notifying(outbox := Outbox([told]), email(box.port)):
            await eventually(lambda: outbox.delivered(told))
    assert outbox.outcomes[told.id] == ["the mail server refuses everybody: 550 5.1.1 No such user", None]


async def test_nobody_there_is_a_failure() -> None:
    async with Mailbox() as box:
        port = box.port
    with pytest.raises(Undeliverable, match="no answer: SMTPConnectError"):
        await email(port).deliver(message())


async def test_dead_mail_server_delays_no_webhook() -> None:
    async with silent() as (port, came), endpoint(200) as there:
        stuck = [message() for _ in range(4)]
        told = [hook(there.url) for _ in range(20)]
        outbox = Outbox([*stuck, *told])
        async with notifying(outbox, email(port, attempt_s=1000), webhook()):
            await eventually(lambda: outbox.delivered(*told) and len(came) == 4)
            late = hook(there.url)
            outbox.due.append(late)
            await eventually(lambda: outbox.delivered(late))
            assert not any(each.id in outbox.outcomes for each in stuck)


# ------------------------------------------------------------------------------------------- secrets on their way


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server at 127.0.0.1 shows, and what we trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    both = tmp_path / "both.pem"
    both.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    ours = ssl.create_default_context(cafile=str(both))
    monkeypatch.setattr(tls, "_for_mail", lambda: ours)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


@asynccontextmanager
async def encrypted(
    box: Mailbox, context: ssl.SSLContext, *, starttls: bool
) -> AsyncIterator[tuple[int, list[Any]]]:
    """A server that wants a login: its port, and the logins that came."""
    logins: list[Any] = []

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss", handled=False)

    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"hostname": "localhost", "loop": loop, "authenticator": authenticate}
    options |= {"auth_required": True, "auth_require_tls": starttls}
    options |= {"tls_context": context, "require_starttls": True} if starttls else {}
    listening = await loop.create_server(
        lambda: SMTP(box, **options), "127.0.0.1", 0, ssl=None if starttls else context
    )
    try:
        yield listening.sockets[0].getsockname()[1], logins
    finally:
        listening.close()


@pytest.mark.parametrize("encryption", ["tls", "starttls"])
async def test_login_and_mail_are_encrypted(certificate: ssl.SSLContext, encryption: str) -> None:
    box = Mailbox()
    account = {"encryption": encryption, "username": "me", "password": "p@ss"}
    async with encrypted(box, certificate, starttls=encryption == "starttls") as (port, logins):
        await email(port, **account).deliver(message())
        assert logins == [(b"me", b"p@ss")]
        with pytest.raises(Undeliverable, match=r"^the mail server refuses our login \(535\)$"):
            await email(port, **{**account, "password": "wrong"}).check()
        await email(port, **account).check()
    assert len(box.mails) == 1


@pytest.mark.parametrize("encryption", ["tls", "starttls"])
async def test_server_that_nobody_vouches_for_gets_no_login(
    certificate: ssl.SSLContext, encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = ssl.create_default_context()
    monkeypatch.setattr(tls, "_for_mail", lambda: stranger)
    async with encrypted(Mailbox(), certificate, starttls=encryption == "starttls") as (port, logins):
        with pytest.raises(Undeliverable, match="no answer"):
            await email(port, encryption=encryption, username="me", password="p@ss").deliver(message())
    assert logins == []


async def test_nothing_goes_to_a_server_without_starttls() -> None:
    async with Mailbox() as box:
        with pytest.raises(Undeliverable, match=r"STARTTLS|no answer"):
            await email(box.port, encryption="starttls").deliver(message())
    assert box.mails == []


def test_mail_and_http_share_no_context() -> None:
    """httpx writes into its own that it wants to speak HTTP."""
    assert tls.tls_context("smtp:") is not tls.tls_context("https://x.example.org")
    assert tls.tls_context("smtps://x").verify_mode is ssl.CERT_REQUIRED


# ----------------------------------------------------------------------------------------------- what is configured


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("smtps://me:p%40ss@mail.example.org:4650", ("mail.example.org", 4650, "tls", "me", "p@ss")),
        ("smtps://mail.example.org", ("mail.example.org", 465, "tls", None, None)),
        ("smtp://me:x@mail.example.org/", ("mail.example.org", 587, "starttls", "me", "x")),
        ("smtp://me%40example.org:x@mail.example.org", ("mail.example.org", 587, "starttls", "me@example.org", "x")),
        ("smtp://127.0.0.1:25", ("127.0.0.1", 25, "none", None, None)),
        ("smtp://localhost:1025", ("localhost", 1025, "none", None, None)),
        ("smtp://localhost.example.org", ("localhost.example.org", 587, "starttls", None, None)),
    ],
)  # fmt: skip
def test_where_mail_goes(url: str, read: tuple[Any, ...]) -> None:
    found = SmtpServer.parse(url)
    assert (found.host, found.port, found.encryption, found.username, found.password) == read
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.org",
        "https://mail.example.org",
        "smtp://",
        "smtp://mail.example.org:port",
        "smtp://[mail.example.org",
        "smtps://me:hunter2/x@mail.example.org",
        "smtps://me:hunter2@mail.example.org/path",
        "smtps://me:hunter2@mail.example.org?tls=no",
        "smtps://me@mail.example.org",
        "smtps://me:hunter2@mail .example.org",
    ],
)
def test_what_is_no_mail_server_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[^:]*$") as refused:
        SmtpServer.parse(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "me",
        "me@",
        "@example.org",
        "a@example.org, b@example.org",
        "ä@example.org",
        "a@example.org\nBcc: b@c.de",
    ],
)
def test_what_is_no_sender_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|ASCII|newline|linefeed"):
        sender(text)


def test_senders_may_have_a_name() -> None:
    found = sender("Ünhold <runhold@example.org>")
    assert (found.display_name, found.addr_spec) == ("Ünhold", "runhold@example.org")
    assert compose(message(), found, None).as_bytes().isascii()
