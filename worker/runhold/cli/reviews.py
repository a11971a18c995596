"""Reviews: what waits for a person, and what the person says."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from runhold.cli.backend import Backend, Row
from runhold.cli.exits import CommandError, UsageError
from runhold.cli.options import As, AsJson, ReviewId, read_object
from runhold.cli.output import out, print_json, say
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.render import review_line, review_panel, reviews_table, short

Comment = Annotated[str | None, typer.Option("--comment", "-m", help="For the record.", show_default=False)]


def reviews(
    review: Annotated[
        str | None,
        typer.Argument(metavar="[REVIEW]", help="One review with all that is proposed.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that are decided.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 50,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """List what waits for a person, the oldest first; or look at one review closely.

    You see reviews that you may decide, and those of your own runs.

    \b
    Examples:
      runhold reviews
      runhold reviews 9c1e --as reviewer@example.com
      runhold reviews --json | jq -r '.[].id'
    """

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            if review is None:
                _list(
                    await backend.reviews(all_of_them=everything, limit=limit), person.email, as_json=as_json
                )
            else:
                found = await backend.find_review(review)
                _look_at(found, await backend.review_context(str(found["id"])), as_json=as_json)

    asyncio.run(work())


def approve(
    review: ReviewId,
    edit: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|@FILE",
            help="Approve with changes: these members replace the proposed ones, the others stay.",
            show_default=False,
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|JSON",
            help="What you answer: to a question of an agent, or what you know of an unknown outcome.",
            show_default=False,
        ),
    ] = None,
    comment: Comment = None,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Approve what an agent wants to do: it happens once, exactly as shown (or as you changed it).

    \b
    Examples:
      runhold approve 9c1e
      runhold approve 9c1e --edit '{"to": "legal@example.com"}' --comment "to legal instead"
      runhold approve 9c1e --answer "The blue one."
      runhold approve 9c1e --answer '{"outcome": "happened"}'
    """
    changes = None if edit is None else read_object(edit, "--edit")

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            found = await backend.find_review(review)
            decision: Row = {"status": "approved", "comment": comment}
            if changes is not None:
                decision["edited_input"] = {**(found["proposed_input"] or {}), **changes}
            if answer is not None:
                decision["answer"] = _answer(answer)
            _require_answer(found, decision)
            decided = await backend.decide(str(found["id"]), decision)
        _report(decided, "Approved", as_json=as_json)

    asyncio.run(work())


def reject(
    review: ReviewId,
    comment: Annotated[
        str | None,
        typer.Option(
            "--comment", "-m", help="Why: the agent reads it and goes on without.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Reject what an agent wants to do. It does not happen; the agent reads your comment and goes on.

    \b
    Example:
      runhold reject 9c1e --comment "Ask them by phone first."
    """
    if not (comment or "").strip():
        raise UsageError("A rejection needs --comment: the agent goes on by what you say there.")

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            found = await backend.find_review(review)
            decided = await backend.decide(str(found["id"]), {"status": "rejected", "comment": comment})
        _report(decided, "Rejected", as_json=as_json)

    asyncio.run(work())


# ------------------------------------------------------------------------------------------------ details


def _list(rows: list[Row], email: str, *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        out.print(reviews_table(rows, full_ids=not out.is_terminal))
    else:
        say(f"Nothing waits for {email}.")


def _look_at(review: Row, context: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(context)
        return
    out.print(review_panel(review))
    say(f"{review['status'].capitalize()}, run {short(review['execution_id'])}. {_how_to_decide(review)}")


def _answer(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _require_answer(review: Row, decision: Row) -> None:
    if review["kind"] == "approval" or "answer" in decision:
        return
    if review["kind"] == "question":
        raise CommandError('This is a question: approve it with --answer "…".')
    raise CommandError(
        'Nobody knows whether this happened: approve it with --answer \'{"outcome": "happened"}\' or '
        '--answer \'{"outcome": "again"}\', or reject it, which stops the run.'
    )


def _how_to_decide(review: Row) -> str:
    if review["status"] != "pending":
        return ""
    name = short(review["id"])
    return f"Decide: runhold approve {name}, or runhold reject {name} --comment …"


def _report(review: Row, word: str, *, as_json: bool) -> None:
    if as_json:
        print_json(review)
        return
    shown = {**review, "proposed_input": review.get("edited_input") or review.get("proposed_input")}
    say(review_line(shown).append(f"\n{word}; run {short(review['execution_id'])} goes on.", style="bold"))
