"""What a worker is told from outside: the environment (and ``.env``), and the options of the command."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values, find_dotenv

from runhold.errors import ConfigError
from runhold.runtime.smtp import SmtpServer, sender

DEFAULT_CAPACITY: Final = 64
"""Runs at once. They wait for models and tools nearly all the time, so one process can hold many."""

DEFAULT_LEASE_S: Final = 30.0
"""How long a worker that fell silent keeps its runs: renewed every third of it, so two renewals may fail."""

DEFAULT_GRACE_S: Final = 25.0
"""Seconds from SIGTERM for runs to reach the end of a step: with the goodbye it fits into the 30 s after which
Kubernetes, Fly and systemd kill."""

DEFAULT_POLL_S: Final = 2.0
"""Between looks for work while Realtime is not heard: what a run then waits at most."""

MIN_POLL_S: Final = 0.05
MIN_LEASE_S: Final = 1.0
MAX_CAPACITY: Final = 1000
"""The most that one claim may take, and far beyond what one Python process can serve well."""

_URL: Final = "SUPABASE_URL"
_SECRET: Final = "SUPABASE_SECRET_KEY"
_LEGACY_SECRET: Final = "SUPABASE_SERVICE_ROLE_KEY"
_WEBHOOK_SECRET: Final = "RUNHOLD_WEBHOOK_SECRET"
_SMTP_URL: Final = "RUNHOLD_SMTP_URL"
_MAIL_FROM: Final = "RUNHOLD_MAIL_FROM"
_REVIEW_URL: Final = "RUNHOLD_REVIEW_URL"


SECRET_VARIABLES: Final = (_SECRET, _LEGACY_SECRET, "SUPABASE_JWT_SECRET", "SUPABASE_JWT_SIGNING_KEY", _SMTP_URL)
"""What opens the whole project. Nothing but the worker itself needs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Everything a worker process needs to know. Validated when built.

    :ivar url: the project's URL.
    :ivar secret_key: the worker's own secret key (``sb_secret_…``); never shown.
    :ivar publishable_key: the key that goes with tokens of users; only ``ctx.supabase`` needs it.
    :ivar jwt_secret: the project's legacy HS256 secret, to act as users with; or
    :ivar jwt_signing_key: a private JWK (ES256 or RS256) of the project, as a JSON text, for the same purpose.
    :ivar tenant_claim: the member of a token's ``app_metadata`` that names the tenant.
    :ivar capacity: runs at once.
    :ivar lease_s: seconds after which the runs of a worker that fell silent go to others.
    :ivar grace_s: seconds from the first SIGTERM for runs to reach the end of a step.
    :ivar poll_s: seconds between looks for work while Realtime is not heard, or not used.
    :ivar realtime: wake up by Supabase Realtime and send progress there; without it, by polling alone.
    :ivar webhook_secrets: the variables ``RUNHOLD_WEBHOOK_SECRET…``, by name: what webhooks of reviews are signed with.
    :ivar smtp_url: the mail server for messages to reviewers, with user and password; without it, e-mail is left to
        other workers.
    :ivar mail_from: what those mails come from.
    :ivar review_url: a link for people, with ``{review_id}`` and ``{execution_id}`` filled in.
    :raises ConfigError: one sentence per mistake.
    """

    url: str
    secret_key: str = field(repr=False)
    publishable_key: str | None = field(default=None, repr=False)
    jwt_secret: str | None = field(default=None, repr=False)
    jwt_signing_key: str | None = field(default=None, repr=False)
    tenant_claim: str = "tenant_id"
    capacity: int = DEFAULT_CAPACITY
    lease_s: float = DEFAULT_LEASE_S
    grace_s: float = DEFAULT_GRACE_S
    poll_s: float = DEFAULT_POLL_S
    realtime: bool = True
    webhook_secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    smtp_url: str | None = field(default=None, repr=False)
    mail_from: str | None = None
    review_url: str | None = None

    def __post_init__(self) -> None:
        mistakes = [*self._mistakes()]
        if mistakes:
            raise ConfigError(" ".join(mistakes))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> WorkerConfig:
        """Read the environment; what it does not say, a file ``.env`` here or above may.

        :param options: fields that the command line sets; None leaves the default.
        :raises ConfigError: what is missing or wrong, one sentence each.
        """
        if environ is None:
            file = {key: value for key, value in dotenv_values(find_dotenv(usecwd=True)).items() if value}
            environ = {**file, **os.environ}

        def read(*names: str) -> str | None:
            found = (environ.get(name, "").strip() for name in names)
            return next((value for value in found if value), None)

        url, secret = read(_URL), read(_SECRET, _LEGACY_SECRET)
        missing = [
            sentence
            for value, sentence in (
                (url, f"Set {_URL} to the project's URL, such as https://abcdefgh.supabase.co."),
                (secret, f"Set {_SECRET} to a secret key of the project (sb_secret_…)."),
            )
            if value is None
        ]
        if url is None or secret is None:
            raise ConfigError(" ".join(missing))
        return cls(
            url=url,
            secret_key=secret,
            publishable_key=read("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY"),
            jwt_secret=read("SUPABASE_JWT_SECRET"),
            jwt_signing_key=read("SUPABASE_JWT_SIGNING_KEY"),
            tenant_claim=read("RUNHOLD_TENANT_CLAIM") or "tenant_id",
            webhook_secrets={
                name: value.strip() for name, value in environ.items() if name.startswith(_WEBHOOK_SECRET)
            },
            smtp_url=read(_SMTP_URL),
            mail_from=read(_MAIL_FROM),
            review_url=read(_REVIEW_URL),
            **{name: value for name, value in options.items() if value is not None},
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        keys = (
            self.secret_key,
            self.jwt_secret,
            self.jwt_signing_key,
            *_private_members(self.jwt_signing_key),
            *self.webhook_secrets.values(),
            self.smtp_url,
            *_passwords(self.smtp_url),
        )
        return tuple(key for key in keys if key)

    def _mistakes(self) -> list[str]:
        return [
            sentence
            for wrong, sentence in (
                (not _is_project_url(self.url), f"{_URL} is {self.url!r}: give https://… without a path."),
                (not _is_key(self.secret_key), f"{_SECRET} holds characters that no key has: copy it again."),
                (
                    self.secret_key.startswith("sb_publishable_"),
                    f"{_SECRET} is a publishable key: a worker needs a secret one (sb_secret_…).",
                ),
                (
                    self.publishable_key is not None and self.publishable_key.startswith("sb_secret_"),
                    "SUPABASE_PUBLISHABLE_KEY is a secret key: tools would get it. Give the publishable one.",
                ),
                (not 1 <= self.capacity <= MAX_CAPACITY, f"The capacity is {self.capacity}: give a whole "
                 f"number from 1 to {MAX_CAPACITY}."),
                (self.lease_s < MIN_LEASE_S, f"The lease is {self.lease_s:g} s: give {MIN_LEASE_S:g} or more."),
                (self.grace_s < 0, f"The grace is {self.grace_s:g} s: give 0 or more."),
                (not self.poll_s >= MIN_POLL_S, f"Polls come every {self.poll_s:g} s: give {MIN_POLL_S:g} or more."),
            )
            if wrong
        ] + self._mistakes_in_mail()  # fmt: skip

    def _mistakes_in_mail(self) -> list[str]:
        found: list[str] = []
        if self.smtp_url is not None:
            try:
                SmtpServer.parse(self.smtp_url)
            except ValueError as error:
                found.append(f"{_SMTP_URL} must be like smtps://user:password@host:465, but {error}.")
            if self.mail_from is None:
                found.append(f"Set {_MAIL_FROM} to the address that mail comes from.")
        if self.mail_from is not None:
            try:
                sender(self.mail_from)
            except ValueError as error:
                found.append(f"{_MAIL_FROM} is {self.mail_from!r}: {error}.")
        if self.review_url is not None and not re.fullmatch(r"https?://[!-~]+", self.review_url):
            found.append(
                f"{_REVIEW_URL} is {self.review_url!r}: give https://… such as https://example.org/reviews/{{review_id}}."
            )
        return found


def _passwords(smtp_url: str | None) -> tuple[str, ...]:
    """As it is sent, and as the URL has it, which somebody might log without the rest."""
    if smtp_url is None:
        return ()
    try:
        written = urlsplit(smtp_url).password
    except ValueError:
        return ()
    return (written, unquote(written)) if written else ()


def _private_members(jwk: str | None) -> tuple[str, ...]:
    """The numbers of a private JWK, which somebody might log without the rest."""
    try:
        members: Any = json.loads(jwk or "null")
    except ValueError:
        return ()
    if not isinstance(members, dict):
        return ()
    named = cast("dict[str, Any]", members)
    return tuple(str(named[name]) for name in ("d", "p", "q", "dp", "dq", "qi", "k") if named.get(name))


def _is_project_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is no port's number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")


def _is_key(key: str) -> bool:
    return re.fullmatch(r"[!-~]+", key) is not None
