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

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STATUS_WORDS: Final = {"awaiting_review": "awaiting review"}


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
    return Text(_STATUS_WORDS.get(status, status), style=status)


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


def ago(text: str | None) -> str:
    at = moment(text)
    return "–" if at is None else f"{seconds(max(0.0, (datetime.now(UTC) - at).total_seconds() * 1000))} ago"


def money(usd: Any) -> str:
    amount = float(usd or 0)
    return "–" if not amount else f"${amount:.4f}" if amount < 1 else f"${amount:,.2f}"


def runs_table(rows: Sequence[Row], *, full_ids: bool) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("agent", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("steps", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("cost", justify="right")
    table.add_column("started", no_wrap=True)
    for row in rows:
        status = status_text(row["status"])
        if row.get("error"):
            status.append(f" {plain(row['error'])}", style="red")
        table.add_row(
            str(row["id"]) if full_ids else short(row["id"]),
            Text(plain(row["agent_type"])),
            status,
            str(row["step_count"]),
            f"{row['token_count']:,}",
            money(row["cost_usd"]),
            ago(row["created_at"]),
        )
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
    title = {"approval": "wants to call", "unknown_outcome": "may have called", "question": "asks"}[
        row["kind"]
    ]
    heading = Text.assemble(
        (plain(row["agent_type"]), "bold"), f" {title} ", (plain(row["tool_name"]), "bold yellow")
    )
    parts: list[RenderableType] = [heading]
    if summary_says_more(row):
        parts += [Text(plain(row["summary"]), style="dim")]
    in_order = sorted(proposed.items(), key=lambda item: "\n" in str(item[1]))  # long texts last
    parts += [Text(), fields(dict(in_order))]
    return Panel(Group(*parts), border_style="yellow", box=box.ROUNDED, padding=(1, 2))


def run_header(run: Row, *, names: Mapping[str, str]) -> RenderableType:
    """What a run is and how it stands."""
    status = status_text(run["status"])
    if run.get("error"):
        status.append(f": {plain(run['error'])}", style="bold red")
    if run.get("cancel_requested_at") and run["status"] == "running":
        status.append(" (cancel requested)", style="yellow")
    times = [f"{seconds(run['active_ms'])} active", f"{seconds(run['queued_ms'])} queued"]
    if run["review_ms"]:
        times.append(f"{seconds(run['review_ms'])} waiting for people")
    used = [
        f"{run['step_count']} steps",
        f"{run['tool_call_count']} tool calls",
        f"{run['token_count']:,} tokens",
    ]
    if float(run["cost_usd"] or 0):
        used.append(money(run["cost_usd"]))
    values: dict[str, Any] = {
        "run": str(run["id"]),
        "agent": run["agent_type"],
        "status": status,
        "user": names.get(str(run["user_id"]), str(run["user_id"])),
        "input": one_line(run["input_data"], 400),
        "used": ", ".join(used),
        "time": ", ".join(times),
        "detail": run.get("error_detail"),
    }
    return fields(values)


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


def health_view(metrics: Row) -> RenderableType:
    """The answer of ``agent_health_metrics``."""
    if not metrics["runs"]:
        since = clock_and_day(metrics["since"])
        return Text(f"No runs of {plain(metrics['agent_type'] or 'any agent')} since {since}.")
    steps, tools, reviews = members(metrics["steps"]), members(metrics["tools"]), members(metrics["reviews"])
    cost, times, queue = members(metrics["cost"]), members(metrics["time_ms"]), members(metrics["queue"])
    statuses = members(metrics["runs_by_status"])
    by_status = ", ".join(
        f"{count} {_STATUS_WORDS.get(name, name)}" for name, count in sorted(statuses.items())
    )
    values: dict[str, Any] = {
        "runs": f"{metrics['runs']}" + (f" ({by_status})" if by_status else ""),
        "completion rate": _rate(metrics["completion_rate"]),
        "steps": f"{_number(steps.get('avg'))} on average, half within {_number(steps.get('p50'))}, 95 % within "
        f"{_number(steps.get('p95'))}; {_rate(steps.get('efficiency'))} of the limit",
        "tool calls": f"{tools.get('calls', 0)}, {_rate(tools.get('success_rate'))} succeeded",
        "reviews": f"{_rate(reviews.get('rate'))} of runs; half decided within {seconds(reviews.get('wait_ms_p50'))}",
        "decisions": ", ".join(
            f"{n} {name}" for name, n in sorted(members(reviews.get("by_outcome")).items())
        )
        or None,
        "tokens": f"{cost.get('tokens', 0):,}; {_number(cost.get('tokens_per_completion'))} per completed run",
        "cost": f"{money(cost.get('usd'))}; {money(cost.get('usd_per_completion'))} per completed run",
        "time": f"half done within {seconds(times.get('wall_p50'))} ({seconds(times.get('active_p50'))} active, "
        f"{seconds(times.get('queued_p50'))} queued), 95 % within {seconds(times.get('wall_p95'))}",
        "queue": f"{queue.get('depth', 0)} pending, {queue.get('awaiting_review', 0)} waiting for people, "
        f"{queue.get('stuck', 0)} stuck",
        "failures": ", ".join(
            f"{n} {code}" for code, n in sorted(members(metrics["failures_by_code"]).items())
        )
        or None,
    }
    name = metrics["agent_type"] or "all agents"
    heading = Text.assemble((plain(name), "bold"), f", since {clock_and_day(metrics['since'])}")
    by_tool = members(tools.get("by_tool"))
    return Group(heading, Text(), fields(values), *([_tools_table(by_tool)] if by_tool else []))


def clock_and_day(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def _tools_table(by_tool: Mapping[str, Row]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tool", "calls", "succeeded", "median", "95 %"):
        table.add_column(name, justify="left" if name == "tool" else "right", no_wrap=name != "tool")
    for name, row in sorted(by_tool.items()):
        table.add_row(
            Text(plain(name)),
            str(row["calls"]),
            _rate(row["success_rate"]),
            seconds(row["latency_ms_p50"]),
            seconds(row["latency_ms_p95"]),
        )
    return table


def _rate(value: Any) -> str:
    return "–" if value is None else f"{float(value) * 100:.1f} %"


def _number(value: Any) -> str:
    return "–" if value is None else f"{float(value):,.1f}".removesuffix(".0")
