"""The command line against a real stack and a real worker: what users, reviewers and scripts do with it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import letters
import pytest
from shell import Runhold

People = tuple[str, str]


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    letters.SENT.clear()
    letters.HOLDING.clear()
    letters.GO.clear()


def submit(runhold: Runhold, wish: str) -> str:
    said = runhold("submit", "letters", "-i", json.dumps({"do": wish}))
    assert said.status == 0, said.err
    return said.out.strip()


def until_review(runhold: Runhold, run: str) -> str:
    """Watch a run up to its gate; the id of the review."""
    assert runhold("watch", run, "--until-review").status == 7
    return next(row["id"] for row in runhold("reviews", "--json").json if row["execution_id"] == run)


# --------------------------------------------------------------------------------------------------- people


def test_people_sign_up_in_and_out(runhold: Runhold, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert runhold("whoami").status == 3
    assert runhold("login", "someone@example.org").status == 3  # no such account
    assert runhold("login", "someone@example.org", "--sign-up").status == 0
    assert runhold("login", "someone@example.org", "--sign-up").status == 1
    assert runhold("whoami", "--json").json["email"] == "someone@example.org"
    [file] = tmp_path.rglob("sessions.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    monkeypatch.setenv("RUNHOLD_PASSWORD", "not that one")
    said = runhold("login", "someone@example.org")
    assert (said.status, said.err.count("\n")) == (3, 1)
    assert runhold("logout").status == 0
    monkeypatch.delenv("RUNHOLD_PASSWORD")
    assert runhold("whoami").status == 3
    assert runhold("logout").status == 3


def test_scripts_sign_in_by_environment(runhold: Runhold, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runhold("login", "robot@example.org", "--sign-up").status == 0
    assert runhold("logout").status == 0
    monkeypatch.setenv("RUNHOLD_EMAIL", "robot@example.org")
    assert runhold("whoami", "--json").json["email"] == "robot@example.org"


def test_an_old_session_is_renewed(runhold: Runhold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runhold("login", "old@example.org", "--sign-up")
    monkeypatch.delenv("RUNHOLD_PASSWORD")
    [file] = tmp_path.rglob("sessions.json")
    content = json.loads(file.read_text())
    [people] = (project["people"] for project in content.values())
    before = dict(people["old@example.org"])
    people["old@example.org"]["expires_at"] = 1
    file.write_text(json.dumps(content))
    assert runhold("list").status == 0
    [people] = (project["people"] for project in json.loads(file.read_text()).values())
    assert people["old@example.org"]["expires_at"] > before["expires_at"] - 5
    assert people["old@example.org"]["refresh_token"] != before["refresh_token"]


# ----------------------------------------------------------------------------------------------------- runs


@pytest.mark.usefixtures("worker", "people")
def test_a_run_from_submit_to_its_result(runhold: Runhold) -> None:
    said = runhold("submit", "letters", "-i", '{"do": "say"}', "--watch")
    assert said.status == 0
    for part in ("you inserted the run", "claimed it", "step 1", "completed it", "Said."):
        assert part in said.out

    lines = runhold("submit", "letters", "-i", '{"do": "say"}', "--watch", "--json").lines
    assert [line["event"] for line in lines if line["kind"] == "event"] == [
        "submitted",
        "claimed",
        "completed",
    ]
    assert lines[-1]["kind"] == "run"
    assert lines[-1]["result"] == {"text": "Said."}


@pytest.mark.usefixtures("worker", "people")
def test_the_id_alone_is_on_standard_output(runhold: Runhold) -> None:
    run = submit(runhold, "say")
    assert len(run) == 36
    assert runhold("watch", run[:8]).status == 0
    shown = runhold("show", run, "--json").json
    assert shown["run"]["id"] == run
    assert [item["kind"] for item in shown["timeline"]].count("step") == 1
    story = runhold("show", run[:13]).out
    assert run in story
    assert "completed" in story
    listed = runhold("list", "--json", "--type", "letters", "--status", "completed").json
    assert listed[0]["id"] == run
    assert run in runhold("list").out  # whole ids where no terminal cuts them


@pytest.mark.usefixtures("worker", "people")
def test_the_same_key_is_the_same_run(runhold: Runhold) -> None:
    first, second = (
        runhold("submit", "letters", "-i", '{"do": "say"}', "--idempotency-key", "k", "--json").json["id"]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.usefixtures("worker", "people")
def test_the_status_of_watch_is_the_runs(runhold: Runhold) -> None:
    failed = runhold("submit", "letters", "-i", '{"do": "refuse"}', "--watch")
    assert failed.status == 5
    assert "MODEL_REFUSED" in failed.out + failed.err

    run = submit(runhold, "send")
    until_review(runhold, run)
    assert runhold("cancel", run, "--reason", "no longer").status == 0
    assert runhold("watch", run).status == 6
    assert "no longer" in runhold("show", run).out
    assert runhold("cancel", run).status == 0  # it is what was asked for
    assert letters.SENT == []


@pytest.mark.usefixtures("worker")
def test_nobody_sees_the_runs_of_others(runhold: Runhold, people: People) -> None:
    run = submit(runhold, "say")
    for command in ("show", "watch", "cancel"):
        said = runhold(command, run, "--as", people[1])
        assert (said.status, said.out) == (3, "")
    assert runhold("list", "--json", "--as", people[1]).json == []


# -------------------------------------------------------------------------------------------------- reviews


@pytest.mark.usefixtures("worker")
def test_approved_it_happens_once(runhold: Runhold, people: People) -> None:
    _, reviewer = people
    run = submit(runhold, "send")
    review = until_review(runhold, run)
    closely = runhold("reviews", review, "--as", reviewer)
    assert "send_letter" in closely.out
    assert "hello" in closely.out

    own = runhold("approve", review)
    assert own.status == 3
    assert "your own run" in own.err
    assert runhold("approve", review[:8], "--as", reviewer).status == 0
    assert runhold("watch", run).status == 0
    assert letters.SENT == ["ada: hello"]
    again = runhold("approve", review, "--as", reviewer)
    assert again.status == 1
    assert "already approved" in again.err


@pytest.mark.usefixtures("worker")
def test_approved_with_changes_the_rest_stays(runhold: Runhold, people: People) -> None:
    run = submit(runhold, "send")
    until_review(runhold, run)
    said = runhold(
        "approve", run[:8], "--edit", '{"to": "grace"}', "-m", "to her", "--json", "--as", people[1]
    )
    assert said.json["edited_input"] == {"to": "grace", "text": "hello"}
    assert runhold("watch", run).status == 0
    assert letters.SENT == ["grace: hello"]
    story = runhold("show", run).out
    for part in (
        'send_letter(to="ada"',
        "with changes: to her",
        'now to="grace"',
        "ran as the reviewer changed it",
    ):
        assert part in story


@pytest.mark.usefixtures("worker")
def test_rejected_it_does_not_happen_and_the_agent_reads_why(runhold: Runhold, people: People) -> None:
    run = submit(runhold, "send")
    review = until_review(runhold, run)
    assert runhold("reject", review, "--as", people[1]).status == 2  # without a word
    assert runhold("reject", review, "-m", "not on sundays", "--as", people[1]).status == 0
    assert runhold("watch", run).status == 0
    assert letters.SENT == []
    assert "not on sundays" in json.dumps(runhold("show", run, "--json").json["run"]["result"])


@pytest.mark.usefixtures("worker")
def test_several_are_decided_each_on_its_own(runhold: Runhold, people: People) -> None:
    _, reviewer = people
    runs = [submit(runhold, "send") for _ in range(3)]
    first, second, third = (until_review(runhold, run) for run in runs)
    assert runhold("approve", first, second, "--edit", "{}", "--as", reviewer).status == 2
    assert runhold("approve", first, "abcdef", "--as", reviewer).status == 3  # a mistake decides nothing
    assert runhold("approve", first, "--as", reviewer).status == 0
    some = runhold("approve", first[:8], second[:8], "--as", reviewer)
    assert some.status == 1
    for part in (
        f"{first[:8]} refused",
        "RH007: This review is already",
        f"{second[:8]} approved: send_letter",
    ):
        assert part in some.err
    said = runhold("reject", second, third, "-m", "not on sundays", "--json", "--as", reviewer)
    assert (said.status, [v["verdict"] for v in said.json]) == (1, ["refused", "rejected"])
    assert [runhold("watch", run).status for run in runs] == [0, 0, 0]
    assert letters.SENT == ["ada: hello", "ada: hello"]


@pytest.mark.usefixtures("people")
def test_nothing_waits_is_said_beside_the_output(runhold: Runhold) -> None:
    said = runhold("reviews")
    assert (said.status, said.out) == (0, "")
    assert runhold("reviews", "--json").json == []


# ------------------------------------------------------------------------------------------ health, refusals


@pytest.mark.usefixtures("worker", "people")
def test_health_is_ones_own(runhold: Runhold) -> None:
    assert "No runs" in runhold("health").out
    runhold("submit", "letters", "-i", '{"do": "say"}', "--watch")
    metrics = runhold("health", "letters", "--since", "1h", "--json").json
    assert (metrics["runs"], metrics["completion_rate"]) == (1, 1)
    assert "1 (1 completed)" in runhold("health").out
    assert runhold("health", "--since", "yesterday").status == 2


@pytest.mark.usefixtures("worker", "people")
@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("submit", "nothing"), 1, "no agent type"),
        (("submit", "letters", "-i", "[1]"), 1, "must be a JSON object"),
        (("submit", "letters", "-i", "{"), 2, "no JSON"),
        (("submit", "letters", "--limits", '{"max_steps": -1}'), 1, "above 0"),
        (("show", "abcdef"), 3, "no run"),
        (("show", "ab"), 3, "at least"),
        (("show", "../etc"), 3, "no id"),
        (("approve", "abcdef"), 3, "no review"),
        (("cancel", "00000000-0000-0000-0000-000000000000"), 3, "no such run"),
        (("list", "--status", "odd"), 2, "no status"),
    ],
)
def test_refusals_are_one_sentence_and_a_status(
    runhold: Runhold, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    said = runhold(*arguments)
    assert (said.status, said.out) == (status, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("people")
def test_a_project_that_is_not_there(runhold: Runhold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:9")
    assert runhold("login", "ada@example.org").status == 4
    monkeypatch.delenv("SUPABASE_PUBLISHABLE_KEY")
    missing = runhold("list")
    assert missing.status == 4
    assert "SUPABASE_PUBLISHABLE_KEY" in missing.err
    monkeypatch.delenv("SUPABASE_URL")
    nowhere = runhold("list")
    assert nowhere.status == 4
    assert "runhold dev" in nowhere.err


def test_a_wrong_key_is_told(runhold: Runhold, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_wrong")
    said = runhold("list")
    assert said.status == 4
    assert "SUPABASE_PUBLISHABLE_KEY" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("project")
def test_the_installed_command_is_the_same() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "runhold", "list"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr.startswith("Error: You are not signed in")
