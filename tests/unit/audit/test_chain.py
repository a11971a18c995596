"""Whatever is done to an export is seen and named, by ``runhold verify`` and by the program on the reference page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runhold.audit import FORMAT, Harm, NotAnExport, Sealed, seal, verify
from runhold.audit.exact import canonical, jsonb_text, read

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "export.md"

Change = Callable[[dict[str, Any]], object]


def harmed(sealed: Sealed, change: Change) -> bytes:
    file = json.loads(sealed.content)
    change(file)
    return json.dumps(file, ensure_ascii=False).encode()


def row(file: dict[str, Any], number: int) -> dict[str, Any]:
    return file["records"][number - 1]["record"]["row"]


def move(file: dict[str, Any], number: int, to: int) -> None:
    file["records"].insert(to - 1, file["records"].pop(number - 1))


def insert(file: dict[str, Any], at: int, **record: Any) -> None:
    file["records"].insert(at - 1, {"record": {"kind": "event", "row": {}, **record}, "sha256": "0" * 64})


HARMS: dict[str, tuple[Change, Harm, str]] = {
    "changed": (lambda file: row(file, 5).update(tool_input={"to": "eve"}), Harm.CHANGED, "Record 5 (tool_call) was changed."),
    "a number's digits": (lambda file: row(file, 5)["tool_output"].update(amount=0.10000000000000002), Harm.CHANGED, "Record 5 (tool_call) was changed."),
    "two changed": (lambda file: [row(file, n).update(x=1) for n in (3, 4)], Harm.CHANGED, "Records 3 to 4 were changed."),
    "removed": (lambda file: file["records"].pop(6), Harm.CHANGED, "Record 7 was removed."),
    "first removed": (lambda file: file["records"].pop(0), Harm.CHANGED, "The first record, which says how many there are, is missing or was changed."),
    "moved": (lambda file: move(file, 6, 3), Harm.CHANGED, "Record 6 stands in another place than before."),
    "added": (lambda file: insert(file, 4, n=99), Harm.CHANGED, "What stands at place 4 was added."),
    "added twice": (lambda file: file["records"].append(file["records"][-1]), Harm.CHANGED, "What stands at place 9 was added."),
    "added without a number": (lambda file: insert(file, 9), Harm.CHANGED, "What stands at place 9 was added."),
    "a hash": (lambda file: file["records"][-1].update(sha256="0" * 64), Harm.CHANGED, "Record 8 (event) was changed."),
    "no record": (lambda file: file["records"].append("x"), Harm.CHANGED, "What stands at place 9 is no record."),
    "a note beside": (lambda file: file["records"][2].update(note="x"), Harm.CHANGED, "What stands at place 3 is no record."),
    "a note above": (lambda file: file.update(note="x"), Harm.CHANGED, "The file has members that no export has, or lacks some."),
    "the head": (lambda file: file.update(head="0" * 64), Harm.CHANGED, "The head that the file names is not its last record's hash."),
    "the count": (lambda file: row(file, 1).update(count=7), Harm.CHANGED, "What stands at place 8 was added."),
    "cut by one": (lambda file: file["records"].pop(), Harm.TRUNCATED, "Record 8 of 8 is missing at the end."),
    "cut": (lambda file: file.update(records=file["records"][:3], head=file["records"][2]["sha256"]), Harm.TRUNCATED, "Records 4 to 8 of 8 are missing at the end."),
    "emptied": (lambda file: file.update(records=[]), Harm.CHANGED, "The first record, which says how many there are, is missing or was changed."),
    "half a character": (lambda file: row(file, 5).update(text="\ud800"), Harm.CHANGED, "Record 5 (tool_call) was changed."),
}  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The check that the reference page shows."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"^(?:import|from) (.+)$", block, flags=re.MULTILINE)) == {"hashlib, json, sys"}
    path = tmp_path / "check.py"
    path.write_text(block, "utf-8")
    return path


def checked_by(program: Path, content: bytes, *heads: str) -> subprocess.CompletedProcess[str]:
    file = program.with_name("run.json")
    file.write_bytes(content)
    return subprocess.run(
        [sys.executable, "-I", str(program), str(file), *heads], capture_output=True, text=True, check=False
    )


def test_an_export_is_as_it_was(sealed: Sealed) -> None:
    report = verify(sealed.content, head=sealed.head)
    assert (report.findings, report.harm) == ((), None)
    assert (report.execution_id, report.records, report.head) == ("run-1", 8, sealed.head)


def test_the_first_hash_is_what_the_page_says(sealed: Sealed) -> None:
    """Constants, so that no later change makes old exports unreadable."""
    first = json.loads(sealed.content)["records"][0]
    assert first["sha256"] == "7a188657b11b4d3465e62e79f42eac73d94448fb293c672c9c96676c8671134a"
    assert sealed.content.startswith(b'{"format":"runhold-export/1","head":"')


@pytest.mark.parametrize(("change", "harm", "text"), HARMS.values(), ids=HARMS.keys())
def test_what_was_done_is_named(sealed: Sealed, change: Change, harm: Harm, text: str) -> None:
    report = verify(json_bytes(sealed, change))
    assert report.harm == harm
    assert text in [finding.text for finding in report.findings]


def json_bytes(sealed: Sealed, change: Change) -> bytes:
    try:
        return harmed(sealed, change)
    except UnicodeEncodeError:  # half a surrogate pair can only be written as an escape
        file = json.loads(sealed.content)
        change(file)
        return json.dumps(file).encode()


def test_the_page_s_program_agrees(sealed: Sealed, program: Path) -> None:
    """One process for each harm that needs other eyes than the last: the rest is a matter of naming."""
    whole = checked_by(program, sealed.content, sealed.head)
    assert (whole.returncode, whole.stdout) == (0, f"8 records, as they were exported; head {sealed.head}\n")
    for name in (
        "changed",
        "a number's digits",
        "removed",
        "moved",
        "a note beside",
        "the count",
        "cut",
        "the head",
    ):
        said = checked_by(program, harmed(sealed, HARMS[name][0]))
        assert said.returncode == 1, name
        assert "Traceback" not in said.stderr, name
    assert checked_by(program, sealed.content, "0" * 64).returncode == 1
    twice = sealed.content.replace(b'{"kind":"completed"}', b'{"kind":"failed","kind":"completed"}')
    assert checked_by(program, twice).returncode == 1


def test_harms_that_are_not_in_the_json_s_value(sealed: Sealed) -> None:
    content = sealed.content
    twice = content.replace(b'{"kind":"completed"}', b'{"kind":"failed","kind":"completed"}')
    assert twice != content
    assert [finding.text for finding in verify(twice).findings] == ["An object names 'kind' twice."]
    crab = content.index("🦀".encode())
    for end in (len(content) - 4, content.index(b"review-1"), crab + 2):
        assert verify(content[:end]).harm == Harm.TRUNCATED, content[:end][-20:]
    assert verify(content.replace(b'"kind":"step"', b'"kind":step"')).harm == Harm.CHANGED
    assert verify(content[:crab] + content[crab + 1 :]).harm == Harm.CHANGED
    assert verify(content.replace(b"0.1", b"NaN")).harm == Harm.CHANGED


def test_a_copy_that_was_set_out_for_reading_is_still_as_it_was(sealed: Sealed) -> None:
    assert verify(json.dumps(json.loads(sealed.content), indent=2).encode(), head=sealed.head).harm is None


def test_only_the_head_that_was_kept_shows_that_all_was_sealed_anew(
    sealed: Sealed, records: list[dict[str, Any]], sealing: Callable[[list[dict[str, Any]]], Sealed]
) -> None:
    records[-1]["row"]["kind"] = "failed"
    forged = sealing(records)
    assert verify(forged.content).harm is None
    (finding,) = verify(forged.content, head=sealed.head).findings
    assert finding.text.startswith("The head is not the one that was kept")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"not JSON \(line 1, column 1\)"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8"),
        (b"{'a': 1}", r"not JSON \(line 1, column 2\)"),
        (b"[1]", "no export of Runhold"),
        (b'{"format":"other/1"}', "no export of Runhold"),
        (b'{"a":1,"a":2}', "no export of Runhold: 'a' stands twice"),
        (b'{"format":"runhold-export/2","records":[]}', "format runhold-export/2; this version reads runhold-export/1"),
        (b"[" * 100_000, "nested too deep"),
    ],
)  # fmt: skip
def test_other_files_are_no_exports(content: bytes, says: str) -> None:
    with pytest.raises(NotAnExport, match=says):
        verify(content)


def test_numbers_and_texts_stay_as_they_are_written() -> None:
    text = r'{"kind":"x","row":{"a":12345678901234567890.10,"b":-0.000000000000000000001,"c":1E+400,"d":"\u2028é\\u0041\u0001"}}'
    content = seal({}, [text]).content.decode()
    for digits in ("12345678901234567890.10", "-0.000000000000000000001", "1E+400"):
        assert digits in content
    assert '"\u2028é\\\\u0041\\u0001"' in content
    assert verify(content.encode()).harm is None
    assert verify(content.replace("90.10", "90.1").encode()).harm == Harm.CHANGED


def test_the_two_texts_of_a_value() -> None:
    value = read('{"é": [1.0, true, null], "zz": {}, "b": "\\"", "🦀": [], "~": 2}')
    assert canonical(value) == '{"b":"\\"","zz":{},"~":2,"é":[1.0,true,null],"🦀":[]}'
    assert jsonb_text(value) == '{"b": "\\"", "~": 2, "zz": {}, "é": [1.0, true, null], "🦀": []}'


def test_the_page_names_the_format() -> None:
    assert f'"format":"{FORMAT}"' in PAGE.read_text("utf-8")
