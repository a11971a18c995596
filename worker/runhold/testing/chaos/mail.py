"""A mail server with crash points: the worker that sends can be killed before or after its message is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from runhold.testing.chaos.moments import Happening
from runhold.testing.chaos.points import Points
from runhold.testing.mailbox import HOST, Mailbox


class ChaosMailbox(Mailbox):
    """A :class:`~runhold.testing.mailbox.Mailbox` with a door of its own for each worker, so that it knows who sends.

    ``mail`` is the moment. A message does not say which run it is of, so arm ``mail`` for any run, or for a worker.
    """

    def __init__(self) -> None:
        super().__init__()
        self._points = Points()
        self._doors: list[asyncio.Server] = []

    def attach(self, points: Points) -> None:
        """From now on these crash points are heeded."""
        self._points = points

    async def env_for(self, worker: str) -> Mapping[str, str]:
        """``SMTP_HOST`` and ``SMTP_PORT`` for that worker."""
        loop = asyncio.get_running_loop()
        door = _Door(self, self._points, worker)
        server = await loop.create_server(lambda: SMTP(door, hostname="localhost", loop=loop), HOST, 0)
        self._doors.append(server)
        return {"SMTP_HOST": HOST, "SMTP_PORT": str(server.sockets[0].getsockname()[1])}

    async def __aexit__(self, *details: object) -> None:
        for door in self._doors:
            door.close()
        await super().__aexit__(*details)


class _Door:
    """What aiosmtpd asks about the messages of one worker."""

    def __init__(self, mailbox: Mailbox, points: Points, worker: str) -> None:
        self._mailbox = mailbox
        self._points = points
        self._worker = worker

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        """Called by aiosmtpd for every message."""
        victim = self._points.victims.get(self._worker)
        for side in ("before", "after"):
            way = await self._points.meet(side, victim, [Happening("mail")])
            if way == "refuse":
                return "451 Try again later"
            if way != "go_on":
                server.transport.abort()
                return "421 Gone"
            if side == "before":
                self._mailbox.accept(envelope)
        return "250 OK"
