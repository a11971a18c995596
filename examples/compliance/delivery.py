"""Sends mail. What surely did not happen is ``ToolFailed``; what nobody knows is any other exception."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from email.utils import formatdate

from runhold import ToolFailed

CONNECT_TIMEOUT_S = 5.0
SENDER = "compliance@runhold.example"


def deliver(*, to: str, subject: str, body: str, message_id: str) -> None:
    """Hand one message to the server at ``SMTP_HOST``:``SMTP_PORT``.

    :raises ToolFailed: nothing was sent: no server, or it refused the message.
    :raises Exception: anything else: the message may have been sent.
    """
    host, port = os.environ.get("SMTP_HOST"), os.environ.get("SMTP_PORT", "25")
    if not host:
        raise ToolFailed("No mail server is configured: set SMTP_HOST and SMTP_PORT for the worker.")
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, to, subject
    message["Message-ID"], message["Date"] = message_id, formatdate(usegmt=True)
    message.set_content(body)
    try:
        server = smtplib.SMTP(host, int(port), timeout=CONNECT_TIMEOUT_S)
    except (OSError, smtplib.SMTPException) as error:
        raise ToolFailed(f"The mail server at {host}:{port} can't be reached: {error}") from error
    with server:
        try:
            server.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as error:
            raise ToolFailed(f"The mail server refused the message: {error}") from error
