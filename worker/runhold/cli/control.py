"""What people do to a run: cancel it, take a failed one up again, fork it, speak to it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated, Any, Final

import typer

from runhold.cli.backend import Backend, Row
from runhold.cli.exits import Exit, UsageError
from runhold.cli.live import UntilReview, Watch, watch_run
from runhold.cli.options import As, AsJson, RunId
from runhold.cli.output import hint, out, print_json, say
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.render import cancel_text, short
from runhold.cli.watching import FINAL, hints

_WHOLE_ID: Final = len("00000000-0000-0000-0000-000000000000")


def cancel(
    run: RunId,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept.", show_default=False)] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; then say what had happened by then.")
    ] = False,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Cancel a run.

    One that waits ends at once; one that is worked on ends at its next check, within a step. No tool starts after the
    worker has seen it. Once the run has ended it is said which calls of its last step had finished, which finished
    after the request, and of which nobody knows.

    \b
    Example:
      runhold cancel 3f2a9c1e --reason "wrong customer" --wait
    """

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            identifier = await any_run(backend, run)
            answer = await backend.cancel(identifier, reason)
            if wait and answer["status"] not in FINAL:
                async with hints(backend, f"execution:{identifier}") as given:
                    while answer["status"] not in FINAL:
                        await given.wait()
                        # asked again and not read: operators may cancel runs that they don't see
                        answer = await backend.cancel(identifier, reason)
        if as_json:
            print_json(answer)
        elif answer["status"] == "cancelled":
            say(f"Run {short(answer['id'])} is cancelled.{cancel_text(answer.get('detail'))}")
        elif answer["cancel_requested"] and answer["status"] not in FINAL:
            say(f"Run {short(answer['id'])} is told to stop; it ends within its step.")
        else:
            say(f"Run {short(answer['id'])} had already ended: {answer['status']}.")

    asyncio.run(work())


def retry(
    run: RunId,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="A new limit for this run; may be given several times. Beyond the type's for operators only.",
            show_default=False,
        ),
    ] = None,
    watch: Watch = False,
    until_review: UntilReview = False,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Take a failed run up again where it ended. What it did stands and is not done again.

    \b
    Examples:
      runhold retry 3f2a9c1e --watch
      runhold retry 3f2a9c1e --limit max_steps=50 --limit max_tokens=100000
    """
    limits = read_limits(limit or [])

    async def work() -> Exit:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            row = await backend.retry(await any_run(backend, run), limits)
            if not watch:
                after = f" after step {row['step_count']}" if row["step_count"] else ""
                _tell_run(row, f"Run {short(row['id'])} goes on{after}.", as_json=as_json)
                return Exit.OK
            return await watch_run(backend, person, row["id"], as_json=as_json, until_review=until_review)

    raise typer.Exit(asyncio.run(work()))


def fork(
    run: RunId,
    from_step: Annotated[
        int,
        typer.Option(
            "--from",
            metavar="STEP",
            min=1,
            help="The first step to be decided anew; 1 is from the beginning.",
            show_default=False,
        ),
    ],
    watch: Watch = False,
    until_review: UntilReview = False,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Start a new run that shares the beginning of another one.

    The steps before STEP are taken over with their results, and not done again. Prints the new run's id.

    \b
    Examples:
      runhold fork 3f2a9c1e --from 3 --watch
      NEW=$(runhold fork 3f2a9c1e --from 1)
    """

    async def work() -> Exit:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            row = await backend.fork(await any_run(backend, run), from_step)
            if watch:
                say(f"Run {row['id']}, forked from {short(row['forked_from'])}.")
                return await watch_run(backend, person, row["id"], as_json=as_json, until_review=until_review)
            if as_json:
                print_json(row)
            else:
                out.print(row["id"])
                hint(f"Watch it: runhold watch {short(row['id'])}")
            return Exit.OK

    raise typer.Exit(asyncio.run(work()))


def send(
    run: RunId,
    text: Annotated[
        str, typer.Argument(metavar="TEXT|-", help="What to say; - reads it from standard input.")
    ],
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Say something to a living run: the model reads it at its next step.

    \b
    Examples:
      runhold send 3f2a9c1e "The meeting is on Friday, not on Thursday."
      runhold send 3f2a9c1e - < notes.txt
    """
    content = sys.stdin.read() if text == "-" else text

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            answer = await backend.send(await any_run(backend, run), content)
        _tell_run(answer, "Sent; the model reads it at its next step.", as_json=as_json)

    asyncio.run(work())


def read_limits(given: list[str]) -> dict[str, Any] | None:
    """``name=number`` of each option as one object; None if there are none.

    :raises UsageError: one of them is not so.
    """
    limits: dict[str, Any] = {}
    for item in given:
        name, _, number = item.partition("=")
        try:
            value = json.loads(number)
        except ValueError:
            value = None
        if not name.strip() or not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UsageError(f"--limit {item!r} is not NAME=NUMBER, like max_steps=50.")
        limits[name.strip()] = value
    return limits or None


def _tell_run(answer: Row, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(sentence)


async def any_run(backend: Backend, text: str) -> str:
    """The id of one's own run by its beginning; a whole id is taken as it is, for operators, who don't see runs."""
    return text if len(text) == _WHOLE_ID else await backend.find_run(text)
