"""A run's timeline as lines for people, told as it happens or afterwards.

What ``agent_timeline`` answers is read again and again while the run lives; each line is told once, when what it says
is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from rich.text import Text

from runhold.cli.render import (
    Row,
    arguments_text,
    cancel_text,
    clock,
    members,
    one_line,
    plain,
    seconds,
    short,
    summary_says_more,
)

_INDENT: Final = " " * 12
_OURS: Final = "[Runhold]"
"""How what the loop says to the model begins (``runhold.loop.think``)."""

_AFTER_CALLS: Final = 1_000_000

_MARKS: Final = {
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "rejected": ("✗", "red"),
    "unknown": ("?", "bold red"),
    "awaiting_review": ("⏸", "bold yellow"),
}

_EVENTS: Final = {
    "submitted": "inserted the run",
    "claimed": "claimed it",
    "paused": "put it aside until a person decides",
    "requeued": "gave it back to the queue",
    "resumed": "the run is back in the queue",
    "retried": "took it up again",
    "forked": "forked it",
    "cancel_requested": "asked to cancel it",
    "completed": "completed it",
    "failed": "ended it: failed",
    "cancelled": "cancelled it",
    "review_requested": "asked for a decision",
    "review_approved": "approved",
    "review_rejected": "rejected",
    "review_expired": "nobody decided in time",
    "review_cancelled": "closed the question",
}

_REASONS: Final = {
    "shutdown": "its worker shuts down",
    "missing_tool": "its worker lacks a tool that the run needs",
    "missing_key": "its worker lacks the key of the run's redacted fields",
    "model_outage": "the model's provider gives no answer",
    "user_access": "its worker can't act as the run's user",
    "lease_ending": "its worker was about to lose its lease",
    "lease_lost": "its worker had lost its lease",
    "agent_disabled": "an operator disabled its agent",
    "budget": "a budget has no room for it",
    "its record can't be read": "its worker can't read its record",
}

_WITHOUT_ACTOR: Final = ("review_expired", "resumed")

_HOW_CLAIMED: Final = {
    "push": ", woken by Realtime",
    "poll": ", found by polling",
    "start": ", found when it started",
    "due": ", when it was due",
    "slot": ", when it had a free slot",
}

_EVENT_STYLES: Final = {
    "completed": "bold green",
    "failed": "bold red",
    "cancelled": "dim",
    "review_requested": "yellow",
    "paused": "yellow",
    "review_approved": "green",
    "review_rejected": "red",
}


class Story:
    """Tells one run.

    :ivar told: how many lines so far.
    """

    def __init__(self, names: Mapping[str, str], *, width: int, claims: Sequence[str] = ()) -> None:
        """
        :param names: who people are, by user id.
        :param width: columns of the terminal.
        :param claims: how the worker came to look, claim by claim, where that is known; it may grow.
        """
        self._names = names
        self._width = max(60, width)
        self._claims = claims
        self._claimed = 0
        self._seen: set[str] = set()
        self.told = 0

    def more(self, timeline: Sequence[Row]) -> list[Text]:
        """The lines that were not told yet."""
        lines: list[Text] = []
        for key, tell in self._moments(timeline):
            if key not in self._seen:
                self._seen.add(key)
                lines += tell()
        self.told += len(lines)
        return lines

    # -------------------------------------------------------------------------------------------- details

    def _moments(self, timeline: Sequence[Row]) -> Iterator[tuple[str, Callable[[], list[Text]]]]:
        """What is settled, in order: a key that is told once, and how to tell it."""
        gated = {
            item["tool_call_id"]: item for item in reversed(timeline) if item["kind"] == "review"
        }  # the first one
        found: list[tuple[datetime, int, str, Callable[[], list[Text]]]] = []

        def add(at: str, rank: int, key: str, tell: Callable[[], list[Text]]) -> None:
            found.append((datetime.fromisoformat(at), rank, key, tell))

        # Of what has the same time (one transaction) the step comes first, then its calls, then what followed.
        for item in timeline:
            match item["kind"]:
                case "step":
                    add(item["at"], 0, f"step {item['step_number']}", partial(self._step, item))
                case "tool_call":
                    number = 1 + item["position"]
                    if item["id"] in gated:
                        proposed = gated[item["id"]]["proposed_input"]
                        question = {
                            **item,
                            "status": "awaiting_review",
                            "tool_input": proposed,
                            "latency_ms": None,
                        }
                        add(
                            item["at"],
                            number,
                            f"asked {item['id']}",
                            partial(self._call, question, again=False),
                        )
                        if item["status"] in ("succeeded", "failed", "unknown"):
                            key = f"call {item['id']} {item['status']} {item['attempt']}"
                            add(
                                item["finished_at"] or item["at"],
                                number,
                                key,
                                partial(self._call, item, again=True),
                            )
                    elif item["status"] in _MARKS:
                        key = f"call {item['id']} {item['status']} {item['attempt']}"
                        add(item["at"], number, key, partial(self._call, item, again=False))
                case "event":
                    key = f"event {item['at']} {item['event']} {item.get('data')}"
                    add(item["at"], _AFTER_CALLS, key, partial(self._event, item, timeline))
                case "message":
                    add(item["at"], _AFTER_CALLS, f"message {item['id']}", partial(self._message, item))
                case _:
                    pass  # reviews are told with their events
        for _, _, key, tell in sorted(found, key=lambda moment: moment[:2]):
            yield key, tell

    def _event(self, item: Row, timeline: Sequence[Row]) -> list[Text]:
        event, data = str(item["event"]), members(item.get("data"))
        words = _EVENTS.get(event, event.replace("_", " "))
        line = self._line(item["at"])
        who = self._actor(item)
        style = _EVENT_STYLES.get(event, "")
        if event in _WITHOUT_ACTOR:
            line.append(words, style="red" if event == "review_expired" else "dim")
        else:
            line.append(who, style="actor").append(f" {words}", style=style)
        if event == "claimed":
            line.append(self._how_claimed(), style="dim")
        if data.get("attempt", 1) > 1:
            line.append(f" (attempt {data['attempt']})", style="yellow")
        if data.get("tool_name"):
            line.append(
                f" {'about' if event == 'review_requested' else ''}".rstrip() + f" {plain(data['tool_name'])}"
            )
        if data.get("edited"):
            line.append(", with changes", style="yellow")
        if event == "forked" and data.get("from"):
            line.append(
                f" from run {short(data['from'])}, to be decided anew from step {data.get('from_step')} on"
            )
        if data.get("wake_at"):
            line.append(f", until {clock(data['wake_at'])[:-2]}", style="dim")
        for name in ("reason", "error", "comment"):
            if data.get(name):
                words = _REASONS.get(str(data[name])) if event == "requeued" else None
                line.append(f": {words or one_line(data[name], 200)}")
        if data.get("releases"):
            line.append(
                f" (given back {data['releases']} times since {clock(data['waiting_since'])[:-2]})",
                style="yellow",
            )
        if data.get("limits"):
            line.append(f", with limits {one_line(data['limits'], 100)}", style="yellow")
        lines = [line]
        if event == "cancelled" and (happened := cancel_text(data.get("detail"))):
            lines.append(self._below(happened.strip(), "yellow"))
        if event in ("review_approved", "review_requested"):
            lines += self._review_lines(event, data, timeline)
        return lines

    def _how_claimed(self) -> str:
        known = self._claims[self._claimed] if self._claimed < len(self._claims) else ""
        self._claimed += 1
        return _HOW_CLAIMED.get(known, "")

    def _review_lines(self, event: str, data: Row, timeline: Sequence[Row]) -> list[Text]:
        review = next(
            (i for i in timeline if i["kind"] == "review" and i["id"] == data.get("review_id")), None
        )
        if review is None:
            return []
        if event == "review_requested":
            return [self._below(plain(review["summary"]), "dim")] if summary_says_more(review) else []
        proposed, edited = members(review.get("proposed_input")), members(review.get("edited_input"))
        changed = {name: value for name, value in edited.items() if proposed.get(name, ...) != value}
        return [self._below(f"now {arguments_text(changed, self._room - 4)}", "yellow")] if changed else []

    def _step(self, item: Row) -> list[Text]:
        message: Mapping[str, Any] = item["message"]
        tokens = item["input_tokens"] + item["output_tokens"]
        line = self._line(item["at"]).append(f"step {item['step_number']}", style="bold cyan")
        details = [f"{tokens:,} tokens" + (" (estimated)" if item["usage_estimated"] else "")]
        if item.get("latency_ms") is not None:
            details.append(seconds(item["latency_ms"]))
        line.append(f"  {', '.join(details)}", style="dim")
        lines = [line, *self._added(item)]
        content = message.get("content") or message.get("refusal")
        if content and message.get("tool_calls"):
            lines.append(self._below(f"“{one_line(content, self._room - 2)}”", "italic"))
        elif content:
            lines.append(self._below("the final answer", "italic"))
        return lines

    def _added(self, item: Row) -> list[Text]:
        """What Runhold told the model before the step: nudges and corrections. What people said is told as such."""
        said = [str(members(message).get("content")) for message in item.get("injected") or ()]
        nudges = [text.removeprefix(_OURS).strip() for text in said if text.startswith(_OURS)]
        return [self._below(f"Runhold: {one_line(text, self._room - 9)}", "yellow") for text in nudges]

    def _call(self, call: Row, *, again: bool) -> list[Text]:
        mark, style = _MARKS[call["status"]]
        line = Text(f"{_INDENT}").append(f"{mark} ", style=style)
        line.append(plain(call["tool_name"]), style="bold")
        if not again:
            line.append(f"({arguments_text(call['tool_input'], self._room - len(call['tool_name']) - 12)})")
        elif call.get("edited"):
            line.append(" ran as the reviewer changed it")
        elif call["status"] == "succeeded":
            line.append(" ran, exactly as approved")
        if call.get("latency_ms") is not None:
            line.append(f"  {seconds(call['latency_ms'])}", style="dim")
        lines = [line]
        if call["status"] == "succeeded":
            if shown := one_line(call.get("tool_output"), self._room - 4):
                lines.append(Text(f"{_INDENT}  ").append(f"→ {shown}", style="dim"))
        elif call.get("error"):
            lines.append(Text(f"{_INDENT}  ").append(one_line(call["error"], self._room * 2), style="red"))
        return lines

    def _message(self, item: Row) -> list[Text]:
        who = self._names.get(str(item.get("sender_id")), "somebody")
        line = self._line(item["at"]).append(who, style="actor").append(" said: ")
        return [line.append(one_line(item["content"], 300))]

    def _line(self, at: str) -> Text:
        return Text(f"{clock(at)}  ", style="dim").append("", style="none")

    def _below(self, text: str, style: str) -> Text:
        return Text(_INDENT).append(text, style=style)

    @property
    def _room(self) -> int:
        return self._width - len(_INDENT)

    def _actor(self, item: Row) -> str:
        identifier = str(item.get("actor_id") or "")
        if identifier in self._names:
            return self._names[identifier]
        match item["actor_kind"]:
            case "worker":
                return f"worker {short(identifier)}"
            case "user" | "reviewer" as kind:
                return f"{kind} {short(identifier)}"
            case _:
                return "the database"
