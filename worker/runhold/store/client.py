"""One RPC over HTTP: how a client is built, what an answer means, when to try again.

supabase-py builds the client, its URL and its headers. RPC bodies are posted on the session of its PostgREST
client rather than by ``client.rpc(…)``: the writer's bodies are encoded already (they must be repeated byte
for byte, and encoding them a second time costs 22 µs an entry), and the request builder drops the status.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httpx
from pydantic_core import from_json, to_json
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from runhold.errors import (
    APPLY_MIGRATIONS,
    ConfigError,
    Refused,
    StoreError,
    StoreUnavailable,
    WorkerDead,
    is_retryable,
)
from runhold.tls import tls_context

CONNECT_TIMEOUT_S: Final = 5.0
"""A server that does not take a connection by then is down; the lease leaves no time for more."""

KEEPALIVE_S: Final = 60.0
"""How long an idle connection is kept: longer than any pause between a living worker's heartbeats, polls and
flushes, so that none of them pays for a TLS handshake."""

BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 3.0
"""Full jitter between 0 and base · 2^n, capped: a recovering database is not hit by all workers at once."""

STALE_SCHEMA_RETRY_S: Final = 1.0
"""PostgREST reloads its schema cache about a second after a migration; until then functions are 'missing'."""

_UNAVAILABLE_STATUSES: Final = frozenset({429, 502, 503, 504, 520, 521, 522, 523, 524})
"""Statuses of gateways (and PostgREST without a database): the call may or may not have been carried out."""

_DENIED_CODES: Final = frozenset({"42501", "PGRST300", "PGRST301", "PGRST302", "PGRST303"})
_NO_SUCH_ROLE: Final = "22023"
"""Of a token whose role the database does not have: its migrations are older."""

_MISSING_FUNCTION: Final = "PGRST202"


class Overloaded(StoreUnavailable):
    """The server asked for a pause before the next attempt.

    :ivar retry_after_s: seconds, from the ``Retry-After`` header.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreadableAnswer(StoreUnavailable):
    """The call was answered with success, in no JSON that can be read: nobody knows what happened."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller presents to a project. Never shown, never logged, never part of an error.

    :ivar api_key: names the project. A secret key also says who is asking.
    :ivar token: a JWT that says who is asking, beside a publishable key; None: the key does.
    """

    api_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """For a request over HTTP."""
        return {"apikey": self.api_key, "Authorization": f"Bearer {self.token or self.api_key}"}


async def connect(url: str, access: Access, *, timeout_s: float, connections: int) -> AsyncClient:
    """A supabase client with a connection pool of its own. Opens no connection yet.

    :param url: the project's URL (``SUPABASE_URL``).
    :param timeout_s: seconds without a byte after which a request is given up, its outcome unknown.
    :param connections: size of the pool. HTTP/1.1: cheaper per call in Python than HTTP/2, and no GOAWAY.
    :raises ConfigError: the URL or the key cannot be one.
    """
    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
    http = httpx.AsyncClient(
        verify=tls_context(url),
        timeout=timeout,
        limits=httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_S,
        ),
    )
    options = AsyncClientOptions(
        auto_refresh_token=False,
        persist_session=False,
        postgrest_client_timeout=timeout,
        httpx_client=http,
    )
    if access.token:
        options.headers = {**options.headers, "Authorization": f"Bearer {access.token}"}
    try:
        return await acreate_client(url, access.api_key, options)
    except Exception as error:
        await http.aclose()
        raise ConfigError(f"SUPABASE_URL is not the URL of a Supabase project: {url!r}") from error


