"""A run as one file for an auditor, and the check of such a file."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from runhold.audit import Harm, NotAnExport, Report, Sealed, seal, verify
from runhold.cli.caller import AsService, acting
from runhold.cli.control import any_run
from runhold.cli.exits import CommandError, Exit
from runhold.cli.options import As, AsJson, RunId
from runhold.cli.output import out, print_json, say
from runhold.cli.render import plain, short

_EXITS: Final = {Harm.CHANGED: Exit.CHANGED, Harm.TRUNCATED: Exit.TRUNCATED}
_VERBS: Final = {Harm.CHANGED: "was changed", Harm.TRUNCATED: "was cut short"}


def export(
    run: RunId,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")
    ] = "-",
    service: AsService = False,
    email: As = None,
) -> None:
    """Write everything that is stored of a run as one JSON file, sealed by a chain of hashes.

    The head of the chain goes to standard error. Keep it where the file's keepers can't write: it tells years later
    whether anything was changed. With --service, what the agent was told and its tools are in it, too.

    \b
    Examples:
      runhold export 3f2a9c1e --service --output run.json
      runhold export 3f2a9c1e | runhold verify -
    """

    async def work() -> Sealed:
        async with acting(service=service, email=email) as backend:
            told = await backend.export(await any_run(backend, run))
        records: list[str] = told.pop("records")
        return seal(told, records)

    sealed = asyncio.run(work())
    if output == "-":
        sys.stdout.buffer.write(sealed.content)
        sys.stdout.buffer.flush()
    else:
        _write(Path(output), sealed.content)
    say(f"{sealed.records} records of run {short(run)}. Keep the head elsewhere: {sealed.head}")


def verify_file(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="An export; - reads it from standard input.")],
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="HASH", help="The head that was kept elsewhere.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an export: is it what was exported, and were the approvals for what was done?

    It asks nobody: neither a project nor a key is needed.

    \b
    Example:
      runhold verify run.json --head 9c1d…
    """
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"{file} can't be read: {error.strerror}.", exit_with=Exit.NOT_FOUND) from error
    name = "The export" if file == "-" else file
    try:
        report = verify(content, head=head and head.strip().lower())
    except NotAnExport as error:
        raise CommandError(f"{name} can't be checked. {error}", exit_with=Exit.NOT_AN_EXPORT) from error
    if as_json:
        print_json({**asdict(report), "harm": report.harm})
    if report.harm is not None:
        told = " ".join(finding.text for finding in report.findings)
        raise CommandError(f"{name} {_VERBS[report.harm]}. {plain(told)}", exit_with=_EXITS[report.harm])
    if not as_json:
        out.print(_told(report, kept=head is not None), soft_wrap=True)


def _told(report: Report, *, kept: bool) -> str:
    unchecked = (
        f"; {report.hashes_unchecked} could not be, as tools are withheld" if report.hashes_unchecked else ""
    )
    known = "the head is the one that was kept" if kept else "compare the head with the one that was kept"
    return (
        f"{report.records} records of run {plain(report.execution_id or '?')}, as they were exported; {known}.\n"
        f"Hashes of what was asked: {report.hashes_checked} made anew and equal{unchecked}.\n"
        f"Approvals that were used: {report.approvals_checked}, each for what then ran.\n"
        f"Head: {report.head}"
    )


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, and for its owner's eyes only: it holds everything that a person told an agent."""
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink()
            raise
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}.") from error
