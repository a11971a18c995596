"""A run told as it happens, until it ends or waits for a person."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runhold.cli.backend import Backend, Row
from runhold.cli.exits import RUN_EXITS, Exit
from runhold.cli.output import err, hint, out, print_json_line, tell
from runhold.cli.person import Person
from runhold.cli.render import detail_text, result_panel
from runhold.cli.story import Story
from runhold.cli.watching import follow

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Watch it until it ends.")]
UntilReview = Annotated[
    bool,
    typer.Option(
        "--until-review", help=f"Stop watching, with status {Exit.RUN_WAITS:d}, when a person is needed."
    ),
]


async def watch_run(
    backend: Backend, person: Person, execution_id: str, *, as_json: bool, until_review: bool
) -> Exit:
    """Tell the run's story as it happens; the status that says how it ended."""
    story = Story({person.user_id: "you"}, width=out.width)
    printed: dict[str, Any] = {}
    told_to_review = False
    async for run, timeline in follow(backend, execution_id):
        if as_json:
            _print_changes(timeline, printed)
        else:
            for line in story.more(timeline):
                tell(line)
        if run["status"] == "awaiting_review":
            if until_review:
                return _ended(run, as_json=as_json)
            if not told_to_review:
                told_to_review = True
                hint("            A reviewer decides: `runhold reviews`, then approve, reject or answer.")
        elif run["status"] in RUN_EXITS:
            return _ended(run, as_json=as_json)
        else:
            told_to_review = False
    raise AssertionError("a run is followed until it ends")


def _ended(run: Row, *, as_json: bool) -> Exit:
    if as_json:
        print_json_line({"kind": "run", **run})
    elif run["status"] == "completed":
        out.print()
        out.print(result_panel(run))
    elif run["status"] == "failed" and run.get("error_detail"):
        err.print(f"{run['error']}: {detail_text(run['error_detail'])}", markup=False, soft_wrap=True)
    return RUN_EXITS[run["status"]]


def _print_changes(timeline: list[Row], printed: dict[str, Any]) -> None:
    for item in timeline:
        names = ("kind", "at", "event") if item["kind"] == "event" else ("kind", "id", "step_number")
        key = " ".join(str(item.get(name)) for name in names)
        if printed.get(key) != item:
            printed[key] = item
            print_json_line(item)
