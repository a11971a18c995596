"""The ways to tell reviewers that a worker has by its configuration."""

from __future__ import annotations

from urllib.parse import urlsplit

from runhold.runtime.config import WorkerConfig
from runhold.runtime.email import Email
from runhold.runtime.hosts import is_loopback
from runhold.runtime.notifications import Channel
from runhold.runtime.smtp import SmtpServer, sender
from runhold.runtime.webhook import Webhook


def channels_of(config: WorkerConfig) -> list[Channel]:
    """Webhooks always; e-mail if there is a mail server. Opens nothing."""
    development = is_loopback(urlsplit(config.url).hostname or "")
    email = email_of(config)
    return [
        Webhook(config.webhook_secrets, development=development),
        *([] if email is None else [email]),
    ]


def email_of(config: WorkerConfig) -> Email | None:
    """E-mail through the worker's mail server, if it has one."""
    if config.smtp_url is None or config.mail_from is None:
        return None
    return Email(SmtpServer.parse(config.smtp_url), sender(config.mail_from), review_url=config.review_url)
