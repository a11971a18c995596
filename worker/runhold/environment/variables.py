"""The variables that Runhold reads, and what may stand in them.

What needs more than a look (an address of mail, a key to encrypt with) is checked where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from runhold.environment.kinds import JWTS, SECRETS, Kind, kind_of, passwords_in
from runhold.errors import ConfigError

URL: Final = "SUPABASE_URL"
SECRET: Final = "SUPABASE_SECRET_KEY"
LEGACY_SECRET: Final = "SUPABASE_SERVICE_ROLE_KEY"
PUBLISHABLE: Final = "SUPABASE_PUBLISHABLE_KEY"
LEGACY_PUBLISHABLE: Final = "SUPABASE_ANON_KEY"
JWT_SECRET: Final = "SUPABASE_JWT_SECRET"
SIGNING_KEY: Final = "SUPABASE_JWT_SIGNING_KEY"
WORKER_TOKEN: Final = "RUNHOLD_WORKER_TOKEN"
DATABASE_URL: Final = "RUNHOLD_DATABASE_URL"
REDACT_KEY: Final = "RUNHOLD_REDACT_KEY"
WEBHOOK_SECRETS: Final = "RUNHOLD_WEBHOOK_SECRET"
"""How the names of such variables begin."""
SMTP_URL: Final = "RUNHOLD_SMTP_URL"
MAIL_FROM: Final = "RUNHOLD_MAIL_FROM"
REVIEW_URL: Final = "RUNHOLD_REVIEW_URL"
EMAIL: Final = "RUNHOLD_EMAIL"
PASSWORD: Final = "RUNHOLD_PASSWORD"
MODEL: Final = "RUNHOLD_MODEL"
MODEL_KEY: Final = "OPENAI_API_KEY"
MODEL_URL: Final = "OPENAI_BASE_URL"
MODEL_ACCOUNT: Final = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
MODEL_HEADERS: Final = "OPENAI_CUSTOM_HEADERS"
PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NO_PROXY: Final = "NO_PROXY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """What may stand in a variable.

    :ivar give: what belongs there, after "give".
    :ivar refuses: kinds of values that do not belong there.
    :ivar check: what else is wrong with a value, after "NAME "; None: nothing.
    :ivar is_secret: whether the value must not be shown.
    """

    give: str
    refuses: frozenset[Kind]
    check: Callable[[str], str | None] | None = None
    is_secret: bool = False


def _key(value: str) -> str | None:
    return None if re.fullmatch(r"[!-~]+", value) else "holds characters that no key has"


def _web_address(value: str) -> str | None:
    """What is wrong with the value as an http(s) URL."""
    try:
        parts = urlsplit(value)
        _ = parts.port, httpx.URL(value)  # they raise if it is no port's number, or no host's name
    except (ValueError, httpx.InvalidURL):
        return "is not a URL that can be read"
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable() or " " in value:
        return "must start with http:// or https:// and name a host"
    return None


def _public_address(value: str) -> str | None:
    """Likewise, of a URL that is shown to people."""
    wrong = _web_address(value)
    if wrong is None and "@" in urlsplit(value).netloc:
        return "has a user name or a password"
    return wrong


def _project_url(value: str) -> str | None:
    wrong = _public_address(value)
    if wrong is None:
        parts = urlsplit(value)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            return "has more than a host"
    return wrong


def _proxy_address(value: str) -> str | None:
    address = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(address)
        usable = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    return None if usable else "can't be read as an address"


def _ascii(value: str) -> str | None:
    return None if value.isascii() else "holds characters that no header of HTTP may have"


def _one_line(value: str) -> str | None:
    return None if value.isprintable() else "holds a line break or another control character"


def _all_but(*kinds: Kind) -> frozenset[Kind]:
    """All kinds that can be told apart, without those."""
    return frozenset(Kind) - {Kind.OTHER, *kinds}


_PASSWORD_LIKE: Final = SECRETS | {Kind.PUBLISHABLE_KEY}

_SECRET_KEY: Final = Variable(
    give="a secret key of the project (sb_secret_…)",
    refuses=_all_but(Kind.SECRET_KEY, Kind.SERVICE_JWT, Kind.OTHER_JWT),
    check=_key,
    is_secret=True,
)
_PUBLISHABLE_KEY: Final = Variable(
    give="the project's publishable key (sb_publishable_…), since tools and browsers get it",
    refuses=_all_but(Kind.PUBLISHABLE_KEY, Kind.ANON_JWT, Kind.OTHER_JWT),
    check=_key,
)
_HEADER: Final = Variable(give="the id that the provider's dashboard shows", refuses=_all_but(), check=_key)
_PROXY: Final = Variable(
    give="the proxy's address, such as http://proxy.example.com:3128",
    refuses=_PASSWORD_LIKE - {Kind.DATABASE, Kind.MAIL_SERVER},  # a URL of another scheme: the client says so
    check=_proxy_address,
    is_secret=True,
)

VARIABLES: Final[Mapping[str, Variable]] = {
    URL: Variable(
        give="the project's URL, such as https://abcdefgh.supabase.co, without a path",
        refuses=_all_but(Kind.WEB_URL),
        check=_project_url,
    ),
    SECRET: _SECRET_KEY,
    LEGACY_SECRET: _SECRET_KEY,
    PUBLISHABLE: _PUBLISHABLE_KEY,
    LEGACY_PUBLISHABLE: _PUBLISHABLE_KEY,
    JWT_SECRET: Variable(
        give="the project's JWT secret, which is a plain text", refuses=_all_but(), is_secret=True
    ),
    SIGNING_KEY: Variable(
        give="the JSON that `supabase gen signing-key` prints", refuses=_all_but(Kind.JWK), is_secret=True
    ),
    WORKER_TOKEN: Variable(
        give="what `runhold worker-token` prints", refuses=_all_but(*JWTS), check=_key, is_secret=True
    ),
    DATABASE_URL: Variable(
        give="the connection string of role postgres", refuses=_all_but(Kind.DATABASE), is_secret=True
    ),
    REDACT_KEY: Variable(give="a key of workers, made for this", refuses=_all_but(), is_secret=True),
    WEBHOOK_SECRETS: Variable(
        give="whsec_ and base64 of 24 bytes or more", refuses=_all_but(Kind.WEBHOOK_SECRET), is_secret=True
    ),
    SMTP_URL: Variable(
        give="the mail server's, such as smtps://host:465, with user:password@ before the host",
        refuses=_all_but(Kind.MAIL_SERVER),
        is_secret=True,
    ),
    MAIL_FROM: Variable(
        give="an address that mail comes from, such as Runhold <runhold@example.org>",
        refuses=_all_but(),
        check=_one_line,
    ),
    REVIEW_URL: Variable(
        give="a link for reviewers, such as https://example.org/reviews/{review_id}",
        refuses=_all_but(Kind.WEB_URL),
        check=_public_address,
    ),
    EMAIL: Variable(
        give="the e-mail address of who signs in",
        refuses=_all_but(),
        check=lambda value: None if re.fullmatch(r"[^\s@:/]+@[^\s@:/]+", value) else "is no e-mail address",
    ),
    PASSWORD: Variable(give="the password of who signs in", refuses=_PASSWORD_LIKE, is_secret=True),
    MODEL: Variable(give="a model's name, such as gpt-5-mini", refuses=_all_but(), check=_one_line),
    MODEL_KEY: Variable(
        give="the model provider's API key",
        refuses=_all_but(Kind.MODEL_KEY, Kind.OTHER_JWT),  # gateways in front of models take JWTs, too
        check=_key,
        is_secret=True,
    ),
    MODEL_URL: Variable(
        give="the URL of a model provider, such as https://api.openai.com/v1",
        refuses=_all_but(Kind.WEB_URL),
        check=_web_address,
    ),
    **dict.fromkeys(MODEL_ACCOUNT, _HEADER),
    MODEL_HEADERS: Variable(
        give="lines of NAME: value in ASCII", refuses=_all_but(), check=_ascii, is_secret=True
    ),
    **dict.fromkeys(PROXIES, _PROXY),
    NO_PROXY: Variable(
        give="hosts and domains that are reached without a proxy", refuses=_PASSWORD_LIKE | {Kind.OTHER_URL}
    ),
}

_HOMES: Final[Mapping[Kind, str]] = {
    Kind.SECRET_KEY: SECRET,
    Kind.SERVICE_JWT: LEGACY_SECRET,
    Kind.PUBLISHABLE_KEY: PUBLISHABLE,
    Kind.ANON_JWT: LEGACY_PUBLISHABLE,
    Kind.WORKER_JWT: WORKER_TOKEN,
    Kind.MODEL_KEY: MODEL_KEY,
    Kind.JWK: SIGNING_KEY,
    Kind.WEBHOOK_SECRET: WEBHOOK_SECRETS,
    Kind.MAIL_SERVER: SMTP_URL,
}
"""Where a kind belongs."""

_LOWER: Final = frozenset(name.lower() for name in (*PROXIES, NO_PROXY))
"""Names that other programs write in lower case, too."""

_MIN_KEY_CHARS: Final = 12
"""No provider's key is shorter. Model servers on one's own machine take any word, and words are no secrets."""

_MIN_SECRET_CHARS: Final = 6
"""Likewise, of passwords."""


def variable(name: str) -> Variable | None:
    """What may stand in the variable ``name``; None if Runhold does not read it."""
    if name.startswith(WEBHOOK_SECRETS):
        return VARIABLES[WEBHOOK_SECRETS]
    return VARIABLES.get(name.upper() if name in _LOWER else name)


def mistake(name: str, value: str) -> str | None:
    """One sentence about a value that does not belong into the variable ``name``, without the value; None: it may."""
    known = variable(name)
    if known is None or not value:
        return None
    kind = kind_of(value)
    if kind in known.refuses:
        home = _HOMES.get(kind)
        where = f", which belongs into {home}" if home is not None and home != name else ""
        return f"{name} is {kind}{where}: give {known.give}."
    wrong = known.check(value) if known.check is not None else None
    return None if wrong is None else f"{name} {wrong}: give {known.give}."


def mistakes(environ: Mapping[str, str], names: Iterable[str] | None = None) -> list[str]:
    """A sentence for each variable that holds what does not belong there.

    :param names: the variables to look at; all without.
    """
    looked_at = environ if names is None else names
    found = (mistake(name, environ.get(name, "").strip()) for name in looked_at)
    return [sentence for sentence in found if sentence is not None]


def require(environ: Mapping[str, str], *names: str) -> None:
    """Refuse values that do not belong into the variables ``names``.

    :raises ConfigError: one sentence for each.
    """
    found = mistakes(environ, names)
    if found:
        raise ConfigError(" ".join(found))


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """Everything in the environment that no output may show: by the variable's name, or by the look of the value."""
    found: set[str] = set()
    for name, value in environ.items():
        known, value = variable(name), value.strip()
        least = _MIN_KEY_CHARS if name == MODEL_KEY else _MIN_SECRET_CHARS
        if len(value) >= least and ((known is not None and known.is_secret) or kind_of(value) in SECRETS):
            found.add(value)
        if "@" in value:
            found.update(text for text in passwords_in(value) if len(text) >= _MIN_SECRET_CHARS)
    return frozenset(found)
