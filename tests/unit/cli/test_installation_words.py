"""How a fault of the installation is put into a line, and into a script."""

from __future__ import annotations

from typing import Any

import pytest

from runhold.cli.checkup import compared
from runhold.cli.installation import Fault, Installation, RowsMissing, read_installation


def fault(kind: str, identity: str, state: str = "missing", **more: Any) -> Fault:
    given = {"optional": False, "implied": False, "here": None, "release": None, "sql": f"make {identity};"}
    return Fault(kind=kind, identity=identity, state=state, **{**given, **more})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (fault("trigger", "t on auth.users"), "missing  trigger t on auth.users"),
        (
            fault("rights", "anon on table x", "extra", here="select"),
            "too many rights of anon on table x (here: select)",
        ),
        (
            fault("rights", "anon on table x", "changed", here="select", release="insert"),
            "differs  rights of anon on table x (here: select; release: insert)",
        ),
        (fault("policy", "p on x", "changed", here="a", release="b" * 200), "differs  policy p on x"),
        (fault("function", "f()", "changed"), "differs  function f()"),
        (fault("role membership", "a in b", release="member"), "missing  role membership of a in b"),
    ],
)
def test_a_line_says_what_is_wrong_with_what(given: Fault, line: str) -> None:
    assert given.line == line


def test_what_is_implied_is_in_the_script_and_not_in_the_lines() -> None:
    faults = [
        fault("rights", "anon on table y", "extra"),
        fault("function", "f()"),
        fault("rights", "anon on function f()", implied=True),
    ]
    installation = Installation(faults)
    assert [each.identity for each in installation.named] == ["f()", "anon on table y"]
    script = installation.script
    assert script.index("make f();") < script.index("make anon on function f();")
    assert script.startswith("-- ")
    assert script.endswith("commit;\n")


@pytest.mark.parametrize(
    ("faults", "state"),
    [
        ([], "ok"),
        ([fault("cron job", "j", optional=True)], "degraded"),
        ([fault("cron job", "j", optional=True), fault("index", "i")], "failed"),
    ],
)
def test_what_workers_do_without_is_degraded(faults: list[Fault], state: str) -> None:
    assert compared(Installation(faults)).state == state


def test_no_rows_of_the_release_are_no_good_news() -> None:
    with pytest.raises(RowsMissing):
        read_installation({"objects": 0, "faults": []})
