"""What a worker is told from outside: the environment (and ``.env``), and the options of the command."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from runhold.credentials import HIDDEN
from runhold.environment import variables as names
from runhold.environment.file import find_env_file, read_env_file
from runhold.environment.kinds import passwords_in
from runhold.environment.variables import mistake
from runhold.errors import ConfigError
from runhold.runtime.smtp import SmtpServer, sender
from runhold.runtime.worker_token import WorkerToken, read_worker_token
from runhold.store.client import Access
from runhold.store.redact import split_keys

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

_NO_SECRET: Final = (
    f"Set {names.SECRET} to a secret key of the project (sb_secret_…), or {names.WORKER_TOKEN} to a token that "
    "`runhold worker-token` made."
)

SECRET_VARIABLES: Final = (
    names.SECRET,
    names.LEGACY_SECRET,
    names.WORKER_TOKEN,
    names.JWT_SECRET,
    names.SIGNING_KEY,
    names.SMTP_URL,
    names.REDACT_KEY,
)
"""What opens the project, or its mail server. Nothing but the worker itself needs it, nor the secrets of webhooks."""


_VARIABLES: Final[Mapping[str, Sequence[str]]] = {
    "url": (names.URL,),
    "secret_key": (names.SECRET, names.LEGACY_SECRET),
    "worker_token": (names.WORKER_TOKEN,),
    "publishable_key": (names.PUBLISHABLE, names.LEGACY_PUBLISHABLE),
    "jwt_secret": (names.JWT_SECRET,),
    "jwt_signing_key": (names.SIGNING_KEY,),
    "smtp_url": (names.SMTP_URL,),
    "mail_from": (names.MAIL_FROM,),
    "review_url": (names.REVIEW_URL,),
}
"""Field of the configuration → the variables that it comes from; the first that is set counts."""


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
    :ivar named: field → the variable that it comes from, for the sentence about a mistake.
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
    named: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

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
            path = find_env_file(Path.cwd())  # one that is made later is read, too
            options["env_file"] = str(path)
            environ = {**read_env_file(path), **os.environ}
        found = _fields(environ)
        if "url" not in found:
            missing = [f"Set {names.URL} to the project's URL, such as https://abcdefgh.supabase.co."]
            if not found.keys() & {"secret_key", "worker_token"}:
                missing.append(_NO_SECRET)
            raise ConfigError(" ".join(missing))
        return cls(
            **{field_name: value for field_name, (_, value) in found.items()},  # pyright: ignore[reportArgumentType]
            named={field_name: name for field_name, (name, _) in found.items()},
            redact_keys=split_keys(environ.get(names.REDACT_KEY, "")),
            webhook_secrets={
                name: value.strip()
                for name, value in environ.items()
                if name.startswith(names.WEBHOOK_SECRETS)
            },
            **{name: value for name, value in options.items() if value is not None},
        )

    def reread(self) -> WorkerConfig | None:
        """This configuration with the key or token that the environment file has now; None: nothing else is there.

        A file of another project is left alone.

        :raises ConfigError: no worker can work with what it has.
        """
        found = _fields(read_env_file(Path(self.env_file))) if self.env_file else {}
        _, url = found.get("url", ("", self.url))
        if url.rstrip("/") != self.url.rstrip("/"):
            return None
        keys = {
            name: found[name] for name in ("secret_key", "worker_token", "publishable_key") if name in found
        }
        other = replace(
            self,
            **{field_name: value for field_name, (_, value) in keys.items()},  # pyright: ignore[reportArgumentType]
            named={**self.named, **{field_name: name for field_name, (name, _) in keys.items()}},
        )
        return None if other.access == self.access else other

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
            *passwords_in(self.smtp_url or ""),
        )
        return tuple(key for key in keys if key)

    def hide_secrets(self, text: str) -> str:
        """``text`` without any of :attr:`secrets`."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def _mistakes(self) -> list[str]:
        mistakes = (
            (not self.secret_key and not self.worker_token, _NO_SECRET),
            (
                bool(self.worker_token) and not self.publishable_key,
                f"{names.WORKER_TOKEN} goes beside the project's publishable key: set {names.PUBLISHABLE}.",
            ),
            (
                not 1 <= self.capacity <= MAX_CAPACITY,
                f"The capacity is {self.capacity}: give a whole number from 1 to {MAX_CAPACITY}.",
            ),
            (self.lease_s < MIN_LEASE_S, f"The lease is {self.lease_s:g} s: give {MIN_LEASE_S:g} or more."),
            (self.grace_s < 0, f"The grace is {self.grace_s:g} s: give 0 or more."),
            (not self.give_up_s > 0, f"Giving up after {self.give_up_s:g} s is no time: give more than 0."),
            (
                not self.start_timeout_s >= 0,
                f"A start of {self.start_timeout_s:g} s is no time: give 0 or more.",
            ),
            (
                not self.poll_s >= MIN_POLL_S,
                f"Polls come every {self.poll_s:g} s: give {MIN_POLL_S:g} or more.",
            ),
        )
        return [*self._mistakes_in_variables(), *(sentence for wrong, sentence in mistakes if wrong)]

    def _mistakes_in_variables(self) -> list[str]:
        """What does not belong where it is, and what is wrong with the settings of mail."""
        values = {
            self.named.get(field_name, candidates[0]): getattr(self, field_name) or ""
            for field_name, candidates in _VARIABLES.items()
        }
        pairs = [*values.items(), *self.webhook_secrets.items()]
        pairs += [(names.REDACT_KEY, key) for key in (" ".join(self.redact_keys), *self.redact_keys)]
        found = {name: sentence for name, value in pairs if (sentence := mistake(name, value))}
        if self.smtp_url is not None:
            if self.mail_from is None and names.SMTP_URL not in found:
                found[names.MAIL_FROM] = f"Set {names.MAIL_FROM} to the address that mail comes from."
            try:
                SmtpServer.parse(self.smtp_url)
            except ValueError as error:
                found.setdefault(
                    names.SMTP_URL,
                    f"{names.SMTP_URL} must be like smtps://host:465 (user:password@ before the host), but {error}.",
                )
        if self.mail_from is not None:
            try:
                sender(self.mail_from)
            except ValueError as error:
                found.setdefault(names.MAIL_FROM, f"{names.MAIL_FROM} can't be used: {error}.")
        return [*found.values()]


def _fields(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Field → the variable that is set for it, and its value."""
    found: dict[str, tuple[str, str]] = {}
    for field_name, candidates in _VARIABLES.items():
        for name in candidates:
            if value := environ.get(name, "").strip():
                found.setdefault(field_name, (name, value))
    return found


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
