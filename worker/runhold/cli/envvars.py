"""Options that a variable of the environment may set: a wrong value is reported by the variable's name alone."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from runhold.cli.exits import UsageError


class CommandWithVariables(TyperCommand):
    """A command that never quotes what a variable holds: it may be a secret that was pasted into the wrong one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore
        """Read the command line.

        :raises UsageError: a variable holds no value of its option; one sentence.
        """
        try:
            return super().parse_args(ctx, args)  # pyright: ignore
        except typer.BadParameter as error:
            option: Any = error.param
            name = getattr(option, "envvar", None)
            source = ctx.get_parameter_source(option.name) if name else None
            if source is None or source.name != "ENVIRONMENT":
                raise
            said = max((*option.opts, *option.secondary_opts), key=len)
            raise UsageError(f"{name} holds no value that {said} takes: correct or unset it.") from None
