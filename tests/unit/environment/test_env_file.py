"""The file .env: read as people write it, and refused in a sentence with the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runhold.environment.file import find_env_file, load_env_file, read_env_file
from runhold.errors import ConfigError


def test_usual_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(
        b"\xef\xbb\xbfFIRST=a\r\n# a comment\r\nexport SECOND='b c'\n\nTHIRD=\"d\ne\"\nEMPTY=\nBARE\nFOURTH=${FIRST}f # g\n"
    )
    assert read_env_file(path) == {"FIRST": "a", "SECOND": "b c", "THIRD": "d\ne", "FOURTH": "af"}
    assert read_env_file(tmp_path / "none") == {}
    assert read_env_file(path / "below") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"A=1\nKEY=sb_secret_\xff\n", "Line 2 of {path} is not in UTF-8: save the file in that encoding."),
        ("A=1\n".encode("utf-16"), "Line 1 of {path} is not in UTF-8"),
        (b"A=1\nB=2\nhunter2 is it\nC=3\n", "Line 3 of {path} can't be understood: write NAME=value"),
        (b'A=1\n\nB="hunter2\nC=3\n', "Line 3 of {path} can't be understood"),
        (b"A=1\nB=hunter2\0\n", "Line 2 of {path} holds a character with the code 0"),
    ],
)
def test_a_line_that_can_not_be_read_is_named_and_not_shown(
    content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for read in (read_env_file, load_env_file):
        with pytest.raises(ConfigError) as refused:
            read(path)
        assert says.format(path=path) in str(refused.value)
        assert "hunter2" not in str(refused.value)
        assert "sb_secret" not in str(refused.value)
    assert "A" not in os.environ


def test_a_file_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=r"\.env can't be read: Too many levels of symbolic links\."):
        read_env_file(path)


def test_a_folder_is_refused_unless_it_is_a_virtual_environment(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.mkdir()
    with pytest.raises(ConfigError, match=r"\.env is a folder"):
        read_env_file(path)
    (path / "pyvenv.cfg").touch()
    assert read_env_file(path) == {}


def test_the_nearest_file_counts_and_folders_are_passed_over(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "a" / ".env").mkdir()
    (tmp_path / ".env").touch()
    assert find_env_file(below) == tmp_path / ".env"
    (below / ".env").touch()
    assert find_env_file(below) == below / ".env"
    (below / ".env").unlink()
    (tmp_path / ".env").unlink()
    assert find_env_file(below) == below / ".env"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".env"
    path.write_text("RUNHOLD_MODEL=of-the-file\nRUNHOLD_EMAIL=ada@example.com\n")
    monkeypatch.setenv("RUNHOLD_MODEL", "of-the-shell")
    monkeypatch.setenv("RUNHOLD_EMAIL", "")
    monkeypatch.delenv("RUNHOLD_EMAIL")
    load_env_file(path)
    assert (os.environ["RUNHOLD_MODEL"], os.environ["RUNHOLD_EMAIL"]) == ("of-the-shell", "ada@example.com")
