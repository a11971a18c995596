"""Who is signed in: a file, readable by its owner alone, with sessions of one or several people per project."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from runhold.cli.exits import CommandError

FILE: Final = "sessions.json"


@dataclass(frozen=True, kw_only=True)
class Session:
    """What Auth gave a person who signed in. ``expires_at``: seconds since 1970, of the access token."""

    email: str
    user_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: int


class Sessions:
    """The sessions of one project."""

    def __init__(self, folder: Path, url: str) -> None:
        self._path = folder / FILE
        self._url = url

    def current(self) -> str | None:
        """The e-mail address of who signed in last, if they still are."""
        return self._project(self._read()).get("current")

    def get(self, email: str) -> Session | None:
        kept = self._project(self._read())["people"].get(email.lower())
        return None if kept is None else Session(**kept)

    def people(self) -> list[str]:
        return sorted(self._project(self._read())["people"])

    def put(self, session: Session, *, make_current: bool) -> None:
        with self._changing() as project:
            project["people"][session.email.lower()] = asdict(session)
            if make_current or not project.get("current"):
                project["current"] = session.email.lower()

    def forget(self, email: str) -> None:
        with self._changing() as project:
            project["people"].pop(email.lower(), None)
            if project.get("current") == email.lower():
                project["current"] = next(iter(project["people"]), None)

    def renewing(self) -> AbstractContextManager[None]:
        """Keep other commands from renewing a session at the same time: a refresh token works once."""
        return self._locked("renewing")

    @contextmanager
    def _changing(self) -> Generator[dict[str, Any], None, None]:
        with self._locked("changing"):
            content = self._read()
            yield self._project(content)
            self._write(content)

    @contextmanager
    def _locked(self, why: str) -> Generator[None, None, None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path.with_suffix(f".{why}"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _project(self, content: dict[str, Any]) -> dict[str, Any]:
        return content.setdefault(self._url, {"current": None, "people": {}})

    def _read(self) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", json.loads(self._path.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CommandError(
                f"{self._path} can't be read ({error}): delete it and sign in again."
            ) from error

    def _write(self, content: dict[str, Any]) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{FILE}.")  # with mode 0600
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=2)
        os.replace(name, self._path)
