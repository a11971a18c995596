"""Where a worker's mail goes, and from whom it comes: what ``RUNHOLD_SMTP_URL`` and ``RUNHOLD_MAIL_FROM`` say."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from runhold.runtime.hosts import is_loopback

_PORTS: Final = {"smtps": 465, "smtp": 587}

Encryption = Literal["tls", "starttls", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmtpServer:
    """A mail server that takes what we send.

    :ivar encryption: ``tls`` from the first byte; ``starttls``: before anything else, and nothing goes out if it is
        refused; ``none`` only to this machine.
    """

    host: str
    port: int
    encryption: Encryption
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> SmtpServer:
        """Read ``smtps://user:password@host:465`` or ``smtp://user:password@host:587``.

        :raises ValueError: it is none; nothing of it is in the text.
        """
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            raise ValueError("it can't be read") from None
        if parts.scheme not in _PORTS or not host or any(not 32 < ord(char) < 127 for char in host):
            raise ValueError("it names no server")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("something follows the server (in a password, / ? # @ are %2F %3F %23 %40)")
        if bool(parts.username) != bool(parts.password):
            raise ValueError("user and password come together")
        plain: Encryption = "none" if is_loopback(host) else "starttls"
        return cls(
            host=host,
            port=port or _PORTS[parts.scheme],
            encryption="tls" if parts.scheme == "smtps" else plain,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


def sender(text: str) -> Address:
    """Read ``runhold@example.org`` or ``Runhold <runhold@example.org>``.

    :raises ValueError: it is no single address.
    """
    message = EmailMessage(SMTP)
    try:
        message["From"] = text
    except IndexError:  # the parser's own, on "me@"
        raise ValueError("it is no e-mail address") from None
    header = message["From"]
    if header.defects or len(header.addresses) != 1 or not all(header.addresses[0].addr_spec.partition("@")):
        raise ValueError("it is no e-mail address")
    address: Address = header.addresses[0]
    if not address.addr_spec.isascii():
        raise ValueError("only ASCII is understood by every mail server")
    return address
