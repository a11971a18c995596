"""One RPC over HTTP: how a client is built, how a call is posted, when to try again.

supabase-py builds the client, its URL and its headers. RPC bodies are posted on the session of its PostgREST
client rather than by ``client.rpc(…)``: the writer's bodies are encoded already (they must be repeated byte
for byte, and encoding them a second time costs 22 µs an entry), and the request builder drops the status.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import httpx
from pydantic_core import to_json
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from runhold.credentials import hide_credentials
from runhold.environment.variables import URL
from runhold.errors import ConfigError, KeyRejected, Refused, StoreError, StoreUnavailable
from runhold.store.answers import GatewayAnswer, is_retryable, read_answer
from runhold.store.outages import Outages
from runhold.tls import tls_context

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0
"""A server that does not take a connection by then is down; the lease leaves no time for more."""

KEEPALIVE_S: Final = 60.0
"""How long an idle connection is kept: longer than any pause between a living worker's heartbeats, polls and
flushes, so that none of them pays for a TLS handshake."""

BACKOFF_BASE_S: Final = 0.1
BACKOFF_CAP_S: Final = 3.0
"""Full jitter between 0 and base · 2^n, capped: a recovering database is not hit by all workers at once."""


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
        raise ConfigError(f"{URL} is not the URL of a Supabase project, or the key is none.") from error


class AccessSource(Protocol):
    """Where the access comes from that a call presents: it may change while the process runs."""

    @property
    def current(self) -> Access:
        """What to present now."""
        ...

    def rejected(self, access: Access, error: KeyRejected) -> None:
        """``access`` was rejected. Never raises."""
        ...

    def accepted(self, access: Access) -> None:
        """PostgREST took ``access``."""
        ...


class FixedAccess:
    """An :class:`AccessSource` that never changes."""

    def __init__(self, access: Access) -> None:
        self.current = access

    def rejected(self, access: Access, error: KeyRejected) -> None:
        """Nothing else is known to present."""

    def accepted(self, access: Access) -> None:
        """As expected."""


def _as_it_is(answer: Any) -> Any:
    return answer


class Rpc:
    """Calls database functions through one supabase client and turns every failure into an error of ours.

    :param source: what to present at each call.
    :param outages: is told of failures and answers; shared by all connections of a process.
    """

    def __init__(self, client: AsyncClient, source: AccessSource, outages: Outages | None = None) -> None:
        postgrest = client.postgrest
        self._session = postgrest.session
        self._headers = {**dict(postgrest.headers), "Content-Type": "application/json"}
        for name in [name for name in self._headers if name.lower() in ("apikey", "authorization")]:
            del self._headers[name]
        self._base_url = f"{str(postgrest.base_url).rstrip('/')}/rpc/"
        self._source = source
        self._outages = outages or Outages()

    async def call(
        self,
        name: str,
        params: Mapping[str, Any],
        *,
        deadline_s: float,
        read: Callable[[Any], T] = _as_it_is,
    ) -> T:
        """Call a function that is safe to repeat until it answers or ``deadline_s`` seconds have passed.

        :param read: makes the value of the JSON that was answered; what it raises counts as no answer.
        :raises StoreUnavailable: no answer by then; the outcome is unknown.
        :raises Refused: PostgREST or the database refuses the call, still at the deadline if that may pass.
        """
        body = to_json(params)
        ends = time.monotonic() + deadline_s
        attempt = 0
        while True:
            try:
                return await self.post(name, body, read=read)
            except StoreError as error:
                pause = backoff_s(attempt, error)
                if not is_retryable(error) or time.monotonic() + pause >= ends:
                    raise
                await asyncio.sleep(pause)
                attempt += 1

    async def post(self, name: str, body: bytes, *, read: Callable[[Any], T] = _as_it_is) -> T:
        """One attempt: post ``body``, the JSON object of the function's arguments, and return its answer.

        :raises StoreError: it failed; :func:`runhold.store.answers.kind_of` says how.
        """
        access = self._source.current
        try:
            value = await self._attempt(name, body, access, read)
        except StoreError as error:
            self._outages.failed(name, error)
            if isinstance(error, KeyRejected):
                self._source.rejected(access, error)
            elif isinstance(error, Refused):
                self._source.accepted(access)
            raise
        self._outages.answered(name)
        self._source.accepted(access)
        return value

    async def _attempt(self, name: str, body: bytes, access: Access, read: Callable[[Any], T]) -> T:
        try:
            response = await self._session.post(
                self._base_url + name,
                content=body,
                headers={**self._headers, **access.headers},
                follow_redirects=False,
            )
        except Exception as error:  # also what a malformed answer makes a library raise
            what = hide_credentials(str(error)) or type(error).__name__
            raise StoreUnavailable(f"no answer to {name}: {what}") from error
        return read_answer(name, response, read)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.aclose()


def backoff_s(attempt: int, error: BaseException | None = None) -> float:
    """Seconds to wait before attempt number ``attempt`` + 2 of the same call (0 is the first repetition)."""
    pause = random.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10)))
    if isinstance(error, GatewayAnswer) and error.retry_after_s is not None:
        return max(pause, min(error.retry_after_s, BACKOFF_CAP_S))
    return pause
