"""What is installed in a Python environment, and under which licence, as its own metadata says.

Metadata is messy: older packages have no ``License-Expression`` but a free text, or only classifiers, or
nothing but a licence file; some are installed twice; some have no metadata left at all. All of it is
reported, none guessed silently: ``source`` says where a licence was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email import message_from_string
from email.message import Message
from importlib.metadata import Distribution, distributions
from typing import Final, Literal

Source = Literal["expression", "field", "classifier", "file", "none"]

LICENCE_FILES: Final = (
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENSE.rst",
    "LICENCE",
    "COPYING",
    "COPYING.txt",
)
"""Where to look when the metadata names no licence file."""

_EXPRESSION: Final = re.compile(r"[A-Za-z0-9.+() -]{2,200}")
_SPDX: Final = """
0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0
CC0-1.0 EPL-2.0 GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ISC LGPL-2.1-only
LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT MIT-0 MIT-CMU MPL-2.0 PSF-2.0 Python-2.0 Unlicense
WTFPL ZPL-2.1 Zlib
"""
_IDENTIFIERS: Final = frozenset(_SPDX.split())
"""SPDX identifiers that a free-text field is believed to mean when it says exactly that."""

_CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL-2.1-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
}

_ALIASES: Final = (
    (re.compile(r"mit( license)?", re.I), "MIT"),
    (re.compile(r"(the )?apache( software)?( license)?,?( version)?[ -]?2(\.0)?", re.I), "Apache-2.0"),
    (re.compile(r"(3-clause bsd|new bsd|bsd[ -]3-clause)( license)?", re.I), "BSD-3-Clause"),
    (re.compile(r"(2-clause bsd|simplified bsd)( license)?", re.I), "BSD-2-Clause"),
    (re.compile(r"bsd( license)?", re.I), "BSD"),
    (re.compile(r"mpl[ -]?2(\.0)?|mozilla public license 2\.0.*", re.I), "MPL-2.0"),
    (re.compile(r"psfl?|python software foundation license", re.I), "PSF-2.0"),
)

_TEXTS: Final = (
    (r"GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL-3.0-only"),
    (r"GNU LESSER GENERAL PUBLIC LICENSE", "LGPL-3.0-only"),
    (r"GNU GENERAL PUBLIC LICENSE", "GPL-3.0-only"),
    (r"Mozilla Public License,? (Version|v\.?) 2\.0", "MPL-2.0"),
    (r"Apache License,?\s+Version 2\.0", "Apache-2.0"),
    (r"PYTHON SOFTWARE FOUNDATION LICENSE", "PSF-2.0"),
    (r"Permission is hereby granted, free of charge", "MIT"),
    (r"Permission to use, copy, modify, and(/or)? distribute", "ISC"),
    (r"Redistribution and use in source and binary forms.*Neither the name", "BSD-3-Clause"),
    (r"Redistribution and use in source and binary forms", "BSD-2-Clause"),
)
"""Words by which the common licences are recognised, the more particular ones first."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One installed distribution.

    :ivar licence: an SPDX expression, or a name such as ``BSD`` where no more is said; None if unknown.
    :ivar said: what the metadata says where no licence could be told from it, shortened.
    """

    name: str
    version: str
    licence: str | None
    source: Source
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What was found.

    :ivar duplicates: names that are installed more than once; the first on the path counts, as for Python.
    :ivar unreadable: folders of distributions without usable metadata.
    :ivar missing: names that were asked for and are not installed.
    """

    packages: list[Package]
    duplicates: list[str] = field(default_factory=list[str])
    unreadable: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])


