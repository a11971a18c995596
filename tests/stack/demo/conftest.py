"""A worker in a thread, people who signed up, and the command line in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import letters
import psycopg
import pytest
from shell import Runhold
from supabase_project import Project

from runhold.models.inprocess import FunctionModel
from runhold.runtime.config import WorkerConfig
from runhold.runtime.worker import run_worker


@pytest.fixture
def runhold(capsys: pytest.CaptureFixture[str], project: None) -> Runhold:
    return Runhold(capsys)


@pytest.fixture
def project(stack: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who works with the stack's project."""
    for name in ("RUNHOLD_EMAIL", "SUPABASE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", stack.publishable_key)
    monkeypatch.setenv("RUNHOLD_PASSWORD", "a long passphrase")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def people(runhold: Runhold, stack: Project, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A user and a reviewer of the letters, both signed in; the user acts unless told otherwise."""
    user, reviewer = (f"{name}-{abs(hash(request.node.nodeid))}@example.org" for name in ("user", "reviewer"))
    said = runhold("login", reviewer, "--sign-up", "--json")
    assert said.status == 0, said.err
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            "insert into runhold.reviewers (user_id, agent_type) values (%s, 'letters')",
            [said.json["user_id"]],
        )
    assert runhold("login", user, "--sign-up").status == 0
    return user, reviewer


@pytest.fixture(scope="module")
def worker(stack: Project) -> Iterator[None]:
    """A worker for the letters."""
    config = WorkerConfig(
        url=stack.url,
        secret_key=stack.secret_key,
        publishable_key=stack.publishable_key,
        jwt_secret=stack.jwt_secret or None,
        lease_s=10,
        grace_s=2,
    )
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(
            run_worker(config, [letters.agent], model=FunctionModel(letters.script), stop_event=stop)
        )

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        for _ in range(200):
            if (
                connection.execute("select from public.agent_types where name = 'letters'").fetchone()
                is not None
            ):
                break
            threading.Event().wait(0.05)
        else:
            raise AssertionError("the worker did not register")
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
