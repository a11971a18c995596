"""What an answer to a call of a database function means: the one classification that all callers use.

Between a worker and PostgREST there may be Supabase's API gateway, a CDN, a web application firewall and a proxy. Each
of them can answer in PostgREST's place. Only JSON in the shape that PostgREST gives it is an answer from PostgREST;
everything else says nothing about the key, about functions of the database, or about what happened to the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from typing import Any, Final, Literal, TypeVar, cast

import httpx
from pydantic_core import from_json

from runhold.credentials import hide_credentials
from runhold.errors import (
    APPLY_MIGRATIONS,
    ConfigError,
    KeyRejected,
    Refused,
    StoreError,
    StoreUnavailable,
    WorkerDead,
)

T = TypeVar("T")

Fault = Literal["key", "schema", "gateway", "database", "request", "worker"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of failure.

    :ivar meaning: for people: what it is.
    :ivar fault: who has to change for the call to succeed.
    :ivar is_passing: whether the same call may succeed later.
    """

    meaning: str
    fault: Fault
    is_passing: bool


NO_ANSWER: Final = Kind("no HTTP answer: refused, cut, timed out, no such host", "gateway", True)
GATEWAY: Final = Kind("an answer that is not from PostgREST", "gateway", True)
UNREADABLE: Final = Kind("success in a shape that the worker does not expect", "gateway", True)
KEY: Final = Kind("the key or token was rejected", "key", True)
SCHEMA: Final = Kind("a function, table, role or right is missing: a migration or restore", "schema", True)
DATABASE: Final = Kind("the database can't now: starting, read-only, full, overloaded", "database", True)
DATA: Final = Kind("what the request holds can't be stored, or breaks a rule", "request", False)
LIMIT: Final = Kind("a limit of the database, perhaps because of what the request holds", "request", True)
DEAD: Final = Kind("this worker was declared dead", "worker", False)

KINDS: Final[tuple[tuple[str, Kind], ...]] = (
    # by the longest prefix of the SQLSTATE or PGRST code
    ("RH012", DEAD),
    ("RH", DATA),
    ("21", DATA),
    ("22", DATA),
    ("23", DATA),
    ("54", LIMIT),
    ("P0", DATA),
    ("PGRST102", DATA),
    ("3F", SCHEMA),
    ("42", SCHEMA),
    ("PGRST1", SCHEMA),
    ("PGRST2", SCHEMA),
    ("PGRST301", KEY),
    ("PGRST302", KEY),
    ("PGRST303", KEY),
    ("", DATABASE),
)
"""Code → kind. What is in no row is a fault of the database that may pass: nothing is taken for final unproven."""

_MISSING_ROLE: Final = re.compile(r'role "[^"]*" does not exist')
"""22023 with this message: PostgREST can't become the role in the token, which no migration has made yet."""

MISSING_FUNCTION: Final = "PGRST202"
_NO_RIGHT: Final = frozenset({"42501", "22023"})

_CODE: Final = re.compile(r"[0-9A-Z]{5}|PGRST(\d{3}|X\d\d)")
_SHAPE: Final = frozenset({"code", "message", "details", "hint"})

_SUPABASE_GATEWAY: Final = re.compile(r"(?i)\bapi key\b|invalid authentication credentials")
"""How Supabase's own API gateway words a 401: "Invalid API key", "No API key found in request", and, on self-hosted
installations, Kong's "Invalid authentication credentials"."""

_NEVER_CONTENT: Final = frozenset({401, 402, 407, 408, 425, 429})
"""Of the statuses below 500, those that are about who asks, or how often, and never about what was sent."""

_FIRST_LINE_CHARS: Final = 120
_PAGE_CHARS: Final = 4000


class GatewayAnswer(StoreUnavailable):
    """Something between the worker and PostgREST answered: nobody knows what happened to the call.

    :ivar status: the HTTP status.
    :ivar says: how the answer begins, in plain words: letters, digits and a few signs.
    :ivar is_json: whether it is a JSON object with a message, as gateways write it, and no page.
    :ivar retry_after_s: seconds, from the ``Retry-After`` header, if it has one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        says: str,
        is_json: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.says = says
        self.is_json = is_json
        self.retry_after_s = retry_after_s

    @property
    def may_be_about_content(self) -> bool:
        """Whether it may be what the request holds that was rejected: a firewall's page, a limit of size."""
        return self.status < 500 and self.status not in _NEVER_CONTENT

    @property
    def is_of_a_web_server(self) -> bool:
        """Whether a web server that is no Supabase project would answer so: a page, a redirect for good."""
        return self.status in (301, 308, 405) or (
            (self.status == 404 or self.status < 300) and not self.is_json
        )


class UnreadableAnswer(StoreUnavailable):
    """The call was answered with success, in JSON that is not what the function answers."""


