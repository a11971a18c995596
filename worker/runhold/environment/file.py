"""The file ``.env``: where it is, and what stands in it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Final

from dotenv import dotenv_values, load_dotenv
from dotenv.parser import parse_stream

from runhold.errors import ConfigError

NAME: Final = ".env"


def find_env_file(folder: Path) -> Path:
    """The nearest ``.env``, in ``folder`` or above it; if there is none, where one of ``folder`` would be."""
    return next(
        (each / NAME for each in (folder, *folder.parents) if _may_be_read(each / NAME)), folder / NAME
    )


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables that the file sets to something; none if there is no file.

    :raises ConfigError: it can't be read, or a line of it can't be understood; one sentence, with the line's number.
    """
    return {name: value for name, value in dotenv_values(stream=StringIO(_text(path))).items() if value}


def load_env_file(path: Path) -> None:
    """Put the file's variables into the environment of this process, except those that are there.

    :raises ConfigError: as :func:`read_env_file` does.
    """
    load_dotenv(stream=StringIO(_text(path)), override=False)


def _may_be_read(path: Path) -> bool:
    try:
        return path.is_file() or path.is_fifo()
    except OSError:
        return False


def _text(path: Path) -> str:
    """The file's text, of which every line can be understood; empty if there is no file.

    :raises ConfigError: one sentence.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except IsADirectoryError:
        if (path / "pyvenv.cfg").is_file():  # some people's virtual environments have this name
            return ""
        raise ConfigError(
            f"{path} is a folder: remove it, or replace it with a file of NAME=value lines."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"Line {line} of {path} is not in UTF-8: save the file in that encoding.") from None
    if "\0" in text:  # no variable can hold it
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"Line {line} of {path} holds a character with the code 0: write the line anew.")
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            statement = binding.original.string
            empty = statement[: len(statement) - len(statement.lstrip())].count("\n")
            raise ConfigError(
                f"Line {binding.original.line + empty} of {path} can't be understood: write NAME=value, and close "
                "every quote."
            )
    return text
