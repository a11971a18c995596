"""One decision about several reviews: each is decided or refused on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.text import Text

from runhold.cli.backend import Backend, Row
from runhold.cli.exits import CommandError
from runhold.cli.output import print_json, say
from runhold.cli.render import counted, plain, review_line, short

_WORDS: Final = {
    "approved": "approved",
    "rejected": "rejected",
    "counted": "counted, waits for other people",
    "refused": "refused",
}


async def decide_several(
    backend: Backend, names: Sequence[str], status: str, comment: str | None, *, as_json: bool
) -> None:
    """Decide about the reviews that ``names`` begin, and say what became of each.

    :raises NotFound: one of them is none; then nothing is decided.
    :raises CommandError: some were refused.
    """
    found = {str(row["id"]): row for row in [await backend.find_review(name) for name in names]}
    verdicts = await backend.decide_all(list(found), status, comment)
    if as_json:
        print_json(verdicts)
    else:
        for verdict in verdicts:
            say(_line(verdict, found[verdict["id"]]))
    refused = sum(verdict["verdict"] == "refused" for verdict in verdicts)
    if refused:
        raise CommandError(
            f"{counted(refused, 'review')} of {len(verdicts)} refused; the others are decided."
        )


def _line(verdict: Row, review: Mapping[str, object]) -> Text:
    text = Text(f"{short(verdict['id'])} {_WORDS[verdict['verdict']]}: ", style="bold").append_text(
        review_line(review)
    )
    if verdict["verdict"] == "refused":
        text.append(f"\n         {verdict['code']}: {plain(verdict['message'])}")
    return text
