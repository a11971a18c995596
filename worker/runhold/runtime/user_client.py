"""``ctx.supabase``: clients that act as a run's user, never as the worker.

A token for the user is signed for a few minutes with the project's own signing key. It carries what the user's own
token would carry, so PostgREST, Auth, Storage and Realtime take it like one that the user got by signing in: row level
security decides what a tool may do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
from jwt.utils import base64url_decode, base64url_encode
from supabase import AsyncClient, AsyncClientOptions

from runhold.errors import ConfigError, UserAccessFault
from runhold.loop.ports import NoteFault, UserClientFactory
from runhold.runtime.user_access import PLACEHOLDER, Faults, FetchClaims, RunTokens, UserRealtime, UserSession
from runhold.tls import tls_context

TIMEOUT_S: Final = 30.0

_ALGORITHMS: Final = {"EC": "ES256", "RSA": "RS256"}

P256_BYTES: Final = 32
"""Size of a coordinate, and of a private key, of the curve of ES256."""


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
            fields = _padded(json.loads(jwk))
            algorithm = _ALGORITHMS[fields["kty"]]
            if "d" not in fields:
                raise KeyError("d")
            return SigningKey(
                algorithm=algorithm, key=jwt.PyJWK(fields, algorithm).key, key_id=fields.get("kid")
            )
        except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
            raise ConfigError(
                "SUPABASE_JWT_SIGNING_KEY is no private signing key: give the JSON (with kty and d) that "
                "`supabase gen signing-key` prints"
            ) from error
    return SigningKey(algorithm="HS256", key=secret) if secret else None


def _padded(fields: dict[str, Any]) -> dict[str, Any]:
    """A copy of a JWK whose numbers of an elliptic curve have their full size again.

    Version 2 of the Supabase CLI writes them without leading zero bytes, which one key in a hundred has and RFC 7518
    (6.2.1.2) requires.
    """
    if fields.get("kty") != "EC":
        return fields
    return fields | {
        name: base64url_encode(base64url_decode(fields[name]).rjust(P256_BYTES, b"\0")).decode()
        for name in ("x", "y", "d")
        if name in fields
    }


class UserClients:
    """Makes ``ctx.supabase``.

    :param key: what to sign tokens with; None: there is no ``ctx.supabase``.
    :param faults: reports what keeps all runs from acting as their users.
    """

    def __init__(
        self, url: str, publishable_key: str | None, key: SigningKey | None, *, faults: Faults | None = None
    ) -> None:
        self._url = url
        self._publishable_key = publishable_key
        self._key = key
        self._faults = faults or Faults()
        self._pool: _SharedPool | None = None
        self._pool_loop: asyncio.AbstractEventLoop | None = None

    def for_run(self, fetch: FetchClaims) -> UserClientFactory:
        """What makes clients for the calls of one run. Called in the worker's event loop.

        :param fetch: asks the database what the token of the run's user carries.
        """
        key, publishable_key = self._key, self._publishable_key
        if key is None:
            return self._never(
                "ctx.supabase acts as the run's user, which takes the project's signing key: set "
                "SUPABASE_JWT_SIGNING_KEY (or SUPABASE_JWT_SECRET) for the worker"
            )
        if not publishable_key:
            return self._never(
                "ctx.supabase needs the project's publishable key: set SUPABASE_PUBLISHABLE_KEY"
            )
        tokens = RunTokens(fetch, key.sign, f"{self._url.rstrip('/')}/auth/v1")

        def client(note: NoteFault) -> AsyncClient:
            session = UserSession(self._connections(), tokens, self._faults, note, timeout_s=TIMEOUT_S)
            options = AsyncClientOptions(
                headers={"Authorization": f"Bearer {PLACEHOLDER}"},
                auto_refresh_token=False,
                persist_session=False,
                httpx_client=session,
            )
            made = AsyncClient(self._url, publishable_key, options)
            made.realtime = UserRealtime(str(made.realtime_url), publishable_key, session.token)
            return made

        return client

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close_pool()

    def _never(self, why: str) -> UserClientFactory:
        def no_client(note: NoteFault) -> AsyncClient:
            note(why)
            self._faults.report(why)
            raise UserAccessFault(why)

        return no_client

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
