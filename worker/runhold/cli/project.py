"""Which Supabase project a command speaks to.

``SUPABASE_URL`` with ``SUPABASE_PUBLISHABLE_KEY`` (in the environment or in a file ``.env``); without them the
local stack that runs in ``.runhold/`` of this folder or one above it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runhold.environment import variables as names
from runhold.environment.file import NAME as ENV_FILE
from runhold.environment.file import load_env_file
from runhold.environment.network import require_network
from runhold.environment.variables import require
from runhold.errors import ConfigError
from runhold.local.lock import find_running, is_held
from runhold.local.state import load_state

LOCAL_FOLDER: Final = ".runhold"


class NoProject(ConfigError):
    """No project is configured, and no local stack runs here."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where to find a Supabase project.

    :ivar environment: the variables that describe it, as ``runhold stack env`` prints them.
    :ivar local: the folder of the local stack that it is; None for any other project.
    """

    environment: Mapping[str, str]
    local: Path | None = None

    @property
    def url(self) -> str:
        return self.environment[names.URL].strip().rstrip("/")

    @property
    def publishable_key(self) -> str:
        """:raises ConfigError: there is none, or it is another kind of key."""
        key = self._key(names.PUBLISHABLE, names.LEGACY_PUBLISHABLE)
        if key is None:
            raise ConfigError(
                "SUPABASE_URL is set and SUPABASE_PUBLISHABLE_KEY is not: set it to the project's publishable "
                "key (sb_publishable_…); people sign in with that one."
            )
        return key

    @property
    def secret_key(self) -> str:
        """:raises ConfigError: there is none, or it is another kind of key."""
        key = self._key(names.SECRET, names.LEGACY_SECRET)
        if key is None:
            raise ConfigError(
                "This needs SUPABASE_SECRET_KEY, the project's secret key (sb_secret_…): set it."
            )
        return key

    def _key(self, *candidates: str) -> str | None:
        for name in candidates:
            if key := self.environment.get(name, "").strip():
                require(self.environment, name)
                return key
        return None

    @property
    def sessions_folder(self) -> Path:
        """Where to keep who is signed in: beside the local stack, or with the user's own configuration."""
        if self.local is not None:
            return self.local
        configured = os.environ.get("XDG_CONFIG_HOME", "")
        base = Path(configured) if configured.startswith("/") else Path.home() / ".config"
        return base / "runhold"


def find_project(folder: Path | None = None) -> Project:
    """The project that is configured, or the local stack that runs.

    :raises NoProject: there is neither.
    :raises ConfigError: what is configured can't be used; the message says what to do.
    """
    start = (folder or Path()).absolute()
    load_env_file(start / ENV_FILE)
    require_network()
    if os.environ.get(names.URL):
        require(os.environ, names.URL)
        known = {name: value for name, value in os.environ.items() if name.startswith("SUPABASE_")}
        return Project(environment=known)
    for place in (start, *start.parents):
        project = local_project(place / LOCAL_FOLDER)
        if project is not None:
            return project
    raise NoProject(
        "No project: set SUPABASE_URL and SUPABASE_PUBLISHABLE_KEY (or write them into .env), "
        "or start a local stack with `runhold dev`."
    )


def local_project(folder: Path) -> Project | None:
    """The running local stack of ``folder``; None if there is none."""
    if not folder.is_dir() or not is_held(folder):
        return None
    from runhold.local.stack import (
        environment_of,
    )  # it needs the extra [local], and only who has a stack has that

    running, state = find_running(folder), load_state(folder)
    if running is None or state is None:
        raise ConfigError(f"The local stack in {folder} is still starting; try again in a moment.")
    return Project(environment=environment_of(state, running.url, running.database_url), local=folder)
