"""Reading a project's config.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from runhold.local.config import ApiConfig, read_config
from runhold.local.errors import StackError


def write(folder: Path, text: str) -> Path:
    (folder / "supabase").mkdir(exist_ok=True)
    (folder / "supabase" / "config.toml").write_text(text)
    return folder


def test_what_the_file_states_of_auth_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "http://localhost:5173")
    text = """
        project_id = "x"
        [auth]
        site_url = "env(SITE)"
        enable_anonymous_sign_ins = true
        jwt_expiry = 60
        unknown = "is not passed on"
        [auth.email]
        enable_confirmations = true
        [auth.sessions]
        timebox = "24h"
    """
    assert read_config(write(tmp_path, text)).auth == {
        "site_url": "http://localhost:5173",
        "enable_anonymous_sign_ins": True,
        "jwt_expiry": 60,
        "email": {"enable_confirmations": True},
        "sessions": {"timebox": "24h"},
    }


def test_a_file_that_states_nothing_allows_nothing(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "")).auth == {}


def test_a_folder_without_the_file_allows_anonymous_users(tmp_path: Path) -> None:
    assert read_config(tmp_path).auth == {"enable_anonymous_sign_ins": True}


def test_settings_of_rest_have_the_clis_defaults(tmp_path: Path) -> None:
    assert read_config(tmp_path).api == ApiConfig()
    assert ApiConfig() == ApiConfig(
        schemas=("public", "graphql_public"),
        extra_search_path=("public", "extensions"),
        max_rows=1000,
        expose_new_tables=False,
    )
    text = """
        [api]
        schemas = ["app", "public"]
        extra_search_path = []
        max_rows = 5
        auto_expose_new_tables = true
    """
    assert read_config(write(tmp_path, text)).api == ApiConfig(
        schemas=("public", "app"), extra_search_path=("public",), max_rows=5, expose_new_tables=True
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[auth", "is not valid TOML"),
        ("auth = 1", "sections"),
        (
            "[auth]\nenable_signup = 'yes'",
            "auth.enable_signup is 'yes', and the local stack needs true or false",
        ),
        ("[auth]\njwt_expiry = true", "auth.jwt_expiry is True, and the local stack needs a number"),
        ("[auth.email]\notp_length = 1.5", "auth.email.otp_length is 1.5"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(StackError, match=r"config\.toml") as refusal:
        read_config(write(tmp_path, text))
    assert says in str(refusal.value)


def test_a_value_of_the_environment_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTH", "hunter2")
    with pytest.raises(StackError) as refusal:
        read_config(write(tmp_path, "[auth]\nminimum_password_length = 'env(LENGTH)'"))
    assert "auth.minimum_password_length is env(LENGTH), and the local stack needs a number" in str(
        refusal.value
    )
    assert "hunter2" not in str(refusal.value)
