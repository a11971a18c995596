"""How rows look in a terminal. Data never becomes markup, and control characters never reach the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

SHORT_ID: Final = 8
"""Digits of a uuid that are shown to people; commands take them back."""

CODE_WIDTH: Final = 23
"""Columns of the longest code of an error that is seen often: codes are not broken in lists, 80 columns wide."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
STATUS_WORDS: Final = {"awaiting_review": "awaiting review"}
_HAPPENED: Final = {
    "finished": "In its last step had finished before:",
    "finished_after_request": "Finished after the request:",
    "cut_off": "Cut off, though what had begun may still finish:",
    "unknown": "Nobody knows whether it happened:",
}


def members(value: Any) -> dict[str, Any]:
    """A JSON object's members; none of anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def plain(text: object) -> str:
    """Somebody else's text without what a terminal would obey."""
    return _CONTROL.sub("�", str(text).replace("\r\n", "\n").replace("\t", "    "))


def short(identifier: object) -> str:
    return str(identifier)[:SHORT_ID]


def detail_text(detail: Any) -> str:
    """Why a run failed: the message of ``error_detail`` if it has one, else all of it."""
    return plain(members(detail).get("message") or one_line(detail, 500))


def status_text(status: str) -> Text:
    return Text(STATUS_WORDS.get(status, status), style=status)


