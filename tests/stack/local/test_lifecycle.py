"""A stack starts, stops, is found again, and leaves no process behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from processes import descendants, find, look, wait_until_gone

from runhold.local import control
from runhold.local.errors import ChildEnded, PortInUse, StackAlreadyRunning, StackError, StackNotRunning
from runhold.local.lock import RunningStack
from runhold.local.stack import LocalStack, StackOptions

SUPERVISE = """
import asyncio, sys
from pathlib import Path
from runhold.local.stack import StackOptions, run_until_stopped
options = StackOptions(folder=Path(sys.argv[1]), port=0, seed=False, durable=False, realtime=False)
asyncio.run(run_until_stopped(options, lambda stack: print("ready", flush=True)))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A stack's folder. Not in pytest's: root's are closed to the user that runs PostgreSQL."""
    parent = Path(tempfile.mkdtemp(prefix="runhold-test-"))
    parent.chmod(0o755)
    yield parent / ".runhold"
    control.erase(parent / ".runhold")
    shutil.rmtree(parent)


def small(folder: Path, **options: object) -> StackOptions:
    """Options of a stack without Node and Realtime, up in a moment."""
    values = {"folder": folder, "api": False, "realtime": False, "seed": False, "durable": False, **options}
    return StackOptions(**values)  # type: ignore[arg-type]


async def test_a_second_start_keeps_data_keys_and_port(folder: Path) -> None:
    async with await LocalStack.start(small(folder)) as first:
        assert first.applied
        before = first.env()
        async with await psycopg.AsyncConnection.connect(first.database_url) as connection:
            await connection.execute("create table public.kept as select 42 as value")
    async with await LocalStack.start(small(folder)) as second:
        assert second.applied == []
        assert second.env() == before
        async with await psycopg.AsyncConnection.connect(second.database_url) as connection:
            rows = await connection.execute("select value from public.kept")
            assert await rows.fetchone() == (42,)


