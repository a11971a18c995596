"""What people do to their runs from the command line: later, stop, again, otherwise, and a word in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import letters
import psycopg
import pytest
from shell import Runhold
from supabase_project import Project
from town import PATIENCE_S

People = tuple[str, str]


@pytest.fixture(autouse=True)
def _count_anew() -> Iterator[None]:
    letters.SENT.clear()
    letters.HOLDING.clear()
    letters.GO.clear()
    yield
    letters.GO.set()  # no thread of the worker stays


def submit(runhold: Runhold, wish: str, *options: str) -> str:
    said = runhold("submit", "letters", "-i", json.dumps({"do": wish}), *options)
    assert said.status == 0, said.err
    return said.out.strip()


def review_of(runhold: Runhold, run: str) -> str:
    """Watch a run until it waits for a person; the open review."""
    assert runhold("watch", run, "--until-review").status == 7
    return next(row["id"] for row in runhold("reviews", "--json").json if row["execution_id"] == run)


@contextmanager
def letting_go_when_cancelled(stack: Project, run: str) -> Iterator[None]:
    """The tool that holds goes on once the run is told to stop: it finishes after the request."""

    def watch() -> None:
        asked = "select from agent_executions where id = %s and cancel_requested_at is not null"
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            while connection.execute(asked, [run]).fetchone() is None and not over.wait(0.05):
                pass
        letters.GO.set()

    over = threading.Event()
    thread = threading.Thread(target=watch, name="let go")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("worker", "people")
def test_a_run_for_later_waits_and_can_be_cancelled(runhold: Runhold) -> None:
    run = submit(runhold, "say", "--in", "2h")
    assert "pending until " in runhold("list").out
    assert "pending until " in runhold("show", run).out
    cancelled = runhold("cancel", run, "--reason", "not needed", "--wait")
    assert (cancelled.status, cancelled.out) == (0, "")
    assert cancelled.err == f"Run {run[:8]} is cancelled.\n"
    assert "“not needed”" in runhold("show", run).out


@pytest.mark.usefixtures("worker", "people")
def test_what_is_said_to_a_living_run_is_read_and_can_be_looked_up(
    runhold: Runhold, stack: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(runhold, "hold")
    assert letters.HOLDING.wait(PATIENCE_S)
    assert "reads it at its next step" in runhold("send", run[:8], "On Friday, please.").err
    letters.GO.set()
    watched = runhold("watch", run)
    assert watched.status == 0
    assert "you said: On Friday, please." in watched.out
    assert "Done: On Friday, please." in watched.out

    late = runhold("send", run, "too late")
    assert (late.status, late.err.count("\n")) == (1, 1)
    assert "already ended" in late.err

    without_key = runhold("request", run, "2")
    assert (without_key.status, without_key.out, without_key.err.count("\n")) == (4, "", 1)
    assert "SUPABASE_SECRET_KEY" in without_key.err
    monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.secret_key)
    last = runhold("show", run, "--json").json["run"]["step_count"]
    asked = runhold("request", run[:8], str(last))
    roles = [message["role"] for message in asked.json["messages"]]
    assert roles[:4] == ["system", "user", "assistant", "tool"]
    assert asked.json["messages"][-1] == {"content": "On Friday, please.", "role": "user"}
    assert f"{len(roles)} messages, 1 of them" in asked.err
    raw = runhold("request", run, str(last), "--raw").out
    assert json.loads(raw) == {**asked.json, "stream": True, "stream_options": {"include_usage": True}}
    assert "\n" not in raw
    assert f"has {last} steps" in runhold("request", run, str(last + 1)).err


@pytest.mark.usefixtures("worker", "people")
def test_a_cancel_that_waits_says_what_finished_after_it(runhold: Runhold, stack: Project) -> None:
    run = submit(runhold, "stay")
    assert letters.HOLDING.wait(PATIENCE_S)
    with letting_go_when_cancelled(stack, run):
        said = runhold("cancel", run, "--reason", "wrong customer", "--wait")
    assert said.status == 0
    assert said.err == f"Run {run[:8]} is cancelled. Finished after the request: hold.\n"
    shown = runhold("show", run).out
    assert "“wrong customer” Finished after the request: hold." in shown
    refused = runhold("retry", run)
    assert refused.status == 1
    assert "Only a failed run can be retried" in refused.err
    assert "agent_fork" in refused.err


@pytest.mark.usefixtures("worker")
def test_an_unknown_outcome_is_stopped_retried_answered_and_forked(runhold: Runhold, people: People) -> None:
    _, reviewer = people
    run = submit(runhold, "post")
    review = review_of(runhold, run)
    assert "--happened" in runhold("reviews", review, "--as", reviewer).err
    wrong = runhold("approve", review, "--as", reviewer)
    assert (wrong.status, wrong.err.count("\n")) == (1, 1)
    assert f"runhold answer {review[:8]} --happened" in wrong.err
    assert runhold("answer", review, "--as", reviewer).status == 2
    stopped = runhold("answer", review, "--stop", "-m", "let me look", "--as", reviewer)
    assert stopped.status == 0
    assert f"Stopped; run {run[:8]} ends." in stopped.err
    assert runhold("watch", run).status == 5

    assert "goes on after step 1" in runhold("retry", run).err
    review = review_of(runhold, run)
    assert letters.SENT == ["hello"]
    again = runhold("answer", review, "--again", "--as", reviewer)
    assert f"Answered; run {run[:8]} goes on." in again.err
    assert runhold("watch", run).status == 0
    assert letters.SENT == ["hello", "hello"]  # the second time because a person said so

    forked = runhold("fork", run, "--from", "2", "--watch", "--json")
    assert forked.status == 0
    assert forked.lines[-1]["result"] == {"text": "Done: posted"}
    assert letters.SENT == ["hello", "hello"]  # taken over, not done again
    fork = runhold("show", forked.lines[-1]["id"]).out
    assert f"{run}, before its step 2" in fork
    assert f"you forked it from run {run[:8]}" in fork
    assert "must be between 1 and 3" in runhold("fork", run, "--from", "9").err


@pytest.mark.usefixtures("worker")
def test_a_run_over_its_limit_goes_on_with_a_wider_one_and_gets_its_answer(
    runhold: Runhold, people: People
) -> None:
    run = submit(runhold, "ask", "--limits", '{"max_steps": 1}')
    review = review_of(runhold, run)
    asked = runhold("reviews", review)
    assert "Which colour?" in asked.out
    assert "runhold answer" in asked.err
    assert runhold("answer", review, "--happened", "--as", people[1]).status == 2  # it is a question
    assert runhold("answer", review, "Blue.", "--as", people[1]).status == 0
    assert runhold("watch", run).status == 5

    refused = runhold("retry", run)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "max_steps is used up" in refused.err
    assert runhold("retry", run, "--limit", "max_steps").status == 2
    assert runhold("retry", run, "--limit", "max_steps=1e16").status == 1
    retried = runhold("retry", run, "--limit", "max_steps=5", "--watch")
    assert retried.status == 0
    assert "Done: Blue." in retried.out
    assert '"max_steps": 5' in runhold("show", run).out


@pytest.mark.usefixtures("worker", "people")
def test_a_nudge_is_part_of_the_story(runhold: Runhold) -> None:
    run = submit(runhold, "circle")
    assert runhold("watch", run).status == 0
    assert "Runhold: You have called look with the same arguments" in runhold("show", run).out


@pytest.mark.usefixtures("worker", "people")
def test_the_kill_switch(runhold: Runhold, stack: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    [listed] = [row for row in runhold("agents", "--json").json if row["name"] == "letters"]
    assert (listed["enabled"], listed["description"]) == (True, "Writes letters, and sends them.")
    no_operator = runhold("agents", "disable", "letters")
    assert (no_operator.status, no_operator.err.count("\n")) == (3, 1)
    assert runhold("agents", "disable", "letters", "--service").status == 4

    waiting = submit(runhold, "say", "--in", "1h")
    monkeypatch.setenv("SUPABASE_SECRET_KEY", stack.secret_key)
    try:
        disabled = runhold("agents", "disable", "letters", "--fail-pending", "--service")
        assert disabled.status == 0
        assert "1 waiting run was ended" in disabled.err
        assert "disabled" in runhold("agents").out
        assert "AGENT_DISABLED" in runhold("list").out
        refused = runhold("submit", "letters", "-i", '{"do": "say"}')
        assert (refused.status, refused.err.count("\n")) == (1, 1)
    finally:
        assert runhold("agents", "enable", "letters", "--service").status == 0
    assert runhold("agents", "enable", "nothing", "--service").status == 1
    assert runhold("retry", waiting, "--watch").status == 0


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("retry", "abcdef"), 3, "no run"),
        (("retry", "00000000-0000-0000-0000-000000000000"), 3, "no such run"),
        (("fork", "xyz", "--from", "1"), 3, "no id"),
        (("send", "00000000-0000-0000-0000-000000000000", "x"), 3, "no such run"),
        (("answer", "abcdef", "x"), 3, "no review"),
        (("answer", "abcdef", "x", "--again"), 2, "unknown outcome"),
        (("answer", "abcdef", "--again", "--stop"), 2, "one of"),
        (("submit", "letters", "--at", "tomorrow"), 2, "no time"),
        (("submit", "letters", "--at", "2020-01-01"), 2, "passed"),
        (("submit", "letters", "--in", "soon"), 2, "no span"),
        (("submit", "letters", "--in", "1h", "--at", "2030-01-01"), 2, "either"),
    ],
)
def test_refusals_are_one_sentence_and_a_status(
    runhold: Runhold, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    said = runhold(*arguments)
    assert (said.status, said.out, said.err.count("\n")) == (status, "", 1), said.err
    assert sentence in said.err
