"""People: who is signed in."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from runhold.cli.exits import NotFound, UsageError
from runhold.cli.options import As, AsJson
from runhold.cli.output import out, print_json, say
from runhold.cli.person import (
    email_in_environment,
    password_in_environment,
    sign_in,
    sign_in_as,
    sign_up,
)
from runhold.cli.project import find_project
from runhold.cli.sessions import Sessions


def login(
    email: Annotated[
        str | None, typer.Argument(help="Your e-mail address; RUNHOLD_EMAIL without.", show_default=False)
    ] = None,
    new: Annotated[bool, typer.Option("--sign-up", help="Make a new account.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign in as yourself, with e-mail address and password.

    The session is kept in a file that only you can read. Several people may be signed in: the last one acts, --as
    chooses another. The password comes from RUNHOLD_PASSWORD, if set, or is asked for.

    \b
    Examples:
      runhold login ada@example.com
      runhold login ada@example.com --sign-up
      pass show ada | runhold login ada@example.com --password-stdin
    """
    project = find_project()
    address = email or email_in_environment()
    if not address:
        raise UsageError("Who are you? Give an e-mail address: runhold login you@example.com.")
    password = _password(address, password_stdin=password_stdin)

    async def work() -> None:
        session = await (sign_up if new else sign_in)(project, address, password)
        Sessions(project.sessions_folder, project.url).put(session, make_current=True)
        if as_json:
            print_json({"email": session.email, "user_id": session.user_id, "url": project.url})
        else:
            say(f"You are {session.email} at {project.url}.")

    asyncio.run(work())


def logout(email: As = None) -> None:
    """Sign out: the session ends, here and at the project.

    \b
    Example:
      runhold logout --as ada@example.com
    """
    project = find_project()
    sessions = Sessions(project.sessions_folder, project.url)
    address = email or sessions.current()
    if address is None or sessions.get(address) is None:
        raise NotFound(
            f"{address or 'Nobody'} is signed in here."
            if address is None
            else f"{address} is not signed in here."
        )

    async def work() -> None:
        try:
            async with sign_in_as(project, address) as person:
                await person.end_session()
        finally:
            sessions.forget(address)
        say(f"{address} is signed out.")

    asyncio.run(work())


def whoami(as_json: AsJson = False, email: As = None) -> None:
    """Say who you are, and where.

    \b
    Example:
      runhold whoami --json | jq -r .user_id
    """

    async def work() -> None:
        project = find_project()
        async with sign_in_as(project, email) as person:
            others = [
                name
                for name in Sessions(project.sessions_folder, project.url).people()
                if name != person.email
            ]
        if as_json:
            print_json(
                {"email": person.email, "user_id": person.user_id, "url": project.url, "others": others}
            )
            return
        out.print(f"{person.email} ({person.user_id}) at {project.url}", soft_wrap=True, markup=False)
        if others:
            say(f"Also signed in: {', '.join(others)} (--as chooses).")

    asyncio.run(work())


def _password(email: str, *, password_stdin: bool) -> str:
    if password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if password := password_in_environment():
        return password
    if not sys.stdin.isatty():
        raise UsageError(
            "There is no terminal to ask for the password: use --password-stdin or RUNHOLD_PASSWORD."
        )
    return str(typer.prompt(f"Password of {email}", hide_input=True, err=True))
