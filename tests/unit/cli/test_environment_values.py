"""Whatever stands in a variable: one sentence, the right status, no traceback, and the value in no output."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import jwt
import pytest
import typer.main

import runhold.runtime.garbage
from runhold.cli import main, output
from runhold.cli.exits import Exit
from runhold.cli.unexpected import unexpected
from runhold.environment.network import PROXY_NAMES
from runhold.environment.variables import VARIABLES, mistake
from runhold.telemetry import logs

PLANTED: Final = "hunter2Planted"

GARBAGE: Final[dict[str, str]] = {
    "secret key": f"sb_secret_{PLANTED}",
    "publishable key": f"sb_publishable_{PLANTED}",
    "service key": jwt.encode({"role": "service_role", "ref": PLANTED}, "x" * 32),
    "model key": f"sk-proj-{PLANTED}-0123456789",
    "database": f"postgresql://me:{PLANTED}@db.example.org:5432/postgres",
    "broken URL": f"https://me:{PLANTED}@[x.supabase.co",
    "web page": f"https://x.example.org/?token={PLANTED}",
    "JWK": f'{{"kty": "EC", "crv": "P-256", "d": "{PLANTED}"}}',
    "PEM": f"-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n",
    "other letters": f"{PLANTED}-ключ",
    "a password": f"{PLANTED}!",
}

PROJECT: Final = {
    "SUPABASE_URL": "http://127.0.0.1:9",  # nobody listens on the discard port
    "SUPABASE_SECRET_KEY": "sb_secret_of-the-test",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_of-the-test",
    "OPENAI_API_KEY": "of-the-test",
}

WORKER: Final = ("worker", "agent.py", "--start-timeout", "0", "--no-realtime")
LOGIN: Final = ("login",)
OPTIONS: Final = {
    "RUNHOLD_REALTIME": "--no-realtime",
    "RUNHOLD_POLL": "--poll",
    "RUNHOLD_START_TIMEOUT": "--start-timeout",
    "RUNHOLD_GIVE_UP": "--give-up",
    "RUNHOLD_LOG_FORMAT": "--log-format",
}

READERS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(VARIABLES, WORKER),
    **{name.lower(): LOGIN for name in VARIABLES if name.endswith("_PROXY")},
    "RUNHOLD_WEBHOOK_SECRET_BILLING": WORKER,
    "SUPABASE_PUBLISHABLE_KEY": LOGIN,
    "SUPABASE_ANON_KEY": LOGIN,
    "RUNHOLD_EMAIL": LOGIN,
    "RUNHOLD_PASSWORD": LOGIN,
    "RUNHOLD_MODEL": ("demo",),
    "RUNHOLD_DATABASE_URL": ("doctor", "--repair"),
}
"""A command that reads the variable."""


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent in an empty folder, and a process that is afterwards as it was."""
    (tmp_path / "agent.py").write_text(
        "from runhold import Agent\nagent = Agent(type='t', model='m', instructions='x', tools=[])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(runhold.runtime.garbage, "pause_less", lambda: None)
    monkeypatch.setattr(typer.main, "get_command", cache(typer.main.get_command))  # it takes most of the time
    monkeypatch.setattr(output, "_never_shown", set[str]())
    root, before = logging.getLogger(), dict(os.environ)
    handlers, level = [*root.handlers], root.level
    loggers = [logging.getLogger(name) for name in ("runhold", *logs._QUIET)]  # pyright: ignore[reportPrivateUsage]
    levels = [logger.level for logger in loggers]
    for name in (*PROXY_NAMES, *VARIABLES, *OPTIONS):
        os.environ.pop(name, None)
    os.environ.update(PROJECT)
    yield
    os.environ.clear()
    os.environ.update(before)
    root.handlers[:], root.level = handlers, level
    for logger, its_level in zip(loggers, levels, strict=True):
        logger.setLevel(its_level)


def end_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(str(end.value.code))


@pytest.mark.parametrize("name", READERS)
def test_no_variable_shows_what_was_pasted_into_it(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for kind, value in GARBAGE.items():
        os.environ.update({"RUNHOLD_EMAIL": "ada@example.com", "RUNHOLD_PASSWORD": "right", **PROJECT})
        for alias, other in (("SERVICE_ROLE", "SECRET"), ("ANON", "PUBLISHABLE")):
            if name == f"SUPABASE_{alias}_KEY":
                del os.environ[f"SUPABASE_{other}_KEY"]
        os.environ[name] = value
        sentence = mistake(name, value.strip())
        if name == "RUNHOLD_MODEL" and sentence is None:
            continue  # the name of a model may be any text, and the demo would begin
        status = end_of(*READERS[name])
        told = "".join(capfd.readouterr())
        assert PLANTED not in told, (name, kind, told)
        assert value.strip() not in told, (name, kind)
        assert "Traceback" not in told, (name, kind, told)
        assert "This is a bug" not in told, (name, kind, told)
        # the database's URL is also an option, and what can't be read there is a matter of usage
        is_usage = name == "RUNHOLD_DATABASE_URL" and sentence is None and status == Exit.USAGE
        assert status == (Exit.USAGE if is_usage else Exit.UNREACHABLE), (name, kind, told)
        if sentence is not None:
            assert told == f"Error: {sentence}\n", (name, kind)
        os.environ.pop(name, None)


@pytest.mark.parametrize("name", OPTIONS)
def test_no_variable_of_an_option_shows_its_value(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for value in (*GARBAGE.values(), "nan" if name == "RUNHOLD_POLL" else "-1"):
        os.environ[name] = value
        assert end_of("worker", "agent.py") == Exit.USAGE
        told = "".join(capfd.readouterr())
        assert told == f"Error: {name} holds no value that {OPTIONS[name]} takes: correct or unset it.\n"


def test_an_option_on_the_command_line_overrides_the_variable(capfd: pytest.CaptureFixture[str]) -> None:
    os.environ["RUNHOLD_POLL"] = PLANTED
    assert end_of(*WORKER, "--poll", "1") == Exit.UNREACHABLE
    assert "Nothing answers at SUPABASE_URL" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["SUPABASE_JWT_SECRET", "SUPABASE_JWT_SIGNING_KEY"])
def test_tokens_are_not_signed_with_what_is_no_key(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for kind, value in GARBAGE.items():
        if mistake(name, value.strip()) is None:
            continue
        os.environ[name] = value
        assert end_of("worker-token") == Exit.UNREACHABLE
        told = "".join(capfd.readouterr())
        assert told.startswith(f"Error: {name} is "), kind
        assert PLANTED not in told


@pytest.mark.parametrize("command", ["worker", "doctor"])
def test_the_name_that_was_set_is_the_one_that_is_named(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    del os.environ["SUPABASE_SECRET_KEY"]
    os.environ["SUPABASE_SERVICE_ROLE_KEY"] = GARBAGE["model key"]
    assert end_of(command, *(["agent.py"] if command == "worker" else [])) == Exit.UNREACHABLE
    assert capfd.readouterr().err.startswith("Error: SUPABASE_SERVICE_ROLE_KEY is a model provider's API key")


@pytest.mark.parametrize("arguments", [WORKER, ("list",), ("doctor",), ("worker-token",)])
@pytest.mark.parametrize("project", [True, False], ids=["with project", "without"])
def test_a_line_of_the_file_that_can_not_be_read_is_named(
    arguments: tuple[str, ...], project: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not project:
        del os.environ["SUPABASE_URL"]
    path = tmp_path / ".env"
    path.write_text(f"A=1\nSUPABASE_SECRET_KEY='{PLANTED}\n")
    assert end_of(*arguments) == Exit.UNREACHABLE
    said = f"Error: Line 2 of {path} can't be understood: write NAME=value, and close every quote.\n"
    assert "".join(capfd.readouterr()) == said


@pytest.mark.parametrize("arguments", [WORKER, ("list",), ("doctor",), ("dev", "agent.py"), ("demo",)])
def test_a_proxy_that_no_client_can_use_ends_every_command_at_its_start(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    os.environ["NO_PROXY"] = "localhost,fd00::/8"
    assert end_of(*arguments) == Exit.UNREACHABLE
    told = "".join(capfd.readouterr())
    assert told.startswith("Error: NO_PROXY holds 'fd00::/8', which the HTTP client can't read")
    assert told.count("\n") == 1


def test_a_library_that_reads_a_variable_while_it_is_imported_gives_one_sentence() -> None:
    environ = {**os.environ, "WEBSOCKETS_MAX_LOG_SIZE": GARBAGE["secret key"]}
    ended = subprocess.run(
        [sys.executable, "-m", "runhold", "list"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    said = (
        "Error: WEBSOCKETS_MAX_LOG_SIZE in the environment can't be used (ValueError): correct or unset it.\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)


def test_an_unexpected_error_is_one_line_and_names_a_variable_that_it_quotes() -> None:
    environ = {"HOME": "/home/ada", "ODD": PLANTED}
    assert unexpected(ValueError(f"no int: {PLANTED!r}"), environ) == (
        "ODD in the environment can't be used (ValueError): correct or unset it."
    )
    assert unexpected(ImportError(f"implementation {PLANTED!r} unknown"), environ).startswith(
        "ODD in the env"
    )
    assert unexpected(FileNotFoundError(2, "No such file", "/home/ada"), environ) == (
        "FileNotFoundError: [Errno 2] No such file: '/home/ada'. This is a bug: please report it, with what "
        "--verbose says."
    )
    assert unexpected(RuntimeError("a\n  b"), environ).startswith("RuntimeError: a b. This is a bug")


def test_an_unexpected_error_shows_no_secret_with_verbose_either(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError(f"could not use {os.environ['SUPABASE_JWT_SECRET']} at http://me:{PLANTED}@proxy")

    monkeypatch.setattr("runhold.cli.worker_token.signing_key", fail)
    os.environ["SUPABASE_JWT_SECRET"] = f"{PLANTED}-of-the-project"
    assert end_of("worker-token", "--verbose") == Exit.FAILED
    told = "".join(capfd.readouterr())
    assert "Traceback" in told
    assert "could not use [secret] at http://me:[secret]@proxy. This is a bug" in told
    assert PLANTED not in told
