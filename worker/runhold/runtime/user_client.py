"""``ctx.supabase``: clients that act as a run's user, never as the worker.

A token for the user is signed here, for a few minutes, with the project's own signing key. PostgREST, Auth and
Realtime take it like one that the user got by signing in: row level security decides what a tool may do.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
from supabase import AsyncClient, AsyncClientOptions

from runhold.errors import ConfigError
from runhold.tls import tls_context

TOKEN_TTL_S: Final = 600
"""A tool call may take minutes, and a client keeps the token that it was made with."""

TOKEN_REUSE_S: Final = 120
"""A token is handed out again while it is this young: signing costs up to a millisecond."""

MAX_TOKENS_KEPT: Final = 1_000
"""Tokens are small, but users are many."""

TIMEOUT_S: Final = 30.0

_ALGORITHMS: Final = {"EC": "ES256", "RSA": "RS256"}


class _SharedPool(httpx.AsyncClient):
    """One connection pool for the clients of all tool calls: closing one of them must not close the others'."""

    async def aclose(self) -> None:
        """Do nothing; :meth:`close_pool` closes."""

    async def close_pool(self) -> None:
        await super().aclose()


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """What user tokens are signed with.

    :ivar key: the secret (HS256) or the private key.
    :ivar key_id: ``kid`` of the key in the project's key set; None for the shared secret.
    """

    algorithm: str
    key: Any
    key_id: str | None = None

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A signed token."""
        headers = {"kid": self.key_id} if self.key_id else None
        return jwt.encode(dict(claims), self.key, algorithm=self.algorithm, headers=headers)


def signing_key(*, secret: str | None, jwk: str | None) -> SigningKey | None:
    """The key from the worker's settings: a private JWK, else the shared secret, else none.

    :param secret: ``SUPABASE_JWT_SECRET``.
    :param jwk: ``SUPABASE_JWT_SIGNING_KEY``: JSON of a private key, as ``supabase gen signing-key`` prints it.
    :raises ConfigError: the JWK is none, or holds no private key.
    """
    if jwk:
        try:
            fields = json.loads(jwk)
            algorithm = _ALGORITHMS[fields["kty"]]
            if "d" not in fields:
                raise KeyError("d")
            return SigningKey(
                algorithm=algorithm, key=jwt.PyJWK(fields, algorithm).key, key_id=fields.get("kid")
            )
        except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            raise ConfigError(
                "SUPABASE_JWT_SIGNING_KEY is no private signing key: give the JSON (with kty and d) that "
                "`supabase gen signing-key` prints"
            ) from error
    return SigningKey(algorithm="HS256", key=secret) if secret else None


class UserClients:
    """Makes ``ctx.supabase``: call it with (user_id, tenant_id).

    :param key: what to sign tokens with; None: calling raises :class:`ConfigError`.
    :param tenant_claim: where the tenant stands in the token, as the database's setting ``tenant_claim`` says.
    """

    def __init__(
        self,
        url: str,
        publishable_key: str | None,
        key: SigningKey | None,
        *,
        tenant_claim: Sequence[str] = ("app_metadata", "tenant_id"),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._publishable_key = publishable_key
        self._key = key
        self._tenant_claim = tuple(tenant_claim)
        self._now = now
        self._tokens: dict[tuple[UUID, str | None], tuple[float, str]] = {}
        self._lock = threading.Lock()  # tools that are not async call from threads
        self._pool: _SharedPool | None = None
        self._pool_loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, user_id: UUID, tenant_id: str | None) -> AsyncClient:
        """A client that acts as ``user_id`` for :data:`TOKEN_TTL_S` seconds.

        :raises ConfigError: the worker has no signing key, or no publishable key.
        """
        if self._key is None:
            raise ConfigError(
                "ctx.supabase acts as the run's user, which takes the project's signing key: set "
                "SUPABASE_JWT_SIGNING_KEY (or SUPABASE_JWT_SECRET) for the worker"
            )
        if not self._publishable_key:
            raise ConfigError(
                "ctx.supabase needs the project's publishable key: set SUPABASE_PUBLISHABLE_KEY"
            )
        options = AsyncClientOptions(
            headers={"Authorization": f"Bearer {self._token(user_id, tenant_id)}"},
            auto_refresh_token=False,
            persist_session=False,
            httpx_client=self._connections(),
        )
        return AsyncClient(self._url, self._publishable_key, options)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close_pool()

    def _token(self, user_id: UUID, tenant_id: str | None) -> str:
        assert self._key is not None
        now = self._now()
        with self._lock:
            made_at, token = self._tokens.get((user_id, tenant_id), (float("-inf"), ""))
            if not 0 <= now - made_at < TOKEN_REUSE_S:
                token = self._key.sign(self._claims(user_id, tenant_id, int(now)))
                if len(self._tokens) >= MAX_TOKENS_KEPT:
                    self._tokens.clear()
                self._tokens[user_id, tenant_id] = (now, token)
        return token

    def _claims(self, user_id: UUID, tenant_id: str | None, now: int) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "sub": str(user_id),
            "role": "authenticated",
            "aud": "authenticated",
            "iss": f"{self._url.rstrip('/')}/auth/v1",
            "iat": now,
            "exp": now + TOKEN_TTL_S,
        }
        if tenant_id is not None:
            place = claims
            for name in self._tenant_claim[:-1]:
                place = place.setdefault(name, {})
            place[self._tenant_claim[-1]] = tenant_id
        return claims

    def _connections(self) -> httpx.AsyncClient:
        """The shared pool in the worker's event loop; one of its own for a thread that runs a loop itself."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or (self._pool_loop is not None and self._pool_loop is not loop):
            return httpx.AsyncClient(verify=tls_context(self._url), timeout=TIMEOUT_S)
        if self._pool is None:
            pool = _SharedPool(verify=tls_context(self._url), timeout=TIMEOUT_S)
            self._pool, self._pool_loop = pool, loop
        return self._pool
