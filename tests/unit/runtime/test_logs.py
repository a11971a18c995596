"""Logs: the same fields for people and machines, and no secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from runhold.runtime.config import WorkerConfig
from runhold.telemetry import configure_logging

log = logging.getLogger("runhold.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in ("runhold", "httpx", "httpcore", "hpack", "websockets", "realtime"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_json_line_has_the_fields_and_the_trace() -> None:
    out = io.StringIO()
    configure_logging(as_json=True, stream=out)
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("run %s", "failed", extra={"run_id": "1", "step": 2, "odd": object})
    said = json.loads(out.getvalue())
    assert (said["level"], said["message"], said["run_id"], said["step"]) == ("error", "run failed", "1", 2)
    assert "ValueError: odd" in said["trace"]
    assert said["at"].endswith("+00:00")


def test_a_line_for_people_has_them_too() -> None:
    out = io.StringIO()
    configure_logging(stream=out)
    log.info("run completed", extra={"run_id": "1", "code": None})
    log.debug("not this")
    assert out.getvalue().strip().endswith("INFO    run completed  run_id=1")


@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_are_not_logged_whoever_tries(as_json: bool) -> None:
    out = io.StringIO()
    configure_logging(level=logging.DEBUG, as_json=as_json, secrets=["sb_secret_x", ""], stream=out)
    log.info("key %s", "sb_secret_x", extra={"key": "sb_secret_x"})
    try:
        raise ValueError("sb_secret_x")
    except ValueError:
        log.exception("oops")
    assert "sb_secret_x" not in out.getvalue()
    assert "[secret]" in out.getvalue()


def test_a_key_of_several_lines_is_hidden_also_where_json_writes_it_differently() -> None:
    out = io.StringIO()
    jwk = json.dumps({"kty": "EC", "d": "the-private-number", "x": "é"}, indent=1)
    config = WorkerConfig(url="https://x.supabase.co", secret_key="sb_secret_1234", jwt_signing_key=jwk)
    configure_logging(as_json=True, secrets=config.secrets, stream=out)
    log.info("a %s", jwk, extra={"config": {"keys": [jwk, b"sb_secret_1234"]}, "number": 1.5})
    log.info("the number is the-private-number")
    for secret in ("the-private-number", "sb_secret_1234", "kty"):
        assert secret not in out.getvalue()
    assert json.loads(out.getvalue().splitlines()[0])["number"] == 1.5


def test_others_are_heard_when_something_is_wrong() -> None:
    out = io.StringIO()
    configure_logging(stream=out)
    logging.getLogger("somebody").info("chat")
    logging.getLogger("somebody").warning("careful")
    assert out.getvalue().count("\n") == 1


def test_chatty_libraries_are_quiet_also_when_we_are_not() -> None:
    out = io.StringIO()
    configure_logging(level=logging.DEBUG, stream=out)
    for name in ("httpx", "websockets.client", "realtime._async.client"):
        logging.getLogger(name).info("chat")
    logging.getLogger("realtime._async.client").error("chat")
    assert out.getvalue() == ""