def read_environment(names: Iterable[str] | None = None, *, path: list[str] | None = None) -> Environment:
    """Read the distributions of this Python, or of ``path``; only ``names``, if given."""
    wanted = None if names is None else {normalised(name): name for name in names}
    packages: dict[str, Package] = {}
    duplicates: set[str] = set()
    unreadable: list[str] = []
    for distribution in distributions() if path is None else distributions(path=path):
        metadata = _metadata(distribution)
        name = "" if metadata is None else str(metadata.get("Name") or "").strip()
        if metadata is None or not name:
            unreadable.append(_folder(distribution))
            continue
        key = normalised(name)
        if wanted is not None and key not in wanted:
            continue
        if key in packages:
            duplicates.add(packages[key].name)
            continue
        licence, source, said = _licence(distribution, metadata)
        version = str(metadata.get("Version") or "unknown")
        packages[key] = Package(name=name, version=version, licence=licence, source=source, said=said)
    return Environment(
        packages=[packages[key] for key in sorted(packages)],
        duplicates=sorted(duplicates),
        unreadable=sorted(unreadable),
        missing=[] if wanted is None else sorted(wanted[key] for key in wanted.keys() - packages.keys()),
    )


def licence_texts(name: str) -> list[tuple[str, str]]:
    """(file name, text) of the licence files that a distribution brings along; empty if it has none."""
    key = normalised(name)
    for distribution in distributions():
        metadata = _metadata(distribution)
        if metadata is not None and normalised(str(metadata.get("Name") or "")) == key:
            return _texts(distribution, metadata)
    return []


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# ------------------------------------------------------------------------------------------------ details


def _metadata(distribution: Distribution) -> Message | None:
    # Not Distribution.metadata: it fails in different ways, version by version, where the file is missing.
    text = _read(distribution, "METADATA") or _read(distribution, "PKG-INFO")
    return message_from_string(text) if text else None


def _read(distribution: Distribution, name: str) -> str | None:
    try:
        return distribution.read_text(name)
    except (OSError, UnicodeDecodeError):
        return None  # as good as absent; the distribution is then reported as unreadable


def _folder(distribution: Distribution) -> str:
    return re.split(r"[/\\]", str(getattr(distribution, "_path", "unknown")))[-1]


def _licence(distribution: Distribution, metadata: Message) -> tuple[str | None, Source, str]:
    if expression := _header(metadata, "License-Expression"):
        return expression, "expression", ""
    said = _header(metadata, "License").splitlines()[0] if _header(metadata, "License") else ""
    if _is_expression(said):
        return said, "field", ""
    if named := _from_classifiers(metadata):
        return named, "classifier", ""
    for pattern, identifier in _ALIASES:
        if pattern.fullmatch(said.strip()):
            return identifier, "field", ""
    for text in (_header(metadata, "License"), *(text for _, text in _texts(distribution, metadata))):
        if recognised := _recognise(text):
            return recognised, "file", ""
    return None, "none", "" if said.upper() == "UNKNOWN" else said[:80]


def _header(metadata: Message, name: str) -> str:
    return str(metadata.get(name) or "").strip()


def _is_expression(text: str) -> bool:
    if not _EXPRESSION.fullmatch(text):
        return False
    words = re.findall(r"[^\s()]+", text)
    return all(word in _IDENTIFIERS or word in ("AND", "OR") for word in words)


def _from_classifiers(metadata: Message) -> str | None:
    names = [
        str(line).split(" :: ")[-1]
        for line in metadata.get_all("Classifier", [])
        if "License :: " in str(line)
    ]
    known = dict.fromkeys(_CLASSIFIERS[name] for name in names if name in _CLASSIFIERS)
    # Nobody says whether several classifiers are a choice: together they promise nothing that is not granted.
    return " AND ".join(known) or None


def _texts(distribution: Distribution, metadata: Message) -> list[tuple[str, str]]:
    named = [str(name) for name in metadata.get_all("License-File", [])]
    found: list[tuple[str, str]] = []
    for name in named or LICENCE_FILES:
        text = _read(distribution, f"licenses/{name}") or _read(distribution, name)
        if text:
            found.append((name, text))
    return found


def _recognise(text: str) -> str | None:
    flat = " ".join(text[:20_000].split())
    return next((name for pattern, name in _TEXTS if re.search(pattern, flat, re.I)), None)
