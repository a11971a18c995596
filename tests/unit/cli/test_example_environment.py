"""The example reads licences as they are found in real environments, and in odd ones."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from examples.compliance.document import assess, render
from examples.compliance.environment import Package, licence_texts, read_environment
from examples.compliance.policy import Rule, judge

RULES = [
    Rule(licence="MIT*", verdict="allowed", reason="permissive"),
    Rule(licence="BSD*", verdict="allowed", reason="permissive"),
    Rule(licence="Apache-2.0", verdict="allowed", reason="permissive"),
    Rule(licence="LGPL-*", verdict="review", reason="weak copyleft"),
    Rule(licence="GPL-*", verdict="forbidden", reason="strong copyleft"),
    Rule(licence="GPL-2.0-only", verdict="review", reason="ask"),
]


def install(folder: Path, name: str, metadata: str | None, **files: str) -> None:
    """A distribution as an installer leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    if metadata is not None:
        header = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(header + metadata, encoding="utf-8")
    for path, text in files.items():
        (info / path).write_text(text, encoding="utf-8")


def only(folder: Path) -> Package:
    [package] = read_environment(path=[str(folder)]).packages
    return package


def test_this_very_environment_is_read_completely() -> None:
    environment = read_environment()
    names = {package.name.lower() for package in environment.packages}
    assert {"pydantic", "supabase", "openai", "pytest"} <= names
    assert len(names) > 40
    known = [package for package in environment.packages if package.licence]
    assert len(known) / len(environment.packages) > 0.9
    assert {package.source for package in known} >= {"expression", "classifier", "field"}
    assert sum(1 for _ in distributions()) >= len(environment.packages)


def test_licence_texts_are_the_real_files() -> None:
    texts = dict(licence_texts("rich"))
    assert any("Permission is hereby granted" in text for text in texts.values())
    assert licence_texts("no-such-package") == []


@pytest.mark.parametrize(
    ("metadata", "licence", "source"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", "MIT OR Apache-2.0", "expression"),
        (
            "License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License\n",
            "BSD-3-Clause",
            "field",
        ),
        ("License: see file\nClassifier: License :: OSI Approved :: MIT License\n", "MIT", "classifier"),
        ("License: Apache License, Version 2.0\n", "Apache-2.0", "field"),
        (
            "License: Copyright Somebody\n        Permission is hereby granted, free of charge, to any\n",
            "MIT",
            "file",
        ),
        ("Classifier: License :: OSI Approved\n", None, "none"),
        ("License: UNKNOWN\n", None, "none"),
        ("", None, "none"),
        (
            "Classifier: License :: OSI Approved :: MIT License\n"
            "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)\n",
            "MIT AND GPL-3.0-only",
            "classifier",
        ),
    ],
)
def test_every_way_to_declare_a_licence(
    tmp_path: Path, metadata: str, licence: str | None, source: str
) -> None:
    install(tmp_path, "thing", metadata)
    assert (only(tmp_path).licence, only(tmp_path).source) == (licence, source)


def test_a_licence_file_speaks_where_the_metadata_is_silent(tmp_path: Path) -> None:
    install(
        tmp_path, "thing", "License-File: COPYING\n", COPYING="GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3"
    )
    assert (only(tmp_path).licence, only(tmp_path).source) == ("LGPL-3.0-only", "file")


def test_what_is_said_but_not_understood_is_reported(tmp_path: Path) -> None:
    install(tmp_path, "thing", "License: Beerware, revision 42\n")
    assert only(tmp_path).said == "Beerware, revision 42"


def test_duplicates_and_wrecks_are_named(tmp_path: Path) -> None:
    install(tmp_path / "a", "My_Thing", "License: MIT\n")
    install(tmp_path / "b", "my-thing", "License: GPL-3.0-only\n")
    install(tmp_path / "b", "wreck", None)
    environment = read_environment(path=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert [(package.name, package.licence) for package in environment.packages] == [("My_Thing", "MIT")]
    assert environment.duplicates == ["My_Thing"]
    assert environment.unreadable == ["wreck-1.0.dist-info"]


def test_asked_for_packages_are_found_by_any_spelling_and_missing_ones_named() -> None:
    environment = read_environment(["Pydantic_Core", "not-installed"])
    assert [package.name for package in environment.packages] == ["pydantic_core"]
    assert environment.missing == ["not-installed"]


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("MIT", "allowed"),
        ("mit", "allowed"),
        ("GPL-3.0-only", "forbidden"),
        ("GPL-2.0-only", "review"),
        ("GPL-3.0-only OR MIT", "allowed"),
        ("MIT AND GPL-3.0-only", "forbidden"),
        ("(LGPL-3.0-only OR GPL-3.0-only) AND MIT", "review"),
        ("MIT OR LGPL-3.0-only AND GPL-3.0-only", "allowed"),
        ("GPL-3.0-only WITH Classpath-exception-2.0", "forbidden"),
        ("Unheard-Of-1.0", "review"),
        ("MIT OR", "review"),
        ("(MIT", "review"),
        (")", "review"),
        ("", "review"),
        (None, "review"),
    ],
)
def test_the_policy_judges_expressions(licence: str | None, verdict: str) -> None:
    judgement = judge(licence, RULES)
    assert judgement.verdict == verdict
    assert judgement.reason


def test_the_document_holds_every_package_even_of_a_large_environment(tmp_path: Path) -> None:
    for number in range(400):
        install(
            tmp_path,
            f"thing{number}",
            ("License: MIT\n", "License: GPL-3.0-only\n", "License: a | b\n")[number % 3],
        )
    assessment = assess(read_environment(path=[str(tmp_path)]), RULES)
    body = render(
        assessment, project="x", python=sys.version, date="2026-01-31", summary="s", recommendations=["r"]
    )
    assert len(assessment.findings) == 400
    assert [assessment.count(verdict) for verdict in ("allowed", "review", "forbidden")] == [134, 133, 133]
    table = body.partition("## All packages")[2]
    assert table.count("\n| thing") == 400
    assert "a \\| b" in table
