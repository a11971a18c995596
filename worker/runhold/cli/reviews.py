"""Reviews: what waits for a person, and what the person says."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from runhold.cli.backend import Backend, Row
from runhold.cli.exits import CommandError, UsageError
from runhold.cli.options import As, AsJson, ReviewId, ReviewIds, read_object
from runhold.cli.output import out, print_json, say
from runhold.cli.person import sign_in_as
from runhold.cli.project import find_project
from runhold.cli.render import review_line, review_panel, reviews_table, short
from runhold.cli.verdicts import decide_several

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
    reviews: ReviewIds,
    edit: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|@FILE",
            help="Approve with changes: these members replace the proposed ones, the others stay.",
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
      runhold approve 9c1e 77ab 0d3f      # each on its own: some may be refused
    """
    changes = None if edit is None else read_object(edit, "--edit")
    if changes is not None and len(reviews) > 1:
        raise UsageError("--edit changes the arguments of one call: give one review.")

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            if len(reviews) > 1:
                await decide_several(backend, reviews, "approved", comment, as_json=as_json)
                return
            found = await backend.find_review(reviews[0])
            _require_kind(found, "approval")
            decision: Row = {"status": "approved", "comment": comment}
            if changes is not None:
                decision["edited_input"] = {**(found["proposed_input"] or {}), **changes}
            decided = await backend.decide(str(found["id"]), decision)
        _report(decided, "Approved", as_json=as_json)

    asyncio.run(work())


def reject(
    reviews: ReviewIds,
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
    Examples:
      runhold reject 9c1e --comment "Ask them by phone first."
      runhold reject 9c1e 77ab 0d3f --comment "Not this week."
    """
    if not (comment or "").strip():
        raise UsageError("A rejection needs --comment: the agent goes on by what you say there.")

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            if len(reviews) > 1:
                await decide_several(backend, reviews, "rejected", comment, as_json=as_json)
                return
            found = await backend.find_review(reviews[0])
            decided = await backend.decide(str(found["id"]), {"status": "rejected", "comment": comment})
        _report(decided, "Rejected", as_json=as_json)

    asyncio.run(work())


def answer(
    review: ReviewId,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="The answer to a question.", show_default=False)
    ] = None,
    happened: Annotated[
        bool, typer.Option("--happened", help="Of an unknown outcome: it took effect. Go on.")
    ] = False,
    result: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|JSON",
            help="With --happened: what the call would have returned; the model reads it.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Of an unknown outcome: it did not. Run it again, once.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Of an unknown outcome: end the run.")] = False,
    comment: Comment = None,
    as_json: AsJson = False,
    email: As = None,
) -> None:
    """Answer what an agent asks, or say what is known of a call whose outcome nobody knows.

    \b
    Examples:
      runhold answer 9c1e "The blue one."
      runhold answer 9c1e --happened --result '{"message_id": "42"}'
      runhold answer 9c1e --again --comment "It is not in the outbox."
      runhold answer 9c1e --stop
    """
    if happened + again + stop > 1 or (result is not None and not happened):
        raise UsageError("Give one of --happened (with --result, if you know it), --again and --stop.")
    known: Row = {}
    if stop:
        known = {"status": "rejected"}
    elif again:
        known = {"status": "approved", "answer": {"outcome": "again"}}
    elif happened:
        outcome: Row = {"outcome": "happened"} | ({} if result is None else {"result": _value(result)})
        known = {"status": "approved", "answer": outcome}
    if known and text is not None:
        raise UsageError(
            "A TEXT answers a question; --happened, --again and --stop tell of an unknown outcome."
        )

    async def work() -> None:
        async with sign_in_as(find_project(), email) as person:
            backend = Backend(person)
            found = await backend.find_review(review)
            decision = {**_decision(found, known, text), "comment": comment}
            decided = await backend.decide(str(found["id"]), decision)
        _report(decided, "Stopped" if stop else "Answered", as_json=as_json)

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


def _value(text: str) -> Any:
    """JSON, or a text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _require_kind(review: Row, *kinds: str) -> None:
    """:raises CommandError: it is decided by another command."""
    if review["kind"] not in kinds:
        what = {
            "approval": "This asks for approval.",
            "question": "This is a question.",
            "unknown_outcome": "Nobody knows whether this happened.",
        }
        raise CommandError(f"{what[review['kind']]} {_how_to_decide(review, always=True)}")


def _decision(review: Row, known: Row, text: str | None) -> Row:
    """What an answer makes of a review; ``known`` is what the options say of an unknown outcome."""
    _require_kind(review, "question", "unknown_outcome")
    if review["kind"] == "question":
        if known or not (text or "").strip():
            raise UsageError(f"This is a question. {_how_to_decide(review, always=True)}")
        return {"status": "approved", "answer": text}
    if not known:
        raise UsageError(f"Nobody knows whether this happened. {_how_to_decide(review, always=True)}")
    return known


def _how_to_decide(review: Row, *, always: bool = False) -> str:
    if review["status"] != "pending" and not always:
        return ""
    name = short(review["id"])
    match review["kind"]:
        case "question":
            return f'Answer: runhold answer {name} "…", or runhold reject {name} --comment …'
        case "unknown_outcome":
            return f"Say what you know: runhold answer {name} --happened, --again or --stop."
        case _:
            return f"Decide: runhold approve {name}, or runhold reject {name} --comment …"


def _report(review: Row, word: str, *, as_json: bool) -> None:
    if as_json:
        print_json(review)
        return
    shown = {**review, "proposed_input": review.get("edited_input") or review.get("proposed_input")}
    run = short(review["execution_id"])
    if review["status"] == "pending":
        given, needed = review["approvals_given"], review["approvals_needed"]
        then = f"{word}: {given} of {needed} people; run {run} waits for the others."
    elif review["kind"] == "unknown_outcome" and review["status"] == "rejected":
        then = f"{word}; run {run} ends."
    else:
        then = f"{word}; run {run} goes on."
    say(review_line(shown).append(f"\n{then}", style="bold"))
