"""An agent that sends one mail."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from typing import Any

from runhold import Agent, tool
from runhold.testing import call, say


@tool
def post() -> str:
    """Send a mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "us@example.org", "ada@example.org", "Hello"
    with smtplib.SMTP(os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"])) as server:
        server.send_message(mail)
    return "sent"


agent = Agent(type="postman", version="1", model="scripted", instructions="Send the mail.", tools=[post])


def script(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """Send it, then say so."""
    return say("Sent.") if messages[-1]["role"] == "tool" else call("post", {})
