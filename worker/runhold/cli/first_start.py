"""The first start of a local stack takes longer, and says why."""

from __future__ import annotations

from runhold.cli.output import say


def tell_first_start() -> None:
    """Say that the API's Node packages are installed now, if they never were for this user."""
    from runhold.local.api import SOURCE  # the local stack is for those who have its extra
    from runhold.local.node import packages_folder

    if not packages_folder(SOURCE).is_dir():
        say("The first start installs the Node packages of the local API, which takes up to a minute.")
