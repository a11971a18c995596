"""``runhold worker-token``: signed here, printed once, and nothing else is shown."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from runhold.cli.app import run

SECRET = "a secret of thirty-two characters"


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUPABASE_URL", "https://x.supabase.co")
    for name in ("SUPABASE_JWT_SECRET", "SUPABASE_JWT_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_signed_with_the_projects_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SUPABASE_URL")  # the key is enough
    monkeypatch.setenv("SUPABASE_JWT_SECRET", SECRET)
    assert run(["worker-token", "--days", "30"]) == 0
    shown = capsys.readouterr()
    claims: dict[str, Any] = jwt.decode(shown.out.strip(), SECRET, algorithms=["HS256"])  # pyright: ignore
    assert claims["role"] == "runhold_worker"
    assert claims["exp"] - claims["iat"] == 30 * 24 * 3600
    assert time.strftime("%Y-%m-%d", time.gmtime(claims["exp"])) in shown.err
    assert SECRET not in shown.out + shown.err
    assert shown.out.count("\n") == 1


def test_a_signing_key_goes_before_and_is_named_in_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    members: dict[str, Any] = ECAlgorithm.to_jwk(private, as_dict=True)
    monkeypatch.setenv("SUPABASE_JWT_SECRET", SECRET)
    monkeypatch.setenv("SUPABASE_JWT_SIGNING_KEY", json.dumps({**members, "kid": "key-1"}))
    assert run(["worker-token", "--json"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert jwt.get_unverified_header(answer["token"])["kid"] == "key-1"
    claims: dict[str, Any] = jwt.decode(answer["token"], private.public_key(), algorithms=["ES256"])  # pyright: ignore
    assert answer["expires_on"] == time.strftime("%Y-%m-%d", time.gmtime(claims["exp"]))
    assert members["d"] not in shown.out + shown.err


def test_without_a_key_to_sign_with_it_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker-token"]) == 4
    assert "SUPABASE_JWT_SIGNING_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["0", "366"])
def test_a_life_out_of_bounds_is_a_usage_error(days: str) -> None:
    assert run(["worker-token", "--days", days]) == 2
