"""What a value is, by the look of it: good enough to notice a key in the wrong variable."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import jwt

from runhold.credentials import JWT, MODEL_KEY, PERSONAL_TOKEN, SECRET_KEY, WEBHOOK_SECRET


class Kind(StrEnum):
    """A kind of value; the text is how a sentence calls it."""

    SECRET_KEY = "a secret key of Supabase"
    PUBLISHABLE_KEY = "a publishable key of Supabase"
    SERVICE_JWT = "a JWT of role service_role"
    ANON_JWT = "a JWT of role anon"
    USER_JWT = "a user's JWT"
    WORKER_JWT = "a token for workers"
    OTHER_JWT = "a JWT"
    PERSONAL_TOKEN = "a personal access token of Supabase"
    MODEL_KEY = "a model provider's API key"
    WEBHOOK_SECRET = "a secret of webhooks"
    DATABASE = "a database's connection string"
    JWK = "a JSON Web Key"
    PEM = "a key or certificate in PEM format"
    MAIL_SERVER = "a mail server's URL"
    WEB_URL = "a web address"
    OTHER_URL = "a URL of another kind"
    OTHER = "none of these"


JWTS: Final = frozenset({Kind.SERVICE_JWT, Kind.ANON_JWT, Kind.USER_JWT, Kind.WORKER_JWT, Kind.OTHER_JWT})

SECRETS: Final = JWTS | {
    Kind.SECRET_KEY,
    Kind.PERSONAL_TOKEN,
    Kind.MODEL_KEY,
    Kind.WEBHOOK_SECRET,
    Kind.DATABASE,
    Kind.JWK,
    Kind.PEM,
    Kind.MAIL_SERVER,
}
"""Kinds that let somebody in, or may."""

_ROLES: Final = {
    "service_role": Kind.SERVICE_JWT,
    "anon": Kind.ANON_JWT,
    "authenticated": Kind.USER_JWT,
    "runhold_worker": Kind.WORKER_JWT,
}

_SCHEMES: Final = {
    "http": Kind.WEB_URL,
    "https": Kind.WEB_URL,
    "smtp": Kind.MAIL_SERVER,
    "smtps": Kind.MAIL_SERVER,
    "postgres": Kind.DATABASE,
    "postgresql": Kind.DATABASE,
}

_DSN: Final = re.compile(r"(?s)\s*\w+\s*=.*\bpassword\s*=|.*\bpassword\s*=.*\b(host|user|dbname)\s*=")


def kind_of(value: str) -> Kind:
    """Return what ``value`` looks like."""
    value = value.strip()
    for pattern, kind in (
        (SECRET_KEY, Kind.SECRET_KEY),
        (MODEL_KEY, Kind.MODEL_KEY),
        (PERSONAL_TOKEN, Kind.PERSONAL_TOKEN),
        (WEBHOOK_SECRET, Kind.WEBHOOK_SECRET),
    ):
        if pattern.fullmatch(value):
            return kind
    if value.startswith("sb_publishable_"):
        return Kind.PUBLISHABLE_KEY
    if JWT.fullmatch(value):
        return _kind_of_jwt(value)
    if value.startswith("-----BEGIN "):
        return Kind.PEM
    if re.match(r'[\[{].*"kty"', value, re.DOTALL):
        return Kind.JWK
    scheme, separator, _ = value.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        return _SCHEMES.get(scheme.lower().partition("+")[0], Kind.OTHER_URL)
    return Kind.DATABASE if _DSN.match(value) else Kind.OTHER


def passwords_in(value: str) -> tuple[str, ...]:
    """The password in a URL, or in ``user:password@host``: as it is written, and as it is sent."""
    try:
        password = urlsplit(value if "://" in value else f"//{value}").password
    except ValueError:
        password = value.rpartition("@")[0].partition("://")[2].partition(":")[2]
    return tuple(dict.fromkeys((password, unquote(password)))) if password else ()


def _kind_of_jwt(value: str) -> Kind:
    try:
        claims: dict[str, Any] = jwt.decode(value, options={"verify_signature": False})
    except jwt.PyJWTError:
        return Kind.OTHER
    return _ROLES.get(str(claims.get("role")), Kind.OTHER_JWT)
