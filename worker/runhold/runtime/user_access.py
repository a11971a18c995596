"""Requests as a run's user: the token is signed when the first request needs it, and checked by what servers answer.

A server that refuses the token says nothing about the run: a signing key was rotated, or a clock is wrong. Such an
answer is a :class:`~runhold.errors.UserAccessFault`. The run goes back to the queue; its model never sees it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
from pydantic_core import from_json
from realtime import AsyncRealtimeClient

from runhold.errors import ConfigError, Refused, RunholdError, StoreError, UserAccessFault
from runhold.loop.ports import NoteFault
from runhold.store.records import UserClaims

logger = logging.getLogger(__name__)

TOKEN_TTL_S: Final = 600
"""A tool call may take minutes, and Realtime keeps the token that it was joined with."""

TOKEN_REUSE_S: Final = 120.0
"""A token is used again while it is this young: asking for the claims costs a round trip."""

PLACEHOLDER: Final = "the-token-of-the-runs-user"
"""Stands in a client's headers until a request is sent."""

MAY_NOT_ACT: Final = "RH022"

FetchClaims = Callable[[], Awaitable[UserClaims | None]]
"""What the user's token carries now, from the database; None: the run is no longer this worker's."""

Sign = Callable[[Mapping[str, Any]], str]


class Faults:
    """Writes each cause into the log once, until access works again. One per worker process."""

    def __init__(self, level: int = logging.ERROR) -> None:
        self._level = level
        self._known: set[str] = set()
        self._lock = threading.Lock()  # tools that are not async call from threads

    def report(self, cause: str) -> None:
        """Log ``cause``, unless that was done."""
        with self._lock:
            if cause in self._known:
                return
            self._known.add(cause)
        logger.log(
            self._level,
            "ctx.supabase can't act as users (%s): runs that need it go back to the queue and are tried again",
            cause,
            extra={"action": "user_access_fault"},
        )

    def clear(self) -> None:
        """Note that a user's request was answered: what comes next is news."""
        if self._known:
            with self._lock:
                self._known.clear()


class RunTokens:
    """The token of one run's user.

    :param fetch: asks the database; called in the event loop that made this object, whatever loop needs the token.
    :param sign: signs claims.
    :param issuer: ``iss`` of the project's tokens.
    """

    def __init__(self, fetch: FetchClaims, sign: Sign, issuer: str) -> None:
        self._fetch = fetch
        self._sign = sign
        self._issuer = issuer
        self._home = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._token = ""
        self._made_at = -math.inf

    async def get(self, *, refused: str | None = None) -> str:
        """A token that is good for some minutes.

        :param refused: a token that a server did not take: another one is made.
        :raises UserAccessFault: the database could not be asked.
        :raises Refused: the user may no longer act.
        :raises RunholdError: the run is no longer this worker's.
        """
        if asyncio.get_running_loop() is self._home:
            return await self._get(refused)
        answer = asyncio.run_coroutine_threadsafe(self._get(refused), self._home)
        return await asyncio.wrap_future(answer)

    async def _get(self, refused: str | None) -> str:
        async with self._lock:
            if self._token in ("", refused) or monotonic() - self._made_at >= TOKEN_REUSE_S:
                self._token = self._signed(await self._claims())
                self._made_at = monotonic()
            return self._token

    async def _claims(self) -> UserClaims:
        try:
            found = await self._fetch()
        except Refused as error:
            if error.code == MAY_NOT_ACT:
                raise
            raise UserAccessFault(f"the database refuses to say what their tokens carry: {error}") from error
        except (StoreError, ConfigError) as error:
            raise UserAccessFault(f"the database can't be asked what their tokens carry: {error}") from error
        if found is None:
            raise RunholdError("This worker no longer holds the run, so it may not act as its user.")
        return found

    def _signed(self, found: UserClaims) -> str:
        """With the database's time: the servers that check the token have it, too, and our clock may be wrong."""
        now = int(found.now.timestamp())
        return self._sign({**found.claims, "iss": self._issuer, "iat": now, "exp": now + TOKEN_TTL_S})


