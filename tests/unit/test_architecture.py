"""Imports go one way, and doors stay where they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runhold

PACKAGE = Path(runhold.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "credentials": set(),
    "tls": set(),
    "environment": {"credentials", "errors", "tls"},
    "agents": {"errors"},
    "loop": {"agents", "credentials", "errors"},
    "models": {"loop", "environment", "errors", "tls"},
    "telemetry": {"credentials", "errors"},
    "store": {"loop", "environment", "errors", "telemetry", "credentials", "tls"},
    "runtime": {
        "store",
        "loop",
        "agents",
        "models",
        "telemetry",
        "credentials",
        "environment",
        "errors",
        "tls",
    },
    "audit": {"errors"},
    "local": {"errors", "models"},
    "testing": {"models", "loop", "local", "store", "agents", "errors"},
    "cli": {
        "runtime",
        "store",
        "loop",
        "agents",
        "models",
        "telemetry",
        "audit",
        "local",
        "credentials",
        "environment",
        "errors",
        "testing",
        "tls",
    },
    "__main__": {"cli"},
    "__init__": {"agents", "errors"},
}
"""Part of the package → what it may import of the others. Within a part everything goes."""

FORBIDDEN_LIBRARIES: dict[str, set[str]] = {
    "agents": {"httpx", "psycopg", "openai", "realtime", "postgrest", "aiohttp"},
    "loop": {"httpx", "psycopg", "openai", "realtime", "postgrest", "supabase", "aiohttp"},
    "runtime": {"psycopg", "aiohttp"},
    "store": {"psycopg", "aiohttp"},
    "audit": {"httpx", "psycopg", "openai", "realtime", "postgrest", "supabase", "aiohttp"},
}
"""The loop knows no SQL and no HTTP; what needs the extra [local] is reached from local/, cli/ and tests alone."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(dotted name, line, whether only for type checkers) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name"
            assert node.module is not None
            if node.module == "runhold":
                for name in node.names:
                    yield f"runhold.{name.name}", node.lineno, id(node) in typing_only
            else:
                yield node.module, node.lineno, id(node) in typing_only


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"{path.name}: a new part of the package: say here what it may import"
    public = {"Agent", "tool", "Limits", "RunContext", "ToolFailed", "__version__"}
    for name, line, typing_only in imports(path):
        library = name.split(".")[0]
        if library == "runhold":
            target = name.split(".")[1] if "." in name else "__init__"
            target = "__init__" if target in public else target
            allowed = (
                ALLOWED[part] | {part} | ({"__init__"} if part not in {"errors", "agents", "loop"} else set())
            )
            assert target in allowed, f"{path}:{line}: {part} must not import {name}"
        elif not typing_only:
            assert library not in FORBIDDEN_LIBRARIES.get(part, set()), (
                f"{path}:{line}: {part} must not import {name}"
            )


def test_public_names_are_exported_and_documented() -> None:
    for name in ("Agent", "tool", "Limits", "RunContext", "ToolFailed"):
        assert name in runhold.__all__
        assert getattr(runhold, name).__doc__, f"{name} has no docstring"
