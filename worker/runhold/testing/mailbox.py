"""A real SMTP server on loopback that keeps what it gets, so that effects can be counted outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from typing import Any, Final, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

HOST: Final = "127.0.0.1"


@dataclass(kw_only=True)
class Mail:
    """One delivered message."""

    recipients: list[str]
    message: Message

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])


@dataclass
class Mailbox:
    """The server. Needs aiosmtpd: ``pip install 'runhold[local]'``.

    :ivar mails: what was delivered, in order.
    :ivar port: where it listens, once it runs.
    """

    mails: list[Mail] = field(default_factory=list[Mail])
    port: int = 0
    _server: asyncio.Server | None = None

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """Called by aiosmtpd for every message."""
        self.accept(envelope)
        return "250 OK"

    def accept(self, envelope: Envelope) -> None:
        """Keep a message: from now on it is delivered."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        message = message_from_bytes(content, policy=default)
        self.mails.append(Mail(recipients=[str(to) for to in envelope.rcpt_tos], message=message))

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SMTP(self, hostname="localhost", loop=loop), HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
