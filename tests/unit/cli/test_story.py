"""A timeline told once, in order, whether it is read as it grows or at the end."""

from __future__ import annotations

from typing import Any

from runhold.cli.render import plain, review_panel, seconds
from runhold.cli.story import Story

USER, REVIEWER, WORKER = (f"{digit}0000000-0000-0000-0000-000000000000" for digit in "123")


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
