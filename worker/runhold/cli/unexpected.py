"""What to say about an error that nobody foresaw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_ANYWHERE: Final = frozenset({"HOME", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL", "USER", "_"})
"""Variables whose values stand in many errors that have nothing to do with them."""


def unexpected(error: BaseException, environ: Mapping[str, str] = os.environ) -> str:
    """One sentence about the error.

    A library that can't read a variable of its own quotes the value. Then the sentence names the variable instead of
    calling the error a bug of Runhold.
    """
    text, kind = " ".join(str(error).split()).rstrip("."), type(error).__name__
    names = sorted(
        name for name, value in environ.items() if name not in _ANYWHERE and value and repr(value) in text
    )
    if isinstance(error, (ValueError, OSError, ImportError)) and names:
        which = " or ".join(names)
        return f"{which} in the environment can't be used ({kind}): correct or unset it."
    return f"{kind}: {text}. This is a bug: please report it, with what --verbose says."
