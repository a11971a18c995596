"""What is kept of runs, from the command line: exported, verified, deleted."""

from __future__ import annotations

import stat
from pathlib import Path

import letters
import psycopg
import pytest
from shell import Runhold
from supabase_project import Project

People = tuple[str, str]


@pytest.fixture
def run(runhold: Runhold, worker: None, people: People) -> str:
    """A run of the user's that sent a letter, with the reviewer's approval."""
    letters.SENT.clear()
    run = runhold("submit", "letters", "-i", '{"do": "send"}').out.strip()
    assert runhold("watch", run, "--until-review").status == 7
    approved = runhold(
        "approve", run, "--as", people[1], "--comment", "Ünï 🦀", "--edit", '{"to": "bob", "text": "hello"}'
    )
    assert approved.status == 0, approved.err
    assert runhold("watch", run).status == 0
    return run


def test_a_run_is_exported_and_verified(
    runhold: Runhold,
    run: str,
    people: People,
    stack: Project,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.secret_key)
    # no float has these digits
    number = "12345678901234567890.123456789"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            "update agent_executions set metadata = jsonb_build_object('n', %s::numeric) where id = %s",
            [number, run],
        )
    exported = runhold("export", run, "--service", "--output", "run.json")
    assert (exported.status, exported.out) == (0, "")
    head = exported.err.split()[-1]
    file = tmp_path / "run.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text("utf-8")
    assert f'"n":{number}' in text
    assert '"comment":"Ünï 🦀"' in text
    assert "Write letters." in text  # the instructions

    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")  # nothing there: nobody is asked
    verified = runhold("verify", "run.json", "--head", head)
    assert verified.status == 0, verified.err
    assert f"records of run {run}, as they were exported; the head is the one that was kept." in verified.out
    assert "Approvals that were used: 1, each for what then ran." in verified.out
    assert "Hashes of what was asked: 1 made anew and equal.\n" in verified.out
    report = runhold("verify", "run.json", "--json").json
    assert (report["harm"], report["head"], report["findings"]) == (None, head, [])

    for content, options, status, says in (
        (text.replace('"bob"', '"eve"', 1), (), 10, "run.json was changed. Record "),
        (text, ("--head", "0" * 64), 10, "The head is not the one that was kept"),
        (
            text[: len(text) // 2],
            (),
            11,
            "run.json was cut short. The file ends in the middle of its records.",
        ),
        (
            "\n".join([*text.splitlines()[:3], text.splitlines()[3].rstrip(","), "]}"]),
            (),
            11,
            "are missing at the end.",
        ),
        ("hello", (), 9, "run.json can't be checked. It is not JSON (line 1, column 1)."),
        ('{"format":"runhold-export/7"}', (), 9, "this version reads runhold-export/1."),
    ):
        file.write_text(content, "utf-8")
        said = runhold("verify", "run.json", *options)
        assert (said.status, said.out, said.err.count("\n")) == (status, "", 1), said.err
        assert says in said.err
    assert runhold("verify", "run.json", "--json").out == ""
    assert runhold("verify", "nowhere.json").status == 3


def test_owners_export_theirs_and_strangers_none(runhold: Runhold, run: str) -> None:
    theirs = runhold("export", run[:8])
    assert theirs.status == 0
    assert f"records of run {run[:8]}." in theirs.err
    kinds = [entry["record"]["kind"] for entry in theirs.json["records"]]
    assert kinds[:2] == ["export", "execution"]
    assert "Write letters." not in theirs.out
    assert runhold("login", "stranger-to-exports@example.org", "--sign-up").status == 0
    assert runhold("export", run).status == 3
    assert runhold("export", run, "--service").status == 4  # no key here


def test_old_runs_are_deleted(
    runhold: Runhold, run: str, stack: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runhold("prune", "--older-than", "90 days").status == 2
    assert runhold("prune", "--older-than", "90d").status == 4  # no key here
    monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.secret_key)
    assert runhold("prune", "--older-than", "10m").status == 1
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            "update agent_executions set completed_at = now() - interval '91 days' where id = %s", [run]
        )
        deleted = runhold("prune", "--older-than", "90d", "--limit", "1")
        assert (deleted.status, deleted.err) == (0, "1 run deleted.\n")
        assert runhold("prune", "--older-than", "90d", "--json").json == {"deleted": 0}
        assert connection.execute("select from agent_executions where id = %s", [run]).fetchone() is None
