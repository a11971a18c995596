"""Whatever uses the parts of a local stack is skipped on an external project, by a marker that gives the reason.

Types do the rest: what tests have in common is `Project`, which has no parts, so using one of them needs `LocalStack`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LOCAL_FIXTURES, LOCAL_FOLDERS

TESTS = Path(__file__).parents[1]
PARTS = {"LocalStack", "running_stack", "on_its_loop"}
"""Names without which no part of a stack can be stopped, frozen or crashed."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def uses_parts(node: Definition, definitions: dict[str, Definition], seen: frozenset[str]) -> bool:
    """Say whether a definition uses parts, itself or through its module's other definitions and fixtures."""
    found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    found |= {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    if "external" in found:  # a fixture that decides by itself
        return False
    return bool(found & PARTS) or any(
        uses_parts(definitions[name], definitions, seen | {name})
        for name in (found & definitions.keys()) - seen
    )


def is_marked(node: Definition) -> bool:
    """Say whether a test has the marker, or a fixture that implies it."""
    markers = {
        each.attr
        for mark in node.decorator_list
        for each in ast.walk(mark)
        if isinstance(each, ast.Attribute)
    }
    fixtures = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    return "local_stack" in markers or bool(fixtures & LOCAL_FIXTURES.keys())


def unmarked(source: str) -> list[str]:
    """Return the tests that use parts and would not be skipped; of a module without tests, all that use parts."""
    module = ast.parse(source)
    definitions = {node.name: node for node in module.body if isinstance(node, Definition)}
    of_module = [
        each.attr
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
    ]
    if "local_stack" in of_module:
        return []
    tests = {name for name in definitions if name.startswith("test_")} or definitions.keys()
    return [
        name
        for name in sorted(tests)
        if uses_parts(definitions[name], definitions, frozenset({name})) and not is_marked(definitions[name])
    ]


def modules() -> Iterator[Path]:
    for path in sorted([*(TESTS / "stack").rglob("*.py"), *(TESTS / "chaos").rglob("*.py")]):
        if not LOCAL_FOLDERS.keys() & set(path.relative_to(TESTS).parts):
            yield path


def test_what_uses_parts_of_a_stack_has_the_marker() -> None:
    found = {path.name: names for path in modules() if (names := unmarked(path.read_text("utf-8")))}
    assert not found
    assert any(path.name == "test_outages.py" for path in modules())


FIXTURE = """
@pytest.fixture
def breakable(own: Project) -> LocalStack: ...
"""
HELPER = """
async def crash(stack):
    await on_its_loop(stack, stack.postgres.stop())
"""


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (FIXTURE + "def test_it(breakable): ...", ["test_it"]),
        (HELPER + "async def test_it(stack):\n    await crash(stack)", ["test_it"]),
        ("def test_it(stack: LocalStack): ...\ndef test_that(stack: Project): ...", ["test_it"]),
        ("def test_it():\n    with running_stack() as stack: ...", ["test_it"]),
        (FIXTURE + "@pytest.mark.local_stack('freezes')\ndef test_it(breakable): ...", []),
        ("pytestmark = [pytest.mark.local_stack('all')]" + FIXTURE + "def test_it(breakable): ...", []),
        ("def test_it(local_stack: LocalStack): ...", []),
        ("@pytest.fixture\ndef own(external):\n    running_stack()\ndef test_it(own): ...", []),
        (HELPER, ["crash"]),
    ],
)
def test_a_test_without_the_marker_is_found(source: str, names: list[str]) -> None:
    assert unmarked(source) == names