def kind_of(error: StoreError) -> Kind:
    """The kind of a failure."""
    match error:
        case KeyRejected():
            return KEY
        case Refused():
            if error.code == "22023" and _MISSING_ROLE.search(str(error)):
                return SCHEMA
            return max((row for row in KINDS if error.code.startswith(row[0])), key=lambda row: len(row[0]))[
                1
            ]
        case GatewayAnswer():
            return GATEWAY
        case UnreadableAnswer():
            return UNREADABLE
        case StoreUnavailable():
            return NO_ANSWER
        case _:
            return UNREADABLE


def is_retryable(error: BaseException) -> bool:
    """Whether repeating the same idempotent database call may succeed without a change to it."""
    return isinstance(error, StoreError) and kind_of(error).is_passing


def read_answer(name: str, response: httpx.Response, read: Callable[[Any], T]) -> T:
    """What the function ``name`` answered.

    :param read: checks the JSON and makes the value of it. None stands for PostgREST's 204 of a function that
        answers nothing.
    :raises StoreError: it is no success, or not from PostgREST; :func:`kind_of` says what it is.
    """
    body = _json(response)
    if not response.is_success:
        raise _failure(name, response, body)
    if response.status_code != 204 and body is None:
        raise _not_postgrest(name, response)
    try:
        return read(body[0] if body else None)
    except (StoreError, LookupError, TypeError, ValueError, AttributeError) as error:
        what = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        raise UnreadableAnswer(f"the answer of {name} can't be read: {hide_credentials(what)}") from error


def denied(detail: str, *, has_token: bool = False) -> ConfigError:
    """The sentence for a key, or a token, that may not do a worker's work."""
    if has_token:
        return ConfigError(
            f"the project refuses the worker's token ({detail}): set RUNHOLD_WORKER_TOKEN to a new one "
            "(`runhold worker-token`, signed with a key of the project at SUPABASE_URL), and run "
            f"{APPLY_MIGRATIONS} if the migrations are older than this worker"
        )
    return ConfigError(
        f"the database refuses the worker's key ({detail}): set SUPABASE_SECRET_KEY to a secret key of the "
        "project at SUPABASE_URL (sb_secret_…, or the legacy service_role key)"
    )


def missing_function(detail: str) -> ConfigError:
    """The sentence for a database without our functions, or with those of another version."""
    return ConfigError(
        f"the database has no function as this worker calls it ({detail}): its migrations are missing or older "
        f"than the worker. Run {APPLY_MIGRATIONS}, then start it again"
    )


def explained(error: StoreError, *, has_token: bool) -> Exception:
    """What to tell whoever must act on ``error``: a sentence that says what to do, where one is known."""
    detail = str(error).rstrip(".")
    if isinstance(error, KeyRejected):
        return denied(detail, has_token=has_token)
    if isinstance(error, Refused) and kind_of(error) is SCHEMA:
        if error.code in _NO_RIGHT:
            return denied(detail, has_token=has_token)
        return missing_function(detail)
    return error


def _json(response: httpx.Response) -> tuple[Any] | None:
    """The JSON of an answer, in a tuple; None: it has none, or its type is not that of JSON."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not media_type.endswith("json"):
        return None
    try:
        return (from_json(response.content),)
    except ValueError:
        return None


def _failure(name: str, response: httpx.Response, body: tuple[Any] | None) -> StoreError:
    given = cast("dict[str, Any]", body[0]) if body and isinstance(body[0], dict) else {}
    code, message = given.get("code"), given.get("message")
    if (
        isinstance(code, str)
        and isinstance(message, str)
        and given.keys() >= _SHAPE
        and _CODE.fullmatch(code)
    ):
        hint = given["hint"] if isinstance(given["hint"], str) else None
        refused = Refused(message, code=code, hint=hint)
        kind = kind_of(refused)
        if kind is DEAD:
            return WorkerDead(message, code=code, hint=hint)
        return KeyRejected(message, code=code, hint=hint) if kind is KEY else refused
    if response.status_code == 401 and isinstance(message, str) and _SUPABASE_GATEWAY.search(message):
        return KeyRejected(hide_credentials(message), code="401")
    return _not_postgrest(name, response, is_json=bool(given))


def _not_postgrest(name: str, response: httpx.Response, *, is_json: bool = False) -> GatewayAnswer:
    says = first_line(response.content)
    status = f"{response.status_code} {response.reason_phrase}".strip()
    try:
        retry_after_s = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after_s = None
    message = f"the answer to {name} is not from PostgREST: {status}" + (f", {says!r}" if says else ", empty")
    return GatewayAnswer(
        message, status=response.status_code, says=says, is_json=is_json, retry_after_s=retry_after_s
    )


def first_line(content: bytes) -> str:
    """How a page or a text begins, without markup, in characters that no firewall takes for an attack."""
    text = content[:_PAGE_CHARS].decode("utf-8", "replace")
    title = re.search(r"(?is)<title[^>]*>(.*?)</title>", text)
    if title and title[1].strip():
        text = title[1]
    text = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|$)|<!--.*?(-->|$)|<[^>]*(>|$)", " ", text)
    text = re.sub(r"[^\w .,:()-]+", " ", hide_credentials(unescape(text)).replace("\n", "  ").strip())
    return re.sub(r"\s{2,}", " ", text).strip()[:_FIRST_LINE_CHARS]
