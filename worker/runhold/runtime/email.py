"""Tells reviewers by e-mail.

A mail says that somebody is asked, and where to look; not what is proposed. Sent again, it has the same ``Message-ID``,
so that mail programs show it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote

from runhold.credentials import hide_credentials
from runhold.runtime.notifications import Undeliverable
from runhold.runtime.smtp import SmtpServer
from runhold.store.records import Notification
from runhold.tls import tls_context

if TYPE_CHECKING:
    import aiosmtplib

logger = logging.getLogger(__name__)

ATTEMPT_S: Final = 30.0
"""For one delivery in all. Mail servers make strangers wait on purpose."""

GOODBYE_S: Final = 1.0
"""For the server to hear that we leave: the mail is delivered by then."""

_LINE_MAX: Final = 200
_POLICY: Final = SMTP.clone(cte_type="7bit")  # every server takes it


class Email:
    """Sends messages through one mail server.

    :param sender: what they come from; its domain is part of each ``Message-ID``.
    :param review_url: a link for people, with ``{review_id}`` and ``{execution_id}`` filled in.
    """

    name: ClassVar[str] = "email"

    def __init__(
        self, server: SmtpServer, sender: Address, *, review_url: str | None, attempt_s: float = ATTEMPT_S
    ) -> None:
        self.attempt_s = attempt_s
        self._server = server
        self._sender = sender
        self._review_url = review_url

    async def deliver(self, message: Notification) -> None:
        """Hand it to the mail server, for all who are to be told.

        :raises Undeliverable: the server took it for none of them, or did not say.
        """
        mail = compose(message, self._sender, self._review_url)
        to = [str(each) for each in message.target["to"]]
        async with self._connected() as smtp:
            refused, _ = await smtp.sendmail(self._sender.addr_spec, to, mail.as_bytes())
        if refused:  # to send it again would reach the others again
            logger.warning(
                "%d of %d addresses of notification %s were refused", len(refused), len(to), message.id
            )

    async def check(self) -> None:
        """Connect and sign in, and send nothing.

        :raises Undeliverable: mail can't be sent now.
        """
        try:
            async with asyncio.timeout(self.attempt_s), self._connected():
                pass
        except TimeoutError:
            raise Undeliverable(f"no answer within {self.attempt_s:g} s") from None

    async def aclose(self) -> None:
        """Each delivery closes its own connection."""

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[aiosmtplib.SMTP]:
        import aiosmtplib  # only workers that send mail need it

        server = self._server
        encrypted = server.encryption != "none"
        smtp: aiosmtplib.SMTP | None = None
        try:
            smtp = aiosmtplib.SMTP(
                hostname=server.host,
                port=server.port,
                username=server.username,
                password=server.password,
                local_hostname=socket.gethostname(),  # else it would be looked up, which may take its time
                timeout=None,  # whoever calls us limits all of it
                use_tls=server.encryption == "tls",
                start_tls=server.encryption == "starttls",
                tls_context=tls_context("smtp:") if encrypted else None,
            )
            await smtp.connect()
            yield smtp
            with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                await smtp.quit(timeout=GOODBYE_S)
        except aiosmtplib.SMTPAuthenticationError as error:
            raise Undeliverable(f"the mail server refuses our login ({error.code})") from None
        except aiosmtplib.SMTPRecipientsRefused as error:
            first = error.recipients[0]
            raise Undeliverable(
                f"the mail server refuses everybody: {first.code} {_said(first.message)}"
            ) from None
        except aiosmtplib.SMTPResponseException as error:
            raise Undeliverable(f"the mail server answered {error.code} {_said(error.message)}") from None
        except aiosmtplib.SMTPNotSupported:
            raise Undeliverable("the mail server has no STARTTLS or login that we know") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise Undeliverable(f"no answer: {type(error).__name__}") from None
        finally:
            if smtp is not None:
                smtp.close()


def compose(message: Notification, sender: Address, review_url: str | None) -> EmailMessage:
    """The mail for a message: the same bytes whenever it is sent, and whoever sends it."""
    body: dict[str, Any] = json.loads(message.body)
    data: dict[str, Any] = body["data"]
    who, tool = _line(data["agent_type"]), _line(data.get("tool_name") or "a tool")
    subject = {
        "approval": f"{who} asks for approval of {tool}",
        "question": f"{who} has a question",
        "unknown_outcome": f"{who} asks whether {tool} happened",
    }[data["kind"]]
    escalated = body["type"] == "review.escalated"
    lines = [f"{subject}."]
    if escalated:
        lines.append("Nobody decided in time: now operators are asked.")
    lines.append("")
    if review_url is not None:
        lines.append(f"Decide: {link(review_url, data)}")
    lines += [
        f"Review: {_line(data['review_id'])}",
        f"Run: {_line(data['execution_id'])}",
        *([f"Tenant: {_line(data['tenant_id'])}"] if data.get("tenant_id") else []),
        f"Asked: {_time(data['requested_at'])}",
        f"Until: {_time(data['expires_at']) if data.get('expires_at') else 'no limit'}",
        "",
        "What is proposed is not in this mail: whoever may decide sees it there.",
    ]
    mail = EmailMessage(_POLICY)
    mail["From"] = sender
    mail["To"] = ", ".join(str(each) for each in message.target["to"])
    mail["Subject"] = f"Escalated: {subject}" if escalated else subject
    mail["Date"] = datetime.fromisoformat(body["timestamp"])
    mail["Message-ID"] = f"<runhold.{message.id}@{sender.domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join(lines) + "\n")
    return mail


def link(review_url: str, data: dict[str, Any]) -> str:
    """The address for people, of this review."""
    for name in ("review_id", "execution_id"):
        review_url = review_url.replace(f"{{{name}}}", quote(str(data[name]), safe=""))
    return review_url


def _line(value: object) -> str:
    """One line of what can be printed: nothing that another wrote may begin a line or a header."""
    text = " ".join(str(value).split())
    return "".join(char for char in text if char.isprintable())[:_LINE_MAX]


def _said(answer: str) -> str:
    return hide_credentials(_line(answer))


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
