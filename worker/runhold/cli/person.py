"""A person who is signed in to a project, and the Supabase client that acts as them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx
from supabase import AsyncClient, AsyncClientOptions, create_async_client
from supabase_auth.errors import AuthApiError, AuthError
from supabase_auth.types import AuthResponse

from runhold.cli.exits import CommandError, NotFound
from runhold.cli.project import Project
from runhold.cli.sessions import Session, Sessions
from runhold.environment.variables import EMAIL, PASSWORD, PUBLISHABLE, require
from runhold.errors import ConfigError, StoreUnavailable
from runhold.tls import tls_context

RENEW_BEFORE_S: Final = 90
"""A token that ends sooner than this is renewed first."""


class Person:
    """Somebody signed in.

    :ivar client: acts as them, under row level security.
    """

    def __init__(self, client: AsyncClient, session: Session, sessions: Sessions) -> None:
        self.client = client
        self.session = session
        self._sessions = sessions

    @property
    def email(self) -> str:
        return self.session.email

    @property
    def user_id(self) -> str:
        return self.session.user_id

    async def keep_signed_in(self) -> None:
        """Renew the token if it ends soon. Cheap otherwise: call it before every request of a long command.

        :raises NotFound: the session is over; sign in again.
        """
        if self.session.expires_at - time.time() > RENEW_BEFORE_S:
            return
        with self._sessions.renewing():
            kept = self._sessions.get(self.email)  # another command may have been faster
            if kept is None or kept.expires_at - time.time() <= RENEW_BEFORE_S:
                kept = await self._renewed()
                self._sessions.put(kept, make_current=False)
            self.session = kept
        self.client.postgrest.auth(kept.access_token)
        await self.client.realtime.set_auth(kept.access_token)

    async def end_session(self) -> None:
        """Sign out at the project, so that the refresh token is worth nothing any more."""
        with auth_errors(self.client.supabase_url):
            await self.client.auth.admin.sign_out(self.session.access_token, "local")

    async def _renewed(self) -> Session:
        with auth_errors(self.client.supabase_url):
            try:
                return _session(await self.client.auth.refresh_session(self.session.refresh_token))
            except AuthApiError as error:
                raise _signed_out(self.email) from error


def email_in_environment() -> str | None:
    """Whom scripts act as.

    :raises ConfigError: it is no e-mail address.
    """
    require(os.environ, EMAIL)
    return os.environ.get(EMAIL, "").strip() or None


def password_in_environment() -> str | None:
    """The password of whom scripts act as.

    :raises ConfigError: it is a key of a project or of another service, which goes to nobody else.
    """
    require(os.environ, PASSWORD)
    return os.environ.get(PASSWORD) or None


@asynccontextmanager
async def sign_in_as(project: Project, email: str | None = None) -> AsyncGenerator[Person, None]:
    """The person to act as: ``email``, else ``RUNHOLD_EMAIL``, else who signed in last.

    :raises NotFound: nobody is signed in.
    """
    _ = project.publishable_key  # what is configured comes before who asks
    sessions = Sessions(project.sessions_folder, project.url)
    wanted = email or email_in_environment() or sessions.current()
    if wanted is None:
        raise NotFound(
            "You are not signed in: `runhold login you@example.com` first (--sign-up for a new account)."
        )
    session = sessions.get(wanted)
    password = password_in_environment()
    if session is None or (password and session.expires_at <= time.time()):
        if not password:
            raise _signed_out(wanted)
        session = await sign_in(project, wanted, password)
        sessions.put(session, make_current=False)
    async with client_of(project, session) as client:
        person = Person(client, session, sessions)
        await person.keep_signed_in()
        yield person


@asynccontextmanager
async def client_of(project: Project, session: Session | None) -> AsyncGenerator[AsyncClient, None]:
    """A Supabase client that acts as the person, or as nobody. All its connections end with the block."""
    key = project.publishable_key
    async with httpx.AsyncClient(timeout=30.0, follow_redirects=True, verify=tls_context("https:")) as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        if session is not None:
            options.headers = {**options.headers, "Authorization": f"Bearer {session.access_token}"}
        try:
            client = await create_async_client(project.url, key, options)
        except Exception as error:  # supabase-py says "Invalid API key" with a plain Exception
            raise ConfigError(
                f"{PUBLISHABLE} is no key of a Supabase project: copy it again from the project's settings."
            ) from error
        if session is not None:
            await client.realtime.set_auth(session.access_token)
        try:
            yield client
        finally:
            await client.realtime.close()


async def sign_in(project: Project, email: str, password: str) -> Session:
    """Sign in with the publishable key.

    :raises NotFound: the password is wrong, or there is no such person.
    """
    async with client_of(project, None) as client:
        with auth_errors(project.url):
            return _session(await client.auth.sign_in_with_password({"email": email, "password": password}))


async def sign_up(project: Project, email: str, password: str) -> Session:
    """Make a new account, and be signed in to it.

    :raises CommandError: the account exists, or the e-mail address has to be confirmed first.
    """
    async with client_of(project, None) as client:
        with auth_errors(project.url):
            answer = await client.auth.sign_up({"email": email, "password": password})
    if answer.session is None:
        raise CommandError(f"The account is made; now follow the link in the mail to {email}, then sign in.")
    return _session(answer)


@contextmanager
def auth_errors(url: Any) -> Generator[None, None, None]:
    """Turn what Auth says into one sentence."""
    try:
        yield
    except AuthApiError as error:
        if error.code in ("invalid_credentials", "user_not_found"):
            raise NotFound(
                "The e-mail address or the password is wrong (--sign-up makes a new account)."
            ) from error
        if error.code in ("user_already_exists", "email_exists"):
            raise CommandError(
                "There is an account with this e-mail address: sign in without --sign-up."
            ) from error
        raise CommandError(f"Auth refuses: {error.message}.") from error
    except httpx.TransportError as error:
        raise StoreUnavailable(f"Nothing answers at {url}: {error or type(error).__name__}.") from error
    except AuthError as error:
        # supabase-auth wraps what it can't explain, a refused connection included
        raise StoreUnavailable(f"Auth at {url} gives no usable answer: {error.message}.") from error


def _session(answer: AuthResponse) -> Session:
    session = answer.session
    assert session is not None, "checked where it may be missing"
    return Session(
        email=str(session.user.email),
        user_id=str(session.user.id),
        access_token=session.access_token,
        refresh_token=session.refresh_token,
        expires_at=session.expires_at or int(time.time()) + session.expires_in,
    )


def _signed_out(email: str) -> NotFound:
    return NotFound(f"{email} is not signed in here: `runhold login {email}` first.")
