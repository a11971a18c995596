"""What people type: JSON and times."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runhold.cli.exits import UsageError
from runhold.cli.options import read_json, read_object, read_since


def test_json_comes_from_the_option_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "input.json").write_text('{"name": "Ada"}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"from": "stdin"}'))
    assert read_json('{"a": [1]}', "--input") == {"a": [1]}
    assert read_json(f"@{tmp_path / 'input.json'}", "--input") == {"name": "Ada"}
    assert read_json("-", "--input") == {"from": "stdin"}


@pytest.mark.parametrize("text", ["{", "", "name=Ada", "@/no/such/file", "{'a': 1}"])
def test_what_is_no_json_is_a_usage_error_that_names_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        read_json(text, "--input")


def test_an_object_is_asked_for_where_one_is_needed() -> None:
    with pytest.raises(UsageError, match="must be a JSON object"):
        read_object("[1]", "--edit")


@pytest.mark.parametrize(
    ("text", "span"), [("30m", 1800), ("24h", 86400), ("7d", 604800), ("2w", 1209600), ("1.5h", 5400)]
)
def test_a_span_counts_back_from_now(text: str, span: float) -> None:
    assert abs(datetime.now(UTC) - timedelta(seconds=span) - read_since(text)) < timedelta(seconds=5)


def test_a_date_is_taken_as_it_is() -> None:
    assert read_since("2026-01-31T12:00:00+00:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read_since("2026-01-31").tzinfo is not None


def test_anything_else_is_no_time() -> None:
    with pytest.raises(UsageError, match="no time"):
        read_since("yesterday")