def one_line(value: Any, width: int = 100) -> str:
    """A JSON value on one line, cut with an ellipsis; ``{}`` says nothing and becomes empty."""
    if value in (None, {}):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(plain(text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def arguments_text(arguments: Any, width: int = 100) -> str:
    """A call's arguments as a reader of code would write them: ``to="a@b.c", subject="…"``."""
    if not isinstance(arguments, Mapping):
        return one_line(arguments, width)
    named = cast("Mapping[str, Any]", arguments)
    return one_line(
        ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in named.items()), width
    )


def seconds(milliseconds: float | None) -> str:
    """A duration for people: 12 ms, 3.4 s, 5 min 2 s, 3 h 20 min, 2 d 4 h."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    total = milliseconds / 1000
    if total < 60:
        return f"{total:.1f} s"
    whole = int(total)
    for unit, size, smaller, divisor in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // divisor
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def clock(text: str) -> str:
    """The time of day, here, to the tenth of a second."""
    at = datetime.fromisoformat(text).astimezone()
    return at.strftime("%H:%M:%S.") + str(at.microsecond // 100_000)


def day_and_clock(text: str) -> str:
    """A date and time, here, to the minute."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def soon(text: str) -> str:
    """The same, without the day if that is today."""
    at = datetime.fromisoformat(text).astimezone()
    return at.strftime("%H:%M") if at.date() == datetime.now().astimezone().date() else day_and_clock(text)


def ago(text: str | None) -> str:
    at = moment(text)
    if at is None:
        return "–"
    passed = max(0, int((datetime.now(UTC) - at).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= size:
            return f"{passed // size} {unit} ago"
    return f"{passed} s ago"


def counted(number: int, what: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def money(usd: Any) -> str:
    amount = float(usd or 0)
    return "–" if not amount else f"${amount:.4f}" if amount < 1 else f"${amount:,.2f}"


def runs_table(rows: Sequence[Row], *, full_ids: bool) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    costs = any(float(row["cost_usd"] or 0) for row in rows)
    table.add_column("run", no_wrap=True)
    table.add_column("agent", overflow="fold", min_width=7)
    table.add_column("status", overflow="fold", min_width=CODE_WIDTH)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    if costs:
        table.add_column("cost", justify="right", no_wrap=True)
    table.add_column("started", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["id"]) if full_ids else short(row["id"]),
            Text(plain(row["agent_type"])),
            standing(row),
            str(row["step_count"]),
            f"{row['token_count']:,}",
            *([money(row["cost_usd"])] if costs else []),
            ago(row["created_at"]),
        )
    return table


def standing(row: Row) -> Text:
    """How a run stands: its status, why it failed, until when it waits."""
    status = status_text(row["status"])
    if row.get("error"):
        status.append(f" {plain(row['error'])}", style="red")
    if row["status"] == "pending" and row.get("wake_at"):
        status.append(f" until {soon(row['wake_at'])}")
    if row["status"] == "running" and row.get("cancel_requested_at"):
        status.append(" (cancel requested)", style="yellow")
    return status


def agents_table(rows: Sequence[Row]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("agent", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what it does", overflow="fold", ratio=1)
    for row in rows:
        state = Text("enabled", style="green") if row["enabled"] else Text("disabled", style="bold red")
        table.add_row(Text(plain(row["name"])), state, Text(one_line(row["description"], 400)))
    return table


def reviews_table(rows: Sequence[Row], *, full_ids: bool) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("review", no_wrap=True)
    table.add_column("asked", no_wrap=True)
    table.add_column("agent", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    for row in rows:
        table.add_row(
            str(row["id"]) if full_ids else short(row["id"]),
            ago(row["requested_at"]),
            Text(plain(row["agent_type"])),
            status_text(row["status"]),
            review_line(row),
        )
    return table


def review_line(row: Row) -> Text:
    """What a review asks, on one line."""
    text = Text()
    if row["kind"] == "unknown_outcome":
        text.append("Did this happen? ", style="bold")
    if row["kind"] == "question":
        question = members(row.get("proposed_input")).get("question") or row["summary"]
        return text.append(one_line(question, 200))
    text.append(plain(row["tool_name"]), style="bold")
    return text.append(f"({arguments_text(row.get('proposed_input'), 160)})")


def fields(values: Mapping[str, Any], *, indent: int = 0) -> RenderableType:
    """Names and values in two columns; texts of several lines stay so."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, Text):
            shown: RenderableType = value
        else:
            shown = Text(
                plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).rstrip()
            )
        grid.add_row(plain(name), shown)
    return Padding(grid, (0, 0, 0, indent), expand=False)


def summary_says_more(row: Row) -> bool:
    """Whether a review's summary is more than the call that is shown anyway."""
    summary = str(row.get("summary") or "")
    return bool(summary) and not summary.startswith(f"{row.get('tool_name')}(")


def review_panel(row: Row) -> RenderableType:
    """A review with all that is proposed, to decide about."""
    proposed = members(row.get("proposed_input"))
    heading = Text.assemble((plain(row["agent_type"]), "bold"))
    if row["kind"] == "question" and proposed.get("question"):
        heading.append(" asks")
        parts: list[RenderableType] = [heading, Text(), Text(plain(proposed["question"]))]
        return Panel(Group(*parts), border_style="yellow", box=box.ROUNDED, padding=(1, 2))
    heading.append(" may have called " if row["kind"] == "unknown_outcome" else " wants to call ")
    heading.append(plain(row["tool_name"]), style="bold yellow")
    parts = [heading]
    if summary_says_more(row):
        parts += [Text(plain(row["summary"]), style="dim")]
    in_order = sorted(proposed.items(), key=lambda item: "\n" in str(item[1]))  # long texts last
    parts += [Text(), fields(dict(in_order))]
    return Panel(Group(*parts), border_style="yellow", box=box.ROUNDED, padding=(1, 2))


def run_header(run: Row, *, names: Mapping[str, str]) -> RenderableType:
    """What a run is and how it stands."""
    times = [f"{seconds(run['active_ms'])} active", f"{seconds(run['queued_ms'])} queued"]
    if run["review_ms"]:
        times.append(f"{seconds(run['review_ms'])} waiting for people")
    used = [
        counted(run["step_count"], "step"),
        counted(run["tool_call_count"], "tool call"),
        f"{run['token_count']:,} tokens",
    ]
    if float(run["cost_usd"] or 0):
        used.append(money(run["cost_usd"]))
    values: dict[str, Any] = {
        "run": str(run["id"]),
        "agent": run["agent_type"],
        "status": standing(run),
        "forked from": _source(run),
        "user": names.get(str(run["user_id"]), str(run["user_id"])),
        "input": one_line(run["input_data"], 400),
        "limits": one_line(run.get("limits")) or None,
        "used": ", ".join(used),
        "time": ", ".join(times),
        "detail": _why(run),
    }
    return fields(values)


def _source(run: Row) -> str | None:
    return (
        f"{run['forked_from']}, before its step {run['copied_steps'] + 1}" if run.get("forked_from") else None
    )


def _why(run: Row) -> Any:
    """What ``error_detail`` says, as a sentence where it has one."""
    detail = members(run.get("error_detail"))
    if run["status"] == "cancelled":
        return (cancel_reason(detail) + cancel_text(detail)).strip() or None
    if detail.get("message"):
        rest = {name: value for name, value in detail.items() if name not in ("message", "step")}
        return f"{plain(detail['message'])} {one_line(rest, 300)}".rstrip()
    return run.get("error_detail")


def cancel_reason(detail: Row) -> str:
    return f"“{one_line(detail['reason'], 300)}”" if detail.get("reason") else ""


def cancel_text(detail: Any) -> str:
    """What had happened when a run was cancelled: sentences, each with a space before it; empty if nothing had."""
    known = members(detail)
    text = ""
    for name, words in _HAPPENED.items():
        tools: Any = known.get(name)
        if isinstance(tools, list) and tools:
            text += f" {words} {', '.join(plain(tool) for tool in cast('list[object]', tools))}."
    if known.get("result") is not None:
        text += " Its answer came after the request; error_detail keeps it."
    return text


def result_panel(run: Row) -> RenderableType:
    """What a completed run ended with."""
    result = run["result"]
    shown = (
        fields(cast("Mapping[str, Any]", result))
        if isinstance(result, Mapping)
        else Text(one_line(result, 4000))
    )
    return Panel(
        shown, title="result", title_align="left", border_style="green", box=box.ROUNDED, padding=(0, 2)
    )
