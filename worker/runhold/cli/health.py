"""How agents are doing, as people read it: the answer of ``agent_health_metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runhold.cli.render import STATUS_WORDS, Row, day_and_clock, fields, members, money, plain, seconds


def health_view(metrics: Row) -> RenderableType:
    """The answer of ``agent_health_metrics``."""
    if not metrics["runs"]:
        since = day_and_clock(metrics["since"])
        return Text(f"No runs of {plain(metrics['agent_type'] or 'any agent')} since {since}.")
    steps, tools, reviews = members(metrics["steps"]), members(metrics["tools"]), members(metrics["reviews"])
    cost, times, queue = members(metrics["cost"]), members(metrics["time_ms"]), members(metrics["queue"])
    statuses = members(metrics["runs_by_status"])
    by_status = ", ".join(
        f"{count} {STATUS_WORDS.get(name, name)}" for name, count in sorted(statuses.items())
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
        "waiting for": ", ".join(f"{what}: {n}" for what, n in sorted(members(queue.get("waiting")).items()))
        or None,
        "failures": ", ".join(
            f"{n} {code}" for code, n in sorted(members(metrics["failures_by_code"]).items())
        )
        or None,
    }
    name = metrics["agent_type"] or "all agents"
    heading = Text.assemble((plain(name), "bold"), f", since {day_and_clock(metrics['since'])}")
    by_tool = members(tools.get("by_tool"))
    return Group(heading, Text(), fields(values), *([_tools_table(by_tool)] if by_tool else []))


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