async def test_secrets_are_the_owners_alone(folder: Path) -> None:
    async with await LocalStack.start(small(folder)) as stack:
        for name in ("stack.json", "running.json", "lock", "logs/postgres.log"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
        password = stack.database_url.split(":")[2].split("@")[0]
        assert not [process for process in descendants(os.getpid()) if password in process.command]
    assert (folder / ".gitignore").read_text() == "*\n"


async def test_the_server_wants_a_password(folder: Path) -> None:
    async with await LocalStack.start(small(folder)) as stack:
        port = stack.database_url.split(":")[3].split("/")[0]
        for role in ("postgres", "supabase_admin", "authenticator"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(f"postgresql://{role}@127.0.0.1:{port}/postgres")


async def test_two_stacks_run_side_by_side(folder: Path) -> None:
    other = folder.with_name("other")
    options = [
        StackOptions(folder=f, port=0, seed=False, durable=False, realtime=False) for f in (folder, other)
    ]
    try:
        first, second = await asyncio.gather(*(LocalStack.start(option) for option in options))
        async with first, second, httpx.AsyncClient() as client:
            for stack, stranger in ((first, second), (second, first)):
                url = f"{stack.url}/rest/v1/agent_types?select=name"
                mine = await client.get(url, headers={"apikey": stack.secret_key})
                theirs = await client.get(url, headers={"apikey": stranger.secret_key})
                assert (mine.status_code, theirs.status_code) == (200, 401)
    finally:
        control.erase(other)


async def test_one_folder_has_one_stack(folder: Path) -> None:
    async with await LocalStack.start(small(folder)):
        with pytest.raises(StackAlreadyRunning, match=f"already running at .* \\(process {os.getpid()}\\)"):
            await LocalStack.start(small(folder))
        with pytest.raises(StackAlreadyRunning):
            await control.start_background(small(folder))
        with pytest.raises(StackAlreadyRunning):
            control.erase(folder)


async def test_a_busy_port_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} is in use .*--port 0"):
            await LocalStack.start(StackOptions(folder=folder, port=port))
        with pytest.raises(StackError, match=rf"Port {port} is in use .*--port 0"):
            await control.start_background(StackOptions(folder=folder, port=port))


async def test_a_busy_database_port_is_passed_over(folder: Path) -> None:
    async with await LocalStack.start(small(folder)) as stack:
        port = int(stack.database_url.split(":")[3].split("/")[0])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        async with await LocalStack.start(small(folder)) as stack:
            assert f":{port}/" not in stack.database_url


async def test_the_background_stack_is_found_asked_and_stopped(folder: Path) -> None:
    assert control.status(folder).running is None
    with pytest.raises(StackNotRunning):
        control.read_env(folder)
    running = await control.start_background(
        StackOptions(folder=folder, port=0, seed=False, durable=False, realtime=False)
    )
    below = descendants(running.pid)
    try:
        assert control.status(folder).running == running
        assert running.database_url not in repr(running)
        env = control.read_env(folder)
        async with httpx.AsyncClient(headers={"apikey": env["SUPABASE_SECRET_KEY"]}) as client:
            answer = await client.get(f"{env['SUPABASE_URL']}/rest/v1/agent_types")
        assert answer.status_code == 200
        with pytest.raises(StackAlreadyRunning, match=running.url):
            await control.start_background(small(folder))
    finally:
        await control.stop_background(folder)
    wait_until_gone(below)
    assert control.status(folder).running is None
    with pytest.raises(StackNotRunning):
        await control.stop_background(folder)


async def test_a_stack_that_was_killed_is_recovered(folder: Path) -> None:
    running = await control.start_background(small(folder))
    below = descendants(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    while look(running.pid):
        await asyncio.sleep(0.001)
    # At once: the old server may still be ending.
    async with (
        await LocalStack.start(small(folder)) as stack,
        await psycopg.AsyncConnection.connect(stack.database_url) as connection,
    ):
        await connection.execute("select 1")
    wait_until_gone(below)


class Supervisor:
    """A process of its own that holds a stack, and the processes below it."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.below = descendants(self.process.pid)
        assert len(self.below) > 4

    def end(self) -> tuple[int, str]:
        """Wait for its end; the exit status and what it complained of."""
        _, complaint = self.process.communicate()
        wait_until_gone(self.below)
        return self.process.returncode, complaint.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_stack_in_order(folder: Path, number: signal.Signals) -> None:
    supervisor = Supervisor(folder)
    supervisor.process.send_signal(number)
    assert supervisor.end() == (0, "")
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text()


def test_a_killed_supervisor_leaves_no_process(folder: Path) -> None:
    supervisor = Supervisor(folder)
    supervisor.process.kill()
    supervisor.end()


@pytest.mark.parametrize("words", ["postgres -D", "server.mjs"])
def test_the_end_of_a_part_ends_the_stack_and_says_so(folder: Path, words: str) -> None:
    supervisor = Supervisor(folder)
    programs = {process for process in supervisor.below if "tether.py" not in process.command}
    os.kill(find(programs, words).pid, signal.SIGKILL)
    status, complaint = supervisor.end()
    assert status == 1
    assert "ChildEnded" in complaint
    assert "ended by itself" in complaint


@pytest.mark.parametrize("words", ["postgres -D", "server.mjs"])
def test_a_killed_tether_takes_its_program_along(folder: Path, words: str) -> None:
    supervisor = Supervisor(folder)
    tethers = {process for process in supervisor.below if "tether.py" in process.command}
    os.kill(find(tethers, words).pid, signal.SIGKILL)
    status, _ = supervisor.end()
    assert status == 1


def test_a_stop_while_starting_leaves_no_process(folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(folder)], stdout=subprocess.PIPE)
    while not (below := descendants(process.pid)):
        assert look(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    wait_until_gone(below)
    assert control.status(folder).running is None


async def test_wait_tells_which_part_ended(folder: Path) -> None:
    async with await LocalStack.start(small(folder)) as stack:
        postgres = find(
            {process for process in descendants(os.getpid()) if "tether.py" not in process.command},
            f"-D {folder}",
        )
        os.kill(postgres.pid, signal.SIGQUIT)
        with pytest.raises(ChildEnded, match="PostgreSQL ended by itself"):
            await stack.wait()


def test_a_running_stack_is_a_record() -> None:
    running = RunningStack(pid=1, url="http://x", database_url="secret", superuser_url="secret")
    assert "secret" not in repr(running)
