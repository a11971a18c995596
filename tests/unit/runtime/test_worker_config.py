"""What a worker is told, and one sentence per mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runhold.errors import ConfigError
from runhold.runtime.config import SECRET_VARIABLES, WorkerConfig

ENV = {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SECRET_KEY": "sb_secret_x"}


def test_the_environment_is_enough() -> None:
    config = WorkerConfig.from_env(
        ENV | {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x", "SUPABASE_JWT_SECRET": "s"}
    )
    assert (config.url, config.secret_key, config.publishable_key, config.jwt_secret) == (
        "https://x.supabase.co",
        "sb_secret_x",
        "sb_publishable_x",
        "s",
    )
    assert (config.capacity, config.lease_s, config.grace_s, config.realtime) == (64, 30, 25, True)


def test_legacy_names_are_read_and_options_win() -> None:
    config = WorkerConfig.from_env(
        {
            "SUPABASE_URL": "http://127.0.0.1:54321/",
            "SUPABASE_SERVICE_ROLE_KEY": " eyJx.y.z ",
            "SUPABASE_ANON_KEY": "a",
        },
        capacity=2,
        lease_s=5.0,
        grace_s=None,
    )
    assert (config.secret_key, config.publishable_key) == ("eyJx.y.z", "a")
    assert (config.capacity, config.lease_s, config.grace_s) == (2, 5.0, 25)


def test_a_dotenv_file_fills_in_but_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SUPABASE_URL=https://file.test\nSUPABASE_SECRET_KEY=sb_secret_file\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setenv("SUPABASE_URL", "https://shell.test")
    monkeypatch.delenv("SUPABASE_SECRET_KEY", raising=False)
    config = WorkerConfig.from_env()
    assert (config.url, config.secret_key) == ("https://shell.test", "sb_secret_file")


def test_what_is_missing_is_named_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"Set SUPABASE_URL .* Set SUPABASE_SECRET_KEY"):
        WorkerConfig.from_env({})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "x.supabase.co"}, "SUPABASE_URL"),
        ({"url": "https://x.supabase.co/rest/v1"}, "without a path"),
        ({"url": "http://[::1"}, "SUPABASE_URL"),
        ({"url": "http://127.0.0.1:99999"}, "SUPABASE_URL"),
        ({"secret_key": "sb_publishable_x"}, "publishable"),
        ({"secret_key": "sb_secret x"}, "SUPABASE_SECRET_KEY"),
        ({"publishable_key": "sb_secret_x"}, "SUPABASE_PUBLISHABLE_KEY"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": 5000}, "capacity"),
        ({"lease_s": 0.1}, "lease"),
        ({"grace_s": -1}, "grace"),
        ({"poll_s": 0}, "[Pp]oll"),
        ({"poll_s": float("nan")}, "[Pp]oll"),
    ],
)
def test_each_mistake_has_its_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WorkerConfig(**{"url": ENV["SUPABASE_URL"], "secret_key": "sb_secret_x", **given})


def test_keys_are_never_shown() -> None:
    config = WorkerConfig(
        url="https://x.supabase.co",
        secret_key="sb_secret_hidden",
        jwt_secret="hidden",
        publishable_key="hidden",
    )
    assert "hidden" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        WorkerConfig(url="https://x.supabase.co", secret_key="sb_secret hidden")
    assert "hidden" not in str(caught.value)


MAIL = {
    "RUNHOLD_SMTP_URL": "smtps://me:hunter%402@mail.example.org",
    "RUNHOLD_MAIL_FROM": "Us <us@example.org>",
}


def test_mail_is_configured_and_its_password_a_secret() -> None:
    config = WorkerConfig.from_env(ENV | MAIL | {"RUNHOLD_REVIEW_URL": "https://x.example.org/{review_id}"})
    assert (config.mail_from, config.review_url) == (
        "Us <us@example.org>",
        "https://x.example.org/{review_id}",
    )
    assert {MAIL["RUNHOLD_SMTP_URL"], "hunter%402", "hunter@2"} <= set(config.secrets)
    assert "hunter%402" not in repr(config)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (MAIL | {"RUNHOLD_MAIL_FROM": ""}, r"Set RUNHOLD_MAIL_FROM"),
        (MAIL | {"RUNHOLD_MAIL_FROM": "us"}, r"RUNHOLD_MAIL_FROM can't be used"),
        (
            MAIL | {"RUNHOLD_SMTP_URL": "smtps://me:hunter/2@mail.example.org"},
            r"RUNHOLD_SMTP_URL must be like",
        ),
        ({"RUNHOLD_REVIEW_URL": "javascript:alert(1)"}, r"RUNHOLD_REVIEW_URL must start"),
    ],
)
def test_mistakes_in_mail_are_named(environment: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        WorkerConfig.from_env(ENV | environment)
    assert "hunter" not in str(refused.value)


def test_redact_keys_are_read_newest_first_and_hidden() -> None:
    environ = {
        "SUPABASE_URL": "https://x.supabase.co",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
        "RUNHOLD_REDACT_KEY": "newer-key, older-key",
    }
    config = WorkerConfig.from_env(environ)
    assert list(config.redact_keys) == ["newer-key", "older-key"]
    assert {"newer-key", "older-key"} <= set(config.secrets)
    assert "older-key" not in repr(config)
    assert "RUNHOLD_REDACT_KEY" in SECRET_VARIABLES
