"""What a stack keeps between runs: generated passwords and keys, and where its database files are.

One JSON file, `stack.json`, in the stack's folder, readable by its owner only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from runhold.local.errors import StackError

STATE_FILE = "stack.json"
PRIVATE_FOLDER = 0o700
ROOT_FOLDER = 0o711
"""Root's PostgreSQL runs as another user, who must pass through to the database files, and can list nothing."""


def _secret(prefix: str = "", characters: int = 43) -> str:
    """256 random bits as text."""
    return prefix + secrets.token_urlsafe(32)[:characters]


@dataclass(frozen=True, kw_only=True)
class StackState:
    """Generated once per folder; every restart uses the same.

    `data`: the folder of the database files. `database_port`: the last port that PostgreSQL listened on, tried first
    the next time, so that a noted `DATABASE_URL` stays good; 0 before the first start.
    """

    data: str
    database_port: int = 0
    database_password: str = field(default_factory=_secret)
    jwt_secret: str = field(default_factory=_secret)
    publishable_key: str = field(default_factory=lambda: _secret("sb_publishable_"))
    secret_key: str = field(default_factory=lambda: _secret("sb_secret_"))


def load_state(folder: Path) -> StackState | None:
    """Read the folder's state; None if it has none yet. Raises StackError if the file makes no sense."""
    path = folder / STATE_FILE
    try:
        values = read_object(path)
    except FileNotFoundError:
        return None
    try:
        return StackState(**values)  # pyright: ignore[reportArgumentType] (checked by the next line)
    except TypeError as error:
        raise StackError(
            f"{path} is not a state file of this version ({error}); delete {folder} to begin anew."
        ) from error


def save_state(folder: Path, state: StackState) -> None:
    """Write the folder's state, whole or not at all."""
    write_private(folder / STATE_FILE, dataclasses.asdict(state))


def make_private_folder(folder: Path) -> None:
    """Create the folder for its owner only, and keep its content out of git."""
    mode = ROOT_FOLDER if os.geteuid() == 0 else PRIVATE_FOLDER
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StackError(f"{folder} is a file, and the stack needs a folder of that name.") from None
    except PermissionError as error:
        raise StackError(f"The folder {folder} cannot be created: {error.strerror}.") from error
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON object. Raises FileNotFoundError, or StackError if it is something else."""
    try:
        value: object = json.loads(path.read_text())
    except PermissionError as error:
        raise StackError(f"{path} cannot be read: it belongs to another user.") from error
    except ValueError as error:
        raise StackError(f"{path} is damaged ({error}); delete it to begin anew.") from error
    if not isinstance(value, dict):
        raise StackError(f"{path} is damaged (no JSON object); delete it to begin anew.")
    return cast("dict[str, object]", value)


def write_private(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object for the owner only (mode 0600), whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # created with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