class Rpc:
    """Calls database functions through one supabase client and turns every failure into an error of ours."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        postgrest = client.postgrest
        self._session = postgrest.session
        self._headers = {**dict(postgrest.headers), "Content-Type": "application/json"}
        self._has_token = client.supabase_key not in postgrest.headers["Authorization"]
        self._base_url = f"{str(postgrest.base_url).rstrip('/')}/rpc/"

    async def call(self, name: str, params: Mapping[str, Any], *, deadline_s: float) -> Any:
        """Call a function that is safe to repeat until it answers or ``deadline_s`` seconds have passed.

        :raises StoreUnavailable: no answer by then; the outcome is unknown.
        :raises ConfigError: the key is refused, or the function does not exist.
        :raises Refused: the database refuses this call.
        """
        body = to_json(params)
        ends = time.monotonic() + deadline_s
        attempt = 0
        stale_schema_seen = False
        while True:
            try:
                return await self.post(name, body)
            except StoreError as error:
                if isinstance(error, Refused) and error.code == _MISSING_FUNCTION:
                    if stale_schema_seen:
                        raise missing_function(name) from error
                    stale_schema_seen = True
                    await asyncio.sleep(STALE_SCHEMA_RETRY_S)
                    continue
                pause = backoff_s(attempt, error)
                if not is_retryable(error) or time.monotonic() + pause >= ends:
                    raise
                await asyncio.sleep(pause)
                attempt += 1

    async def post(self, name: str, body: bytes) -> Any:
        """One attempt: post ``body``, the JSON object of the function's arguments, and return its answer."""
        try:
            response = await self._session.post(
                self._base_url + name, content=body, headers=self._headers, follow_redirects=False
            )
        except (httpx.TransportError, httpx.DecodingError) as error:
            what = str(error) or type(error).__name__
            raise StoreUnavailable(f"no answer from {name}: {what}") from error
        if response.is_success:
            return _answer(name, response)
        raise _failure(name, response, has_token=self._has_token)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.aclose()


def backoff_s(attempt: int, error: BaseException | None = None) -> float:
    """Seconds to wait before attempt number ``attempt`` + 2 of the same call (0 is the first repetition)."""
    pause = random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10)))
    if isinstance(error, Overloaded):
        return max(pause, min(error.retry_after_s, BACKOFF_CAP_S))
    return pause


def missing_function(name: str) -> ConfigError:
    """The sentence for a database without our functions, or with those of another version."""
    return ConfigError(
        f"the database has no function {name} as this worker calls it: its migrations are missing or older "
        f"than the worker. Run {APPLY_MIGRATIONS}, then start it again"
    )


def denied(detail: str, *, has_token: bool = False) -> ConfigError:
    """The sentence for a key, or a token, that may not do a worker's work."""
    if has_token:
        return ConfigError(
            f"the project refuses the worker's token ({detail}): set RUNHOLD_WORKER_TOKEN to a new one "
            "(`runhold worker-token`, signed with a key of the project at SUPABASE_URL); if the migrations are older "
            f"than this worker, run {APPLY_MIGRATIONS}"
        )
    return ConfigError(
        f"the database refuses the worker's key ({detail}): set SUPABASE_SECRET_KEY to a secret key of the "
        "project at SUPABASE_URL (sb_secret_…, or the legacy service_role key)"
    )


def _answer(name: str, response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return from_json(response.content)
    except ValueError as error:
        # Something between us and PostgREST answered (a captive portal, a proxy): nobody knows what happened.
        raise UnreadableAnswer(f"the answer of {name} is not JSON that can be read: {error}") from error


def _failure(name: str, response: httpx.Response, *, has_token: bool) -> Exception:
    status = response.status_code
    body = _error_body(response)
    code = body.get("code")
    message = str(body.get("message") or response.reason_phrase or f"status {status}")
    hint = body.get("hint")
    if code == "RH012":
        return WorkerDead(message, code=code, hint=hint)
    if code in _DENIED_CODES or (code == _NO_SUCH_ROLE and has_token):
        return denied(message, has_token=has_token)
    if isinstance(code, str) and len(code) >= 5:  # SQLSTATE or PGRST…: not a gateway's number
        return Refused(message, code=code, hint=hint)
    if status in _UNAVAILABLE_STATUSES or status >= 500:
        return _unavailable(f"{name} answered {status} {message}", response)
    if status in (401, 403):
        return denied(message, has_token=has_token)
    if status in (301, 302, 307, 308, 404, 405):
        return ConfigError(f"SUPABASE_URL leads to no Supabase API: {name} answered {status} {message}")
    return Refused(message, code=str(status), hint=hint)


def _unavailable(message: str, response: httpx.Response) -> StoreUnavailable:
    try:
        return Overloaded(message, retry_after_s=float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return StoreUnavailable(message)


def _error_body(response: httpx.Response) -> dict[str, Any]:
    try:
        body: Any = from_json(response.content)
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}