class UserSession(httpx.AsyncClient):
    """An HTTP client that presents the user's token. Its connections are ``pool``'s.

    :param note: told while, and after, something keeps the call from acting as the user.
    """

    def __init__(
        self,
        pool: httpx.AsyncClient,
        tokens: RunTokens,
        faults: Faults,
        note: NoteFault,
        *,
        timeout_s: float,
    ) -> None:
        # it sends nothing itself; with a transport given, httpx prepares no connections and no certificates
        super().__init__(transport=httpx.MockTransport(_refuse_to_send), timeout=timeout_s)
        self._pool = pool
        self._tokens = tokens
        self._faults = faults
        self._note = note
        self._failed = False

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send with the user's token in place of the placeholder.

        :raises UserAccessFault: there is no token, or the project refuses it.
        :raises Refused: the user may no longer act.
        """
        if request.headers.get("Authorization") != f"Bearer {PLACEHOLDER}":
            return await self._pool.send(request, **options)  # a tool that signed in by itself
        token = await self.token()
        response, why = await self._try(request, token, options)
        if why is not None and isinstance(request.stream, httpx.ByteStream):
            # refused before anything was done, so it may be sent again: with claims and a time that are new
            token = await self.token(refused=token)
            response, why = await self._try(request, token, options)
        if why is not None:
            raise self._fault(UserAccessFault(why))
        self._faults.clear()
        return response

    async def token(self, *, refused: str | None = None) -> str:
        """The token, fetched if need be. Noted as a fault meanwhile: the tool's time may end while it waits."""
        self._note("the database did not say in time what the user's token carries")
        try:
            token = await self._tokens.get(refused=refused)
        except UserAccessFault as fault:
            raise self._fault(fault) from fault.__cause__
        except RunholdError:
            self._is_over()  # it is the user, or the run, that is at fault: the next record says so
            raise
        self._is_over()
        return token

    async def aclose(self) -> None:
        """Do nothing: the connections are shared."""

    async def _try(
        self, request: httpx.Request, token: str, options: Mapping[str, Any]
    ) -> tuple[httpx.Response, str | None]:
        request.headers["Authorization"] = f"Bearer {token}"
        response = await self._pool.send(request, **options)
        return response, await why_refused(response)

    def _is_over(self) -> None:
        if not self._failed:  # else the tool knows of a refusal, whatever comes of its next request
            self._note(None)

    def _fault(self, fault: UserAccessFault) -> UserAccessFault:
        self._failed = True
        self._note(str(fault))
        self._faults.report(str(fault))
        return fault


class UserRealtime(AsyncRealtimeClient):
    """A Realtime client that joins channels as the user."""

    def __init__(self, url: str, key: str, token: Callable[[], Awaitable[str]]) -> None:
        super().__init__(url, token=key)
        self._user_token = token

    async def connect(self) -> None:
        """Connect, and from then on present the user's token."""
        await self.set_auth(await self._user_token())
        await super().connect()


# -------------------------------------------------------------------------------------------- what servers answer

_TOKEN_STATUSES: Final = frozenset({400, 401, 403, 500})
_POSTGREST: Final = ("PGRST300", "PGRST301", "PGRST302", "PGRST303")
_NO_SUCH_ROLE: Final = "22023"
_STORAGE_WORDS: Final = (
    "jwt expired",
    "jwt malformed",
    "jwt not active",
    "invalid signature",
    "invalid jwt",
    "invalid compact jws",
    "signature verification failed",
    "claim timestamp check failed",
)


async def why_refused(response: httpx.Response) -> str | None:
    """Why a service of the project refuses the token or the key as such, in a sentence; None: it does not.

    What a user may not do is no such thing, and neither is what a function of the project answers by itself.
    """
    if response.status_code not in _TOKEN_STATUSES:
        return None
    await response.aread()
    body = _object(response)
    service = urlsplit(str(response.url)).path.lstrip("/").partition("/")[0]
    code = str(body.get("code") or "")
    message = str(body.get("message") or body.get("msg") or body.get("error") or response.reason_phrase)
    words = message.lower()
    match service:
        case "rest":
            is_token = code in _POSTGREST or (response.status_code == 401 and code in ("", _NO_SUCH_ROLE))
        case "auth":
            is_token = body.get("error_code") in ("bad_jwt", "no_authorization")
        case "storage":
            is_token = "InvalidJWT" in (code, body.get("error")) or any(
                word in words for word in _STORAGE_WORDS
            )
        case "functions":
            is_token = response.status_code == 401 and (
                code.startswith("UNAUTHORIZED_") or words == "invalid jwt"
            )
        case _:
            is_token = False
    if not is_token and not (response.status_code == 401 and "api key" in words):
        return None
    said = f"{code} {message}".strip()
    return (
        f"the project's {service} API answered {response.status_code} {said}: check that SUPABASE_JWT_SIGNING_KEY (or "
        "SUPABASE_JWT_SECRET) is a key of the project and SUPABASE_PUBLISHABLE_KEY is valid"
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body: Any = from_json(response.content)
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _refuse_to_send(request: httpx.Request) -> httpx.Response:
    raise AssertionError("UserSession sends through its pool")
