"""A timeline told once, in order, whether it is read as it grows or at the end."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from runhold.cli.output import THEME
from runhold.cli.render import plain, review_panel, runs_table, seconds
from runhold.cli.story import Story

USER, REVIEWER, WORKER, RUN = (f"{digit}0000000-0000-0000-0000-000000000000" for digit in "1234")


def at(second: float) -> str:
    return f"2026-01-31T12:00:{second:06.3f}+00:00"


def event(second: float, name: str, actor: str, kind: str, **data: Any) -> dict[str, Any]:
    return {
        "at": at(second),
        "kind": "event",
        "event": name,
        "actor_kind": kind,
        "actor_id": actor,
        "data": data or None,
    }


def call(status: str, *, finished: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "at": at(3), "kind": "tool_call", "id": "c1", "step_number": 1, "position": 0, "tool_name": "send_email",
        "tool_input": {"to": "ada@example.com", "body": "Hi"}, "tool_output": "sent" if status == "succeeded" else None, "status": status,
        "error": None, "edited": False, "attempt": 1, "latency_ms": 5 if finished else None,
        "finished_at": at(finished) if finished else None,
    } | more  # fmt: skip


def step(number: int, second: float, **message: Any) -> dict[str, Any]:
    return {
        "at": at(second), "kind": "step", "step_number": number, "message": {"content": None, **message},
        "input_tokens": 100, "output_tokens": 20, "usage_estimated": False, "latency_ms": 900,
    }  # fmt: skip


def review(**more: Any) -> dict[str, Any]:
    return {
        "at": at(3), "kind": "review", "id": "r1", "tool_call_id": "c1", "review_kind": "approval", "tool_name": "send_email",
        "summary": "", "proposed_input": {"to": "ada@example.com", "body": "Hi"}, "edited_input": None,
    } | more  # fmt: skip


PAUSED = [
    event(1, "submitted", USER, "user"),
    event(2, "claimed", WORKER, "worker", attempt=1),
    step(1, 3, tool_calls=[{"id": "x"}]),
    call("awaiting_review"),
    review(),
    event(3, "review_requested", WORKER, "worker", review_id="r1", tool_name="send_email"),
    event(3, "paused", WORKER, "worker"),
]
ENDED = [
    *PAUSED[:3],
    call("succeeded", finished=6, edited=True, tool_input={"to": "grace@example.com", "body": "Hi"}),
    review(edited_input={"to": "grace@example.com", "body": "Hi"}),
    *PAUSED[5:],
    event(
        4,
        "review_approved",
        REVIEWER,
        "reviewer",
        review_id="r1",
        tool_name="send_email",
        edited=True,
        comment="ok",
    ),
    event(4, "resumed", REVIEWER, "reviewer"),
    event(5, "claimed", WORKER, "worker", attempt=1),
    step(2, 7, content="done"),
    event(8, "completed", WORKER, "worker"),
]


def told(story: Story, timeline: list[dict[str, Any]]) -> list[str]:
    return [line.plain for line in story.more(timeline)]


def story(**options: Any) -> Story:
    return Story({USER: "ada", REVIEWER: "grace"}, width=100, **options)


def test_told_as_it_grows_or_at_the_end_it_is_the_same_story() -> None:
    live = story()
    lines = [
        *told(live, PAUSED[:2]),
        *told(live, PAUSED),
        *told(live, PAUSED),
        *told(live, ENDED),
        *told(live, ENDED),
    ]
    afterwards = told(story(), ENDED)
    assert sorted(lines) == sorted(afterwards)
    assert live.told == len(afterwards)
    assert afterwards == lines


def test_the_gate_is_told_from_the_question_to_the_effect() -> None:
    lines = told(story(claims=["push", "poll"]), ENDED)
    order = [
        "ada inserted the run", "worker 30000000 claimed it, woken by Realtime", "step 1", '⏸ send_email(to="ada@example.com", body="Hi")',
        "asked for a decision about send_email", "put it aside", "grace approved send_email, with changes: ok",
        'now to="grace@example.com"', "back in the queue", "found by polling", "✓ send_email ran as the reviewer changed it",
        "→ sent", "step 2", "the final answer", "completed it",
    ]  # fmt: skip
    assert len(lines) == len(order)
    for line, part in zip(lines, order, strict=True):
        assert part in line


def test_a_call_that_is_not_settled_is_not_told() -> None:
    timeline = [step(1, 3, tool_calls=[{"id": "x"}]), call("running")]
    live = story()
    assert len(told(live, timeline)) == 1
    [line] = told(live, [timeline[0], call("failed", finished=4, error="no door")])[:1]
    assert "✗ send_email" in line


def test_what_others_wrote_can_not_drive_the_terminal() -> None:
    nasty = "a\x1b[2Jb\u202ec\x00"
    assert plain(nasty) == "a�[2Jb�c�"
    lines = told(
        story(),
        [
            step(1, 3, content=nasty, tool_calls=[{"id": "x"}]),
            call("succeeded", finished=4, tool_output=nasty),
        ],
    )
    assert not any(character in "".join(lines) for character in "\x1b\u202e\x00")
    review_panel(
        {
            "kind": "approval",
            "agent_type": "[red]x",
            "tool_name": nasty,
            "proposed_input": {"a": nasty},
            "summary": "",
        }
    )


def test_what_runhold_told_the_model_and_where_a_run_comes_from_are_told() -> None:
    said = [
        {"role": "user", "content": "[Runhold] Stop calling it."},
        {"role": "user", "content": "what a person said"},
    ]
    lines = told(
        story(),
        [
            event(1, "forked", USER, "user", **{"from": RUN, "from_step": 3}),
            {**step(3, 2, content="done"), "injected": said},
            event(4, "requeued", WORKER, "worker", reason="model_outage", wake_at=at(9)),
            event(5, "retried", USER, "user", limits={"max_steps": 50}),
            event(
                6,
                "cancelled",
                WORKER,
                "worker",
                detail={"finished": ["look"], "cut_off": ["save"], "unknown": ["send"]},
            ),
        ],
    )
    parts = [
        "ada forked it from run 40000000, to be decided anew from step 3 on", "step 3", "Runhold: Stop calling it.", "the final answer",
        "the model's provider gives no answer", 'ada took it up again, with limits {"max_steps": 50}', "cancelled it",
        "In its last step had finished before: look. Cut off, though what had begun may still finish: save. Nobody knows whether it happened: send.",
    ]  # fmt: skip
    assert len(lines) == len(parts), lines
    for line, part in zip(lines, parts, strict=True):
        assert part in line


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_of_runs_breaks_no_word_on_any_terminal(width: int) -> None:
    row = {
        "id": RUN, "agent_type": "letters", "status": "pending", "error": None, "step_count": 3, "token_count": 45_000,
        "cost_usd": 0.0123, "created_at": "2026-01-01T00:00:00+00:00", "wake_at": "2031-01-01T00:00:00+00:00",
    }  # fmt: skip
    failed = {**row, "status": "failed", "error": "MAX_TOOL_CALLS_EXCEEDED", "wake_at": None}
    console = Console(width=width, file=io.StringIO(), theme=THEME)
    console.print(runs_table([row, failed], full_ids=False))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    for word in (
        "40000000",
        "letters",
        "pending",
        "until",
        "2031-01-01",
        "MAX_TOOL_CALLS_EXCEEDED",
        "45,000",
        "d ago",
    ):
        assert word in shown, shown


def test_durations_read_well() -> None:
    spans = {
        12: "12 ms",
        3_400: "3.4 s",
        302_000: "5 min 2 s",
        12_000_000: "3 h 20 min",
        187_200_000: "2 d 4 h",
        None: "–",
    }
    assert {ms: seconds(ms) for ms in spans} == spans


def test_a_run_that_is_given_back_again_and_again_is_told_with_a_count() -> None:
    again = event(
        1,
        "requeued",
        WORKER,
        "worker",
        reason="missing_tool",
        wake_at=at(9),
        releases=12,
        waiting_since=at(1),
    )
    (line,) = told(story(), [again])
    assert "lacks a tool that the run needs (given back 12 times since" in line
