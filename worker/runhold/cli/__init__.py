"""The ``runhold`` command.

One module per group of commands (``runs``, ``reviews``, ``people``, ``worker``, ``stack``, ``demo``), each a thin
skin: ``project`` says where (which Supabase), ``person`` who (signed in as themselves), ``render`` how it looks,
``exits`` with which status it ends.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from runhold.cli.unexpected import unexpected
from runhold.credentials import hide_credentials
from runhold.environment.system import require_unix
from runhold.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of the statuses in :mod:`runhold.cli.exits`."""
    try:
        require_unix()
        from runhold.cli.app import run  # typer and rich take a while: only who runs the command pays
    except KeyboardInterrupt:  # that while is long enough for a Ctrl-C
        sys.exit(130)
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    except Exception as error:  # a library read a variable of its own while it was imported
        sys.exit(f"Error: {hide_credentials(unexpected(error))}")
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
