"""Sessions are kept per project and person, and nobody else can read them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from runhold.cli.exits import CommandError
from runhold.cli.sessions import FILE, Session, Sessions


def session(email: str) -> Session:
    return Session(email=email, user_id="u", access_token="a", refresh_token="r", expires_at=1)


def test_a_session_is_private_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    Sessions(folder, "http://a").put(session("Ada@example.com"), make_current=True)
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert Sessions(folder, "http://a").get("ada@EXAMPLE.com") == session("Ada@example.com")
    assert Sessions(folder, "http://b").get("ada@example.com") is None


def test_the_last_who_signed_in_acts_until_they_sign_out(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, "http://a")
    assert sessions.current() is None
    sessions.put(session("ada@example.com"), make_current=True)
    sessions.put(session("grace@example.com"), make_current=True)
    sessions.put(session("alan@example.com"), make_current=False)
    assert sessions.current() == "grace@example.com"
    assert sessions.people() == ["ada@example.com", "alan@example.com", "grace@example.com"]
    sessions.forget("grace@example.com")
    assert sessions.current() == "ada@example.com"


def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(CommandError, match="delete it and sign in again"):
        Sessions(tmp_path, "http://a").current()


def test_tokens_do_not_show_in_a_repr() -> None:
    assert "access" not in repr(
        Session(email="e", user_id="u", access_token="access", refresh_token="r", expires_at=1)
    ).replace("access_token", "")
