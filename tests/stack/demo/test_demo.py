"""`runhold demo` as a stranger runs it: a real stack, a worker process, mail, people, and no process left."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 90
COMMAND = [sys.executable, "-m", "runhold", "demo", "--port", "0"]

pytestmark = [pytest.mark.timeout(240), pytest.mark.local_stack("the demo starts a stack of its own")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all: the second demo finds the first one's database."""
    made = Path(tempfile.mkdtemp(prefix="runhold-demo-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def environment() -> dict[str, str]:
    """Somebody without a model of their own, who has another project configured elsewhere."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RUNHOLD_"))}
    return {**mine, "SUPABASE_URL": "https://elsewhere.example", "TERM": "xterm-256color", "COLUMNS": "120"}


def left_over(folder: Path) -> list[str]:
    """Command lines of living processes that have to do with the folder."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cwd = os.readlink(entry.parent / "cwd")
        except OSError:
            continue  # it has ended meanwhile, or it is nobody's business
        if str(folder) in line or cwd.startswith(str(folder)):
            found.append(line)
    return found


def test_without_a_terminal_it_approves_by_itself_and_says_so(
    folder: Path, environment: dict[str, str]
) -> None:
    ended = subprocess.run(
        COMMAND,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = ended.stdout
    in_order = [
        "PostgreSQL 17, REST, Auth, Realtime",
        "scripted",
        "There is no terminal here, so the reviewer will approve by herself.",
        "ada@example.com (user) inserted the run",
        "claimed it, woken by Realtime",
        "✓ list_distributions",
        "✓ check_policy",
        "✓ save_document",
        "⏸ send_email",
        "put it aside until a person decides",
        "wants to call send_email",
        "update agent_reviews set status = 'approved'",
        "grace@example.com (reviewer) approved send_email",
        "✓ send_email ran, exactly as approved",
        "completed it",
        "# Licence compliance of",
        "5 steps, 6 tool calls",
        "1 arrived at the mail server",
        "runhold show ",
    ]
    position = 0
    for part in in_order:
        position = told.find(part, position)
        assert position >= 0, f"{part!r} is missing, or comes too early, in:\n{told}"
    packages = re.search(r"(\d+) Python packages", told)
    assert packages is not None
    assert int(packages[1]) > 40  # this very environment, not a made-up one
    assert ended.stderr == ""
    assert left_over(folder) == []


def test_rejected_no_mail_leaves_and_the_run_completes(folder: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [*COMMAND, "--decide", "reject", "--no-realtime"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "none arrived at the mail server" in ended.stdout
    assert "No e-mails today, please." in ended.stdout
    assert "found by polling" in ended.stdout
    assert left_over(folder) == []


class Terminal:
    """The demo in a terminal of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            COMMAND,
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, part: str) -> None:
        """Read the screen until it shows ``part``."""
        deadline = time.monotonic() + PATIENCE_S
        while part not in self.shown:
            assert time.monotonic() < deadline, f"{part!r} did not come:\n{self.shown}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    data = os.read(self._master, 65536)
                except OSError:  # the other end is closed: the process has ended
                    data = b""
                if not data:
                    assert part in self.shown, f"it ended without {part!r}:\n{self.shown}"
                self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """The exit status."""
        status = self.process.wait(PATIENCE_S)
        os.close(self._master)
        return status


def test_at_a_terminal_a_person_edits_what_is_proposed(folder: Path, environment: dict[str, str]) -> None:
    terminal = Terminal(folder, environment)
    terminal.wait_for("Approve, edit or reject?")
    terminal.type("e\n")
    terminal.wait_for("to [")
    terminal.type("boss@example.com\n\n\n")
    terminal.wait_for("look next")
    assert terminal.end() == 0
    assert "ran as the reviewer changed it" in terminal.shown
    assert "to boss@example.com" in terminal.shown
    assert left_over(folder) == []


@pytest.mark.parametrize(
    "moment", ["the parts", "PostgreSQL 17", "inserted the run", "Approve, edit or reject?"]
)
def test_ctrl_c_ends_everything_at_any_moment(folder: Path, environment: dict[str, str], moment: str) -> None:
    terminal = Terminal(folder, environment)
    terminal.wait_for(moment)
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("Stopped; nothing is left running.")
    assert terminal.end() == 130
    assert left_over(folder) == []


def test_sigterm_ends_everything_too(folder: Path, environment: dict[str, str]) -> None:
    terminal = Terminal(folder, environment)
    terminal.wait_for("Approve, edit or reject?")
    terminal.process.terminate()
    terminal.wait_for("Stopped; nothing is left running.")
    assert terminal.end() == 130
    assert left_over(folder) == []
