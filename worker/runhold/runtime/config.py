"""What a worker is told from outside: the environment (and ``.env``), and the options of the command."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values, find_dotenv

from runhold.credentials import HIDDEN
from runhold.errors import ConfigError
from runhold.runtime.smtp import SmtpServer, sender
from runhold.runtime.worker_token import WorkerToken, read_worker_token
from runhold.store.client import Access
from runhold.store.redact import REDACT_KEY, split_keys

DEFAULT_CAPACITY: Final = 64
"""Runs at once. They wait for models and tools nearly all the time, so one process can hold many."""

DEFAULT_LEASE_S: Final = 30.0
"""How long a worker that fell silent keeps its runs: renewed every third of it, so two renewals may fail."""

DEFAULT_GRACE_S: Final = 25.0
"""Seconds from SIGTERM for runs to reach the end of a step: with the goodbye it fits into the 30 s after which
Kubernetes, Fly and systemd kill."""

DEFAULT_POLL_S: Final = 2.0
"""Between looks for work while Realtime is not heard: what a run then waits at most."""

DEFAULT_GIVE_UP_S: Final = 600.0
"""How long a key or token may be rejected before a worker that was ready ends."""

DEFAULT_START_TIMEOUT_S: Final = 60.0
"""How long a starting worker waits for the project to answer and to take its key."""

MIN_POLL_S: Final = 0.05
MIN_LEASE_S: Final = 1.0
MAX_CAPACITY: Final = 1000
"""The most that one claim may take, and far beyond what one Python process can serve well."""

_URL: Final = "SUPABASE_URL"
_SECRET: Final = "SUPABASE_SECRET_KEY"
_LEGACY_SECRET: Final = "SUPABASE_SERVICE_ROLE_KEY"
_PUBLISHABLE: Final = "SUPABASE_PUBLISHABLE_KEY"
_ANON: Final = "SUPABASE_ANON_KEY"
_WORKER_TOKEN: Final = "RUNHOLD_WORKER_TOKEN"
_WEBHOOK_SECRET: Final = "RUNHOLD_WEBHOOK_SECRET"
_SMTP_URL: Final = "RUNHOLD_SMTP_URL"
_MAIL_FROM: Final = "RUNHOLD_MAIL_FROM"
_REVIEW_URL: Final = "RUNHOLD_REVIEW_URL"

_NO_SECRET: Final = (
    f"Set {_SECRET} to a secret key of the project (sb_secret_…), or {_WORKER_TOKEN} to a token that "
    "`runhold worker-token` made."
)

SECRET_VARIABLES: Final = (
    _SECRET,
    _LEGACY_SECRET,
    _WORKER_TOKEN,
    "SUPABASE_JWT_SECRET",
    "SUPABASE_JWT_SIGNING_KEY",
    _SMTP_URL,
    REDACT_KEY,
)
"""What opens the project, or its mail server. Nothing but the worker itself needs it, nor the secrets of webhooks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Everything a worker process needs to know. Validated when built.

    :ivar url: the project's URL.
    :ivar secret_key: the worker's own secret key (``sb_secret_…``); never shown. Not used if there is a token.
    :ivar worker_token: a JWT of role ``runhold_worker``, which may do less; never shown.
    :ivar publishable_key: the key that goes with tokens: the worker's, and those of users for ``ctx.supabase``.
    :ivar jwt_secret: the project's legacy HS256 secret, to act as users with; or
    :ivar jwt_signing_key: a private JWK (ES256 or RS256) of the project, as a JSON text, for the same purpose.
    :ivar capacity: runs at once.
    :ivar lease_s: seconds after which the runs of a worker that fell silent go to others.
    :ivar grace_s: seconds from the first SIGTERM for runs to reach the end of a step.
    :ivar poll_s: seconds between looks for work while Realtime is not heard, or not used.
    :ivar realtime: wake up by Supabase Realtime and send progress there; without it, by polling alone.
    :ivar give_up_s: seconds for which the key or token may be rejected before a worker that was ready ends.
    :ivar start_timeout_s: seconds for which a starting worker repeats what fails.
    :ivar env_file: the file from which a rotated key or token is read; None: there is none.
    :ivar redact_keys: Fernet keys for redacted fields, newest first: the first encrypts, all decrypt.
    :ivar webhook_secrets: the variables ``RUNHOLD_WEBHOOK_SECRET…``, by name: what webhooks of reviews are signed with.
    :ivar smtp_url: the mail server for messages to reviewers, with user and password; without it, e-mail is left to
        other workers.
    :ivar mail_from: what those mails come from.
    :ivar review_url: a link for people, with ``{review_id}`` and ``{execution_id}`` filled in.
    :raises ConfigError: one sentence per mistake.
    """

    url: str
    secret_key: str | None = field(default=None, repr=False)
    worker_token: str | None = field(default=None, repr=False)
    publishable_key: str | None = field(default=None, repr=False)
    jwt_secret: str | None = field(default=None, repr=False)
    jwt_signing_key: str | None = field(default=None, repr=False)
    capacity: int = DEFAULT_CAPACITY
    lease_s: float = DEFAULT_LEASE_S
    grace_s: float = DEFAULT_GRACE_S
    poll_s: float = DEFAULT_POLL_S
    realtime: bool = True
    give_up_s: float = DEFAULT_GIVE_UP_S
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    env_file: str | None = None
    redact_keys: Sequence[str] = field(default=(), repr=False)
    webhook_secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    smtp_url: str | None = field(default=None, repr=False)
    mail_from: str | None = None
    review_url: str | None = None

    def __post_init__(self) -> None:
        mistakes = [*self._mistakes()]
        if mistakes:
            raise ConfigError(" ".join(mistakes))
        self.token()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> WorkerConfig:
        """Read the environment; what it does not say, a file ``.env`` here or above may.

        :param options: fields that the command line sets; None leaves the default.
        :raises ConfigError: what is missing or wrong, one sentence each.
        """
        if environ is None:
            path = find_dotenv(usecwd=True) or os.path.abspath(".env")  # one that is made later is read, too
            options["env_file"] = path
            environ = {**_file_values(path), **os.environ}

        def read(*names: str) -> str | None:
            found = (environ.get(name, "").strip() for name in names)
            return next((value for value in found if value), None)

        url, token, secret = read(_URL), read(_WORKER_TOKEN), read(_SECRET, _LEGACY_SECRET)
        if url is None:
            missing = [f"Set {_URL} to the project's URL, such as https://abcdefgh.supabase.co."]
            if not secret and not token:
                missing.append(_NO_SECRET)
            raise ConfigError(" ".join(missing))
        return cls(
            url=url,
            secret_key=secret,
            worker_token=token,
            publishable_key=read(_PUBLISHABLE, _ANON),
            jwt_secret=read("SUPABASE_JWT_SECRET"),
            jwt_signing_key=read("SUPABASE_JWT_SIGNING_KEY"),
            redact_keys=split_keys(read(REDACT_KEY) or ""),
            webhook_secrets={
                name: value.strip() for name, value in environ.items() if name.startswith(_WEBHOOK_SECRET)
            },
            smtp_url=read(_SMTP_URL),
            mail_from=read(_MAIL_FROM),
            review_url=read(_REVIEW_URL),
            **{name: value for name, value in options.items() if value is not None},
        )

    def reread(self) -> WorkerConfig | None:
        """This configuration with the key or token that the environment file has now; None: nothing else is there.

        A file of another project is left alone.

        :raises ConfigError: no worker can work with what it has.
        """
        values = _file_values(self.env_file) if self.env_file else {}
        url = values.get(_URL, "").strip()
        if url and url.rstrip("/") != self.url.rstrip("/"):
            return None
        secret = values.get(_SECRET) or values.get(_LEGACY_SECRET)
        found = replace(
            self,
            secret_key=secret.strip() if secret else self.secret_key,
            worker_token=values.get(_WORKER_TOKEN, "").strip() or self.worker_token,
            publishable_key=(values.get(_PUBLISHABLE) or values.get(_ANON) or "").strip()
            or self.publishable_key,
        )
        return None if found.access == self.access else found

    @property
    def access(self) -> Access:
        """What the worker presents: its token beside the publishable key, else its secret key."""
        if self.worker_token and self.publishable_key:
            return Access(self.publishable_key, self.worker_token)
        return Access(self.secret_key or "")

    def token(self) -> WorkerToken | None:
        """What the worker's token says, if it has one.

        :raises ConfigError: it ended meanwhile.
        """
        return read_worker_token(self.worker_token, now=time.time()) if self.worker_token else None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        keys = (
            self.secret_key,
            self.worker_token,
            self.jwt_secret,
            self.jwt_signing_key,
            *_private_members(self.jwt_signing_key),
            *self.redact_keys,
            *self.webhook_secrets.values(),
            self.smtp_url,
            *_passwords(self.smtp_url),
        )
        return tuple(key for key in keys if key)

    def hide_secrets(self, text: str) -> str:
        """``text`` without any of :attr:`secrets`."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def _mistakes(self) -> list[str]:
        return [
            sentence
            for wrong, sentence in (
                (not _is_project_url(self.url), f"{_URL} is {self.url!r}: give https://… without a path."),
                (not self.secret_key and not self.worker_token, _NO_SECRET),
                (
                    bool(self.worker_token) and not self.publishable_key,
                    f"{_WORKER_TOKEN} goes beside the project's publishable key: set {_PUBLISHABLE}, too.",
                ),
                (not _is_key(self.secret_key or "-"), f"{_SECRET} holds characters that no key has: copy it again."),
                (
                    (self.secret_key or "").startswith("sb_publishable_"),
                    f"{_SECRET} is a publishable key: a worker needs a secret one (sb_secret_…).",
                ),
                (
                    self.publishable_key is not None and self.publishable_key.startswith("sb_secret_"),
                    f"{_PUBLISHABLE} is a secret key: tools would get it. Give the publishable one.",
                ),
                (not 1 <= self.capacity <= MAX_CAPACITY, f"The capacity is {self.capacity}: give a whole "
                 f"number from 1 to {MAX_CAPACITY}."),
                (self.lease_s < MIN_LEASE_S, f"The lease is {self.lease_s:g} s: give {MIN_LEASE_S:g} or more."),
                (self.grace_s < 0, f"The grace is {self.grace_s:g} s: give 0 or more."),
                (not self.give_up_s > 0, f"Giving up after {self.give_up_s:g} s is no time: give more than 0."),
                (not self.start_timeout_s >= 0, f"A start of {self.start_timeout_s:g} s is no time: give 0 or more."),
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


def _file_values(path: str) -> dict[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path).items() if value}
    except (OSError, ValueError):  # it is being written, or is no file of text
        return {}


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
