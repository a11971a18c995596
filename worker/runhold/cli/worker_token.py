"""A token for workers, instead of the project's secret key."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from runhold.cli.options import AsJson
from runhold.cli.output import print_json, say
from runhold.cli.project import find_project
from runhold.environment.variables import JWT_SECRET, SIGNING_KEY, require
from runhold.errors import ConfigError
from runhold.runtime.user_client import signing_key
from runhold.runtime.worker_token import DAY_S, ROLE, mint_worker_token, read_worker_token

DEFAULT_DAYS: Final = 90
MAX_DAYS: Final = 365
"""One token can't be taken back: whoever finds it in a forgotten place may use it until it ends."""


def worker_token(
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="How long it is good for.")] = DEFAULT_DAYS,
    as_json: AsJson = False,
) -> None:
    """Make a token with which a worker may do what workers do, and nothing else in the project.

    It goes to standard output; give it to workers as RUNHOLD_WORKER_TOKEN, with SUPABASE_PUBLISHABLE_KEY and in place
    of SUPABASE_SECRET_KEY. It is signed here, and needs SUPABASE_JWT_SIGNING_KEY (a private key that you imported into
    the project) or SUPABASE_JWT_SECRET. Nothing is stored anywhere.

    \b
    Examples:
      runhold worker-token --days 30 > worker-token
      runhold worker-token --json | jq -r .expires_on
    """
    environment = _environment()
    require(environment, JWT_SECRET, SIGNING_KEY)
    key = signing_key(secret=environment.get(JWT_SECRET), jwk=environment.get(SIGNING_KEY))
    if key is None:
        raise ConfigError(
            f"This signs a token: set {SIGNING_KEY} to a private key that you imported into the project "
            f"(`supabase gen signing-key`), or {JWT_SECRET}."
        )
    now = time.time()
    token = mint_worker_token(key, now=now, ttl_s=days * DAY_S)
    until = read_worker_token(token, now=now).until
    if as_json:
        print_json({"token": token, "role": ROLE, "expires_on": until})
        return
    sys.stdout.write(f"{token}\n")
    say(f"It is good until {until}. Workers warn a week before; `runhold doctor` says how long it lasts.")


def _environment() -> Mapping[str, str]:
    """Where the key is: one that is given is enough; else the configured project's, or the local stack's."""
    if not os.environ.get(JWT_SECRET) and not os.environ.get(SIGNING_KEY):
        project = find_project()
        if project.local is not None:
            return project.environment
    return os.environ
